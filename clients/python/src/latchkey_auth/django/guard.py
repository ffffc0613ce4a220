"""The guard of all views, and of single ones."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from latchkey_auth import bearer
from latchkey_auth.denial import Denial
from latchkey_auth.django import conf
from latchkey_auth.identity import current

_View = TypeVar("_View", bound=Callable[..., Any])


class LatchkeyMiddleware:
    """Accepts only requests whose token has a live session.

    The view gets the identity of the caller as ``request.latchkey`` and from :func:`latchkey_auth.identity`. In an open
    path ``request.latchkey`` is ``None``.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._call(request)
        denied = None if _is_open(request) else _check(request, None, None)
        if denied is not None:
            return denied
        token = current.set(request.latchkey)
        try:
            response: HttpResponseBase = self._get_response(request)
            return response
        finally:
            current.reset(token)

    async def _call(self, request: HttpRequest) -> HttpResponseBase:
        denied = None if _is_open(request) else await _acheck(request, None, None)
        if denied is not None:
            return denied
        token = current.set(request.latchkey)
        try:
            response: HttpResponseBase = await self._get_response(request)
            return response
        finally:
            current.reset(token)


@overload
def guarded(view: _View) -> _View: ...
@overload
def guarded(*, role: str | None = None, slot: str | None = None) -> Callable[[_View], _View]: ...
def guarded(view: Any = None, *, role: str | None = None, slot: str | None = None) -> Any:
    """Guards one view, as ``@guarded`` or ``@guarded(role="admin")``, with or without the middleware."""
    if view is None:
        return functools.partial(guarded, role=role, slot=slot)

    if iscoroutinefunction(view):

        @functools.wraps(view)
        async def aguard(request: HttpRequest, *args: Any, **options: Any) -> Any:
            denied = await _acheck(request, role, slot)
            if denied is not None:
                return denied
            token = current.set(request.latchkey)
            try:
                return await view(request, *args, **options)
            finally:
                current.reset(token)

        return aguard

    @functools.wraps(view)
    def guard(request: HttpRequest, *args: Any, **options: Any) -> Any:
        denied = _check(request, role, slot)
        if denied is not None:
            return denied
        token = current.set(request.latchkey)
        try:
            return view(request, *args, **options)
        finally:
            current.reset(token)

    return guard


def _is_open(request: HttpRequest) -> bool:
    request.latchkey = None
    return conf.checker().rules.is_open(request.path)


def credentials(request: HttpRequest) -> tuple[str, list[str], list[str]]:
    """Returns what a checker needs to know of a request."""
    authorization = bearer.split(request.META.get("HTTP_AUTHORIZATION"))
    return f"{request.method} {request.path}", authorization, [request.META.get("HTTP_COOKIE", "")]


def _check(request: HttpRequest, role: str | None, slot: str | None) -> HttpResponse | None:
    try:
        request.latchkey = conf.checker().check(*credentials(request), role, slot)
    except Denial as why:
        return _deny(why)
    return None


async def _acheck(request: HttpRequest, role: str | None, slot: str | None) -> HttpResponse | None:
    try:
        request.latchkey = await conf.aio_checker().check(*credentials(request), role, slot)
    except Denial as why:
        return _deny(why)
    return None


def _deny(why: Denial) -> HttpResponse:
    return HttpResponse(why.body, status=why.http_status, headers=why.headers)
