"""The guard for Flask, for single views, blueprints or applications."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from flask import Blueprint, Flask, Response, current_app, g, request

from latchkey_auth import bearer
from latchkey_auth.denial import Denial
from latchkey_auth.http import Checker, HttpOptions
from latchkey_auth.identity import current

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_View = TypeVar("_View", bound=Callable[..., Any])


class Guard:
    """Accepts only requests whose token has a live session.

    As a decorator, ``@guard`` below ``@app.route``, it guards one view. :meth:`init_app` guards all views of an
    application or a blueprint. The view gets the identity of the caller as ``flask.g.identity`` and from
    :func:`latchkey_auth.identity`.

    :param latchkey: the address of Latchkey, without TLS, or a channel, see :func:`latchkey_auth.channel`.

    The options are those of :class:`latchkey_auth.http.HttpRules`. ``open_paths`` are for :meth:`init_app`.
    """

    def __init__(self, latchkey: str | grpc.Channel, **options: Unpack[HttpOptions]) -> None:
        self._checker = Checker(latchkey, **options)
        self._role: str | None = None
        self._slot: str | None = None

    def required(self, *, role: str | None = None, slot: str | None = None) -> Guard:
        """Returns a guard, with the same channel, that also requires this role or slot."""
        guard = Guard.__new__(type(self))
        guard.__dict__.update(self.__dict__)
        guard._role, guard._slot = role or self._role, slot or self._slot
        return guard

    def __call__(self, view: _View) -> _View:
        """Guards a view."""

        @functools.wraps(view)
        def guarded(*args: Any, **options: Any) -> Any:
            denied = self._check()
            if denied is not None:
                return denied
            token = current.set(g.identity)
            try:
                return current_app.ensure_sync(view)(*args, **options)
            finally:
                current.reset(token)

        return guarded  # type: ignore[return-value]

    def init_app(self, app: Flask | Blueprint) -> None:
        """Guards all views of an application or a blueprint, except those of ``open_paths``."""
        app.before_request(self._before)
        app.teardown_request(self._after)

    def close(self) -> None:
        """Closes the channel, if the guard was given an address."""
        self._checker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before(self) -> Response | None:
        if self._checker.rules.is_open(request.root_path + request.path):
            return None
        denied = self._check()
        if denied is None:
            g._latchkey = current.set(g.identity)
        return denied

    def _after(self, _error: BaseException | None) -> None:
        token = g.pop("_latchkey", None)
        if token is not None:
            # A response that is streamed can end in another context.
            with contextlib.suppress(ValueError):
                current.reset(token)

    def _check(self) -> Response | None:
        authorization = bearer.split(request.environ.get("HTTP_AUTHORIZATION"))
        what = f"{request.method} {request.path}"
        cookies = [request.environ.get("HTTP_COOKIE", "")]
        try:
            g.identity = self._checker.check(what, authorization, cookies, self._role, self._slot)
        except Denial as why:
            return Response(why.body, why.http_status, why.headers)
        return None
