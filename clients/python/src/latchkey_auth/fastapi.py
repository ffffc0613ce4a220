"""The guard for FastAPI, as a dependency of routes, routers or applications."""

from typing import TYPE_CHECKING, Any

import grpc.aio
from fastapi import HTTPException, Response, WebSocket
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from latchkey_auth.asgi import SCOPE_KEY, deny, describe, header
from latchkey_auth.denial import Denial
from latchkey_auth.http import AioChecker, HttpOptions
from latchkey_auth.identity import Identity

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_HANDLERS = "starlette.exception_handlers"


class Denied(HTTPException):
    """The request was denied. The application answers it without further code."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.http_status, detail=denial.fields, headers=denial.headers)
        self.denial = denial


async def denied(connection: HTTPConnection, error: Any) -> Response:
    """Answers a denied request."""
    denial: Denial = error.denial
    if isinstance(connection, WebSocket):
        await deny(denial, connection.scope, connection.receive, connection.send)
    return Response(denial.body, denial.http_status, denial.headers)


class Guard(SecurityBase):
    """Accepts only requests whose token has a live session, and returns the identity of the caller.

    Use it as ``Depends(guard)`` of a handler with a parameter, or in ``dependencies`` of a router or an application. A
    WebSocket is checked when it begins. The documentation of the API shows that the route needs a token.

    :param latchkey: the address of Latchkey, without TLS, or a channel, see :func:`latchkey_auth.aio.channel`.

    The options are those of :class:`latchkey_auth.http.HttpRules`. Routes without the guard are open.
    """

    def __init__(self, latchkey: str | grpc.aio.Channel, **options: "Unpack[HttpOptions]") -> None:
        if options.get("open_paths"):
            raise TypeError("open_paths is an option of the middleware: a route without the guard is open")
        self._checker = AioChecker(latchkey, **options)
        self._role: str | None = None
        self._slot: str | None = None
        self.model = HTTPBearer(bearerFormat="JWT", description="An access token of Latchkey.")
        self.scheme_name = "Latchkey"

    def required(self, *, role: str | None = None, slot: str | None = None) -> "Guard":
        """Returns a guard, with the same channel, that also requires this role or slot."""
        guard = Guard.__new__(type(self))
        guard.__dict__.update(self.__dict__)
        guard._role, guard._slot = role or self._role, slot or self._slot
        return guard

    # Older versions of FastAPI do not resolve annotations that are text, such as those of `from __future__`.
    async def __call__(self, connection: HTTPConnection) -> Identity:
        scope = connection.scope
        try:
            who = await self._checker.check(
                describe(scope), header(scope, b"authorization"), header(scope, b"cookie"), self._role, self._slot
            )
        except Denial as why:
            # The handlers of this application, which Starlette looks up when an error has been raised.
            if _HANDLERS in scope:
                scope[_HANDLERS][0].setdefault(Denied, denied)
            raise Denied(why) from None
        scope[SCOPE_KEY] = who
        return who

    async def close(self) -> None:
        """Closes the channel, if the guard was given an address."""
        await self._checker.close()

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
