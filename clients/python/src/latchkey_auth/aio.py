"""The guard and the client for ``grpc.aio``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from latchkey_auth.aio_channel import channel, opened
from latchkey_auth.aio_client import Client
from latchkey_auth.aio_stream import watched
from latchkey_auth.denial import Denial
from latchkey_auth.identity import Identity, current
from latchkey_auth.news import News, NoPlace, Places
from latchkey_auth.rules import Options, Rules, no_verdict
from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Client", "Guard", "channel"]


class Guard(grpc.aio.ServerInterceptor):
    """As :class:`latchkey_auth.Guard`, with the same options, for a ``grpc.aio.server``.

    When the session of a stream ends, the task of its handler is cancelled.
    """

    def __init__(self, latchkey: str | grpc.aio.Channel, **options: Unpack[Options]) -> None:
        self._rules = Rules(**options)
        made, self._own = opened(latchkey)
        self._stub = auth_pb2_grpc.AuthServiceStub(made)
        self._places = Places(self._rules.max_watches)

    async def close(self) -> None:
        """Closes the channel, if the guard was given an address."""
        if self._own is not None:
            await self._own.close()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method in self._rules.open_methods:
            return handler
        try:
            request = self._rules.request(handler_call_details.invocation_metadata)
            # The handler runs in the same context.
            current.set(await self._check(handler_call_details.method, request))
        except Denial as denial:
            return _deny(denial)
        if not self._rules.watch_streams or not (handler.request_streaming or handler.response_streaming):
            return handler
        return watched(handler, functools.partial(self._end, handler_call_details.method, request.token))

    async def _check(self, method: str, request: auth_pb2.ValidateRequest) -> Identity:
        try:
            return self._rules.admit(await self._validate(request))
        except Denial:
            raise
        except Exception as why:
            raise no_verdict(method, why) from why

    async def _validate(self, request: auth_pb2.ValidateRequest) -> auth_pb2.ValidateResponse:
        rules = self._rules
        return await self._stub.Validate(request, timeout=rules.timeout, metadata=rules.metadata())

    async def _end(self, method: str, token: str) -> Denial:
        """Waits until the session has ended, and returns the denial for its caller."""
        news = News(self._rules, method)
        question = self._rules.question(token, peek=True)
        try:
            while True:
                await self._watch(token, news)
                try:
                    wait = news.answered(await self._validate(question))
                except grpc.RpcError as why:
                    wait = news.silent(why)
                await asyncio.sleep(wait)
        except Denial as denial:
            return denial

    async def _watch(self, token: str, news: News) -> None:
        """Watches the session until the watch breaks."""
        watched = False
        request, rules = auth_pb2.WatchSessionRequest(token=token), self._rules
        try:
            with self._places:
                call = self._stub.WatchSession(request, timeout=news.watch_for(), metadata=rules.metadata())
                try:
                    async for message in call:
                        news.told(message)
                        watched = True
                finally:
                    # Without this, a cancellation while the call begins would leak it.
                    call.cancel()
        except (grpc.RpcError, NoPlace) as why:
            self._places.tell(why)
        news.broke(watched)


def _deny(denial: Denial) -> grpc.RpcMethodHandler:
    async def abort(_requests: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(denial.code, denial.message, denial.trailing_metadata)

    # For methods of any kind, because this kind does not wait for a request.
    return grpc.stream_stream_rpc_method_handler(abort)
