"""The guard for ASGI applications: Starlette, FastAPI and others. It needs no package but this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import grpc.aio

from latchkey_auth.denial import Denial
from latchkey_auth.http import AioChecker, HttpOptions
from latchkey_auth.identity import current

if TYPE_CHECKING:
    from typing_extensions import Unpack

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SCOPE_KEY = "latchkey"


class LatchkeyMiddleware:
    """Accepts only requests and WebSockets whose token has a live session.

    The application gets the identity of the caller as ``scope["latchkey"]`` and from :func:`latchkey_auth.identity`. A
    WebSocket is checked when it begins.

    :param latchkey: the address of Latchkey, without TLS, or a channel, see :func:`latchkey_auth.aio.channel`.

    The options are those of :class:`latchkey_auth.http.HttpRules`. ``open_paths`` are compared with ``scope["path"]``.
    """

    def __init__(self, app: App, latchkey: str | grpc.aio.Channel, **options: Unpack[HttpOptions]) -> None:
        self._app = app
        self._checker = AioChecker(latchkey, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._closing(send))
            return
        if scope["type"] not in ("http", "websocket"):
            # A kind of connection that has no token must not get past the guard.
            raise RuntimeError(f"latchkey_auth.asgi cannot guard a connection of the type {scope['type']!r}")
        who = None
        if not self._checker.rules.is_open(scope["path"]):
            try:
                who = await self._checker.check(describe(scope), header(scope, b"authorization"), header(scope, b"cookie"))
            except Denial as why:
                await deny(why, scope, receive, send)
                return
        # The application runs in the same context, and the server may use that again.
        token = current.set(who)
        try:
            await self._app({**scope, SCOPE_KEY: who}, receive, send)
        finally:
            current.reset(token)

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._checker.close()
            await send(message)

        return closing


def header(scope: Scope, name: bytes) -> list[str]:
    """Returns the values of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def describe(scope: Scope) -> str:
    """Names a request in the log."""
    return f"{scope.get('method', 'WebSocket')} {scope['path']}"


async def deny(why: Denial, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the answer to a denied request."""
    headers = [(name.encode(), value.encode()) for name, value in why.headers.items()]
    headers.append((b"content-length", str(len(why.body)).encode()))
    kind = "http"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            # Before the WebSocket was accepted, this is an answer with the status 403.
            await send({"type": "websocket.close", "code": 1008, "reason": why.reason})
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": why.http_status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": why.body})
