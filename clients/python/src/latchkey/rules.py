"""The logic of a guard, for threads and coroutines."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TypedDict

import grpc
import grpc.aio

from latchkey import denial
from latchkey.identity import Identity
from latchkey.rejected import Rejected
from latchkey.v1 import auth_pb2

Metadata = Iterable[tuple[str, str | bytes]]

log = logging.getLogger("latchkey")

_MORE_THAN_ONE = "There is more than one `authorization`."


class Options(TypedDict, total=False):
    """The options of a guard."""

    caller_key: str | None
    open_methods: Iterable[str]
    max_staleness: timedelta | None
    peek: bool
    timeout: float
    required_role: str | None
    required_slot: str | None
    watch_streams: bool
    max_watches: int
    outage_grace: float


@dataclass(frozen=True, slots=True)
class Rules:
    """The options of a guard and the functions that depend on them."""

    _: KW_ONLY
    caller_key: str | None = None
    open_methods: Iterable[str] = ()
    max_staleness: timedelta | None = None
    peek: bool = False
    timeout: float = 1.0
    required_role: str | None = None
    required_slot: str | None = None
    watch_streams: bool = True
    max_watches: int = 100
    outage_grace: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.open_methods, str):
            raise TypeError("open_methods is a list of full method names, not one string")
        object.__setattr__(self, "open_methods", frozenset(self.open_methods))

    def request(self, metadata: Metadata) -> auth_pb2.ValidateRequest:
        """Returns the ValidateRequest for a call with this metadata."""
        return self.question(_bearer(metadata), peek=self.peek)

    def question(self, token: str, *, peek: bool) -> auth_pb2.ValidateRequest:
        """Returns the ValidateRequest for a token."""
        request = auth_pb2.ValidateRequest(token=token, peek=peek)
        if self.max_staleness is not None:
            request.max_staleness.FromTimedelta(self.max_staleness)
        return request

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata for Latchkey. Metadata of the guarded call is not forwarded."""
        return (("x-latchkey-key", self.caller_key),) if self.caller_key else ()

    def admit(self, answer: auth_pb2.ValidateResponse) -> Identity:
        """Returns the identity of an accepted caller, or raises a ``Denial``."""
        try:
            who = verdict(answer)
        except Rejected as why:
            raise denial.rejected(why) from None
        if self.required_slot is not None and who.slot != self.required_slot:
            raise denial.slot_required(self.required_slot)
        if self.required_role is not None and self.required_role not in who.roles:
            raise denial.role_required(self.required_role)
        return who


def verdict(answer: auth_pb2.ValidateResponse) -> Identity:
    """Returns the identity, or raises ``Rejected``. Any other answer is an error."""
    match answer.WhichOneof("verdict"):
        case "session":
            return Identity.of(answer.session)
        case "rejection":
            raise Rejected(answer.rejection)
        case _:
            raise RuntimeError("Latchkey answered without a verdict")


def no_verdict(method: str, why: Exception) -> denial.Denial:
    """Logs why there is no verdict and returns UNAVAILABLE."""
    log.warning("got no verdict for a call of %s: %s", method, in_short(why))
    return denial.unavailable()


def in_short(why: Exception | None) -> str:
    """Formats an error in one line; an ``RpcError`` prints itself in many."""
    if isinstance(why, grpc.Call | grpc.aio.AioRpcError):
        return f"{why.code().name}: {why.details()}"
    return repr(why)


def _bearer(metadata: Metadata) -> str:
    """Returns the token of exactly one ``authorization: Bearer ...``, parsed as in Latchkey."""
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise denial.token_required()
    if len(values) > 1:
        # Proxies disagree on which of them counts, so the guard does not guess.
        raise denial.malformed(_MORE_THAN_ONE)
    value = str(values[0])
    if value.strip().lower() in ("", "bearer"):
        # A client without a token that sends the header anyway.
        raise denial.token_required()
    scheme, _, token = value.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise denial.malformed("The header `authorization` is not of the form `Bearer <token>`.")
    if "," in token:
        # Proxies join values with commas, and a token never contains one.
        raise denial.malformed(_MORE_THAN_ONE)
    return token
