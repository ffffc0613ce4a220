"""The guard for WSGI applications. It needs no package but this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import grpc

from latchkey_auth import bearer
from latchkey_auth.denial import Denial
from latchkey_auth.http import Checker, HttpOptions
from latchkey_auth.identity import current

if TYPE_CHECKING:
    from typing_extensions import Unpack

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

ENVIRON_KEY = "latchkey"


class LatchkeyMiddleware:
    """Accepts only requests whose token has a live session.

    The application gets the identity of the caller as ``environ["latchkey"]`` and, until it has returned, from
    :func:`latchkey_auth.identity`.

    :param latchkey: the address of Latchkey, without TLS, or a channel, see :func:`latchkey_auth.channel`.

    The options are those of :class:`latchkey_auth.http.HttpRules`. ``open_paths`` are compared with the whole path:
    ``SCRIPT_NAME`` and ``PATH_INFO``.
    """

    def __init__(self, app: App, latchkey: str | grpc.Channel, **options: Unpack[HttpOptions]) -> None:
        self._app = app
        self._checker = Checker(latchkey, **options)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = _path(environ)
        who = None
        if not self._checker.rules.is_open(path):
            try:
                who = self._checker.check(
                    f"{environ['REQUEST_METHOD']} {path}",
                    bearer.split(environ.get("HTTP_AUTHORIZATION")),
                    [environ.get("HTTP_COOKIE", "")],
                )
            except Denial as why:
                return deny(why, start_response)
        environ[ENVIRON_KEY] = who
        token = current.set(who)
        try:
            return self._app(environ, start_response)
        finally:
            current.reset(token)

    def close(self) -> None:
        """Closes the channel, if the guard was given an address."""
        self._checker.close()


def deny(why: Denial, start_response: Callable[..., Any]) -> list[bytes]:
    """Answers a denied request."""
    body = why.body
    headers = [*why.headers.items(), ("content-length", str(len(body)))]
    start_response(f"{why.http_status} {HTTPStatus(why.http_status).phrase}", headers)
    return [body]


def _path(environ: Environ) -> str:
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    # WSGI has the bytes of the path as latin-1. What is not text equals no open path.
    return path.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
