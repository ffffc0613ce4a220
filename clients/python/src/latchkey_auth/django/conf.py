"""The setting ``LATCHKEY``."""

from __future__ import annotations

import functools
from typing import Any

import grpc
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from latchkey_auth import aio_channel
from latchkey_auth.channel import channel
from latchkey_auth.http import AioChecker, Checker, HttpRules

OPTIONS = (
    "CALLER_KEY",
    "COOKIE",
    "MAX_STALENESS",
    "OPEN_PATHS",
    "PEEK",
    "REQUIRED_ROLE",
    "REQUIRED_SLOT",
    "TIMEOUT",
)
"""The options of :class:`latchkey_auth.http.HttpRules`."""
OTHERS = ("ADDRESS", "CREDENTIALS", "USER_FIELD")


def options() -> dict[str, Any]:
    """Returns the options of the guard. Raises ``ImproperlyConfigured`` if the setting is wrong."""
    setting = _setting()
    unknown = sorted(set(setting) - {*OPTIONS, *OTHERS})
    if unknown:
        raise ImproperlyConfigured(f"LATCHKEY: {unknown[0]!r} is no key. The keys are {', '.join((*OTHERS, *OPTIONS))}.")
    if not isinstance(setting.get("ADDRESS"), str):
        raise ImproperlyConfigured('LATCHKEY: "ADDRESS" is missing, such as "127.0.0.1:50051"')
    found = {key.lower(): setting[key] for key in OPTIONS if key in setting}
    try:
        HttpRules(**found)
    except (TypeError, ValueError) as why:
        raise ImproperlyConfigured(f"LATCHKEY: {why}") from why
    return found


def user_field() -> str | None:
    """Returns the field of Django's users that has the user id or the username of Latchkey."""
    field: str | None = _setting().get("USER_FIELD")
    return field


@functools.cache
def checker() -> Checker:
    """Returns the guard for threads. All views share its channel."""
    return Checker(channel(*_target()), **options())


@functools.cache
def aio_checker() -> AioChecker:
    """Returns the guard for coroutines. All views share its channel."""
    return AioChecker(aio_channel.channel(*_target()), **options())


def _setting() -> dict[str, Any]:
    setting = getattr(settings, "LATCHKEY", None)
    if not isinstance(setting, dict):
        raise ImproperlyConfigured('LATCHKEY is missing, such as LATCHKEY = {"ADDRESS": "127.0.0.1:50051"}')
    return setting


def _target() -> tuple[str, grpc.ChannelCredentials | None]:
    options()
    setting = _setting()
    return setting["ADDRESS"], setting.get("CREDENTIALS")


def _reset(*, setting: str, **_: Any) -> None:
    # Tests change settings.
    if setting == "LATCHKEY":
        checker.cache_clear()
        aio_checker.cache_clear()


setting_changed.connect(_reset)
