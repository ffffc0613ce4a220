"""Ends streams of a ``grpc.aio`` server when the session of their caller ends."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from latchkey_auth.denial import Denial
from latchkey_auth.handlers import KINDS

_Run = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


def watched(handler: grpc.RpcMethodHandler, end: Callable[[], Awaitable[Denial]]) -> grpc.RpcMethodHandler:
    """Returns a handler that runs until it returns, or until ``end`` returns because the session has ended."""
    kind, make = KINDS[handler.request_streaming, handler.response_streaming]
    run = _coroutine(getattr(handler, kind))
    if run is None:
        # A function that runs in a thread, which cannot be stopped.
        return handler

    async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
        running = asyncio.ensure_future(run(request, context))
        ending = asyncio.ensure_future(end())
        try:
            await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                denial = ending.result()
                running.cancel()
                # The client gets the status at once, even if the handler takes long to clean up.
                await context.abort(denial.code, denial.message, denial.trailing_metadata)
            return running.result()
        finally:
            running.cancel()
            ending.cancel()
            await asyncio.wait({running, ending})

    return make(guarded, handler.request_deserializer, handler.response_serializer)


def _coroutine(behavior: Any) -> _Run | None:
    """Returns the behavior of a handler as a coroutine."""
    if _is(inspect.iscoroutinefunction, behavior):
        return behavior
    if not _is(inspect.isasyncgenfunction, behavior):
        return None

    async def write(request: Any, context: grpc.aio.ServicerContext) -> None:
        answers: AsyncIterator[Any] = behavior(request, context)
        async with contextlib.aclosing(answers):  # type: ignore[type-var]
            async for answer in answers:
                await context.write(answer)

    return write


def _is(kind: Callable[[Any], bool], behavior: Any) -> bool:
    return kind(behavior) or kind(getattr(behavior, "__call__", None))  # noqa: B004
