"""The app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from latchkey_auth.django import conf


class LatchkeyConfig(AppConfig):
    """Checks the setting ``LATCHKEY`` when Django starts."""

    name = "latchkey_auth.django"
    label = "latchkey_auth"
    verbose_name = "Latchkey"

    def ready(self) -> None:
        """Registers the check."""
        checks.register(_check)


def _check(**_: Any) -> list[checks.CheckMessage]:
    try:
        conf.options()
    except ImproperlyConfigured as why:
        return [checks.Error(str(why), id="latchkey_auth.E001")]
    return []
