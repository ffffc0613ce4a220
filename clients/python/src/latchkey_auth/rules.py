"""The logic of a guard, for threads and coroutines, for gRPC and for HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TypedDict

import grpc
import grpc.aio

from latchkey_auth import bearer, denial
from latchkey_auth.errors import Rejected
from latchkey_auth.identity import Identity
from latchkey_auth.v1 import auth_pb2

Metadata = Iterable[tuple[str, "str | bytes"]]

log = logging.getLogger("latchkey_auth")


class CheckOptions(TypedDict, total=False):
    """The options of every guard."""

    caller_key: str | None
    max_staleness: timedelta | None
    peek: bool
    timeout: float
    required_role: str | None
    required_slot: str | None


class Options(CheckOptions, total=False):
    """The options of a guard for gRPC."""

    open_methods: Iterable[str]
    watch_streams: bool
    max_watches: int
    outage_grace: float


@dataclass(frozen=True)
class CheckRules:
    """The options of every guard and the functions that depend on them."""

    _: KW_ONLY
    caller_key: str | None = None
    max_staleness: timedelta | None = None
    peek: bool = False
    timeout: float = 1.0
    required_role: str | None = None
    required_slot: str | None = None

    def question(self, token: str, *, peek: bool) -> auth_pb2.ValidateRequest:
        """Returns the ValidateRequest for a token."""
        return question(token, peek=peek, max_staleness=self.max_staleness)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata for Latchkey. Metadata of the guarded call is not forwarded."""
        return (("x-latchkey-key", self.caller_key),) if self.caller_key else ()

    def admit(self, answer: auth_pb2.ValidateResponse) -> Identity:
        """Returns the identity of an accepted caller, or raises a ``Denial``."""
        try:
            who = verdict(answer)
        except Rejected as why:
            raise denial.rejected(why) from None
        require(who, self.required_role, self.required_slot)
        return who


@dataclass(frozen=True)
class Rules(CheckRules):
    """The options of a guard for gRPC and the functions that depend on them."""

    _: KW_ONLY
    open_methods: Iterable[str] = ()
    watch_streams: bool = True
    max_watches: int = 100
    outage_grace: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.open_methods, str):
            raise TypeError("open_methods is a list of full method names, not one string")
        object.__setattr__(self, "open_methods", frozenset(self.open_methods))

    def request(self, metadata: Metadata) -> auth_pb2.ValidateRequest:
        """Returns the ValidateRequest for a call with this metadata."""
        token = bearer.token([str(value) for key, value in metadata if key == "authorization"])
        return self.question(token, peek=self.peek)


def question(token: str, *, peek: bool, max_staleness: timedelta | None) -> auth_pb2.ValidateRequest:
    """Returns a ValidateRequest."""
    request = auth_pb2.ValidateRequest(token=token, peek=peek)
    if max_staleness is not None:
        request.max_staleness.FromTimedelta(max_staleness)
    return request


def require(who: Identity, role: str | None, slot: str | None) -> None:
    """Raises a ``Denial`` if the session lacks a required role or slot."""
    if slot is not None and who.slot != slot:
        raise denial.slot_required(slot)
    if role is not None and role not in who.roles:
        raise denial.role_required(role)


def verdict(answer: auth_pb2.ValidateResponse) -> Identity:
    """Returns the identity, or raises ``Rejected``. Any other answer is an error."""
    match answer.WhichOneof("verdict"):
        case "session":
            return Identity.of(answer.session)
        case "rejection":
            raise Rejected.of(answer.rejection)
        case _:
            raise RuntimeError("Latchkey answered without a verdict")


def no_verdict(what: str, why: Exception) -> denial.Denial:
    """Logs why there is no verdict and returns UNAVAILABLE."""
    log.warning("got no verdict for a call of %s: %s", what, in_short(why))
    return denial.unavailable()


def in_short(why: Exception | None) -> str:
    """Formats an error in one line; an ``RpcError`` prints itself in many."""
    if isinstance(why, grpc.Call | grpc.aio.AioRpcError):
        return f"{why.code().name}: {why.details()}"
    return repr(why)
