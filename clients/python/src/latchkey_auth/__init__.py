"""The client of Latchkey, the authentication service in which the latest login wins.

A guard takes the bearer token of every call, validates it with Latchkey, and gives the handler the identity of the caller
(:func:`identity`). A denied call gets the reason. While Latchkey does not answer, no call is accepted and none is told that
its session has ended.

This module has the guard and the client for ``grpc``; :mod:`latchkey_auth.aio` is the same for ``grpc.aio``. The guards for
HTTP are in :mod:`latchkey_auth.asgi`, :mod:`latchkey_auth.fastapi`, :mod:`latchkey_auth.wsgi`, :mod:`latchkey_auth.flask`
and :mod:`latchkey_auth.django`. The generated code of Latchkey's services is in ``latchkey_auth.v1``.
"""

from latchkey_auth import aio
from latchkey_auth.calls import Displaced, Login, Logout, LogoutScope
from latchkey_auth.channel import channel
from latchkey_auth.client import Client
from latchkey_auth.errors import (
    AccountDisabled,
    AccountsReadOnly,
    Holder,
    InvalidCredentials,
    InvalidRequest,
    LatchkeyError,
    NotAllowed,
    NotFound,
    Rejected,
    SessionLimit,
    Throttled,
    Unavailable,
)
from latchkey_auth.guard import Guard
from latchkey_auth.identity import Identity, identity

__all__ = [
    "AccountDisabled",
    "AccountsReadOnly",
    "Client",
    "Displaced",
    "Guard",
    "Holder",
    "Identity",
    "InvalidCredentials",
    "InvalidRequest",
    "LatchkeyError",
    "Login",
    "Logout",
    "LogoutScope",
    "NotAllowed",
    "NotFound",
    "Rejected",
    "SessionLimit",
    "Throttled",
    "Unavailable",
    "aio",
    "channel",
    "identity",
]
