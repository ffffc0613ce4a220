"""What a guard does, whether it waits in a thread or in a coroutine."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TypedDict

import grpc

from latchkey import refusal
from latchkey.identity import Identity
from latchkey.rejected import Rejected
from latchkey.v1 import auth_pb2

Metadata = Iterable[tuple[str, str | bytes]]

_log = logging.getLogger("latchkey")


class Options(TypedDict, total=False):
    """The options of a guard."""

    caller_key: str | None
    open_methods: Iterable[str]
    max_staleness: timedelta | None
    peek: bool
    timeout: float
    required_role: str | None
    required_slot: str | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The options of a guard, and what follows from them."""

    _: KW_ONLY
    caller_key: str | None = None
    open_methods: Iterable[str] = ()
    max_staleness: timedelta | None = None
    peek: bool = False
    timeout: float = 1.0
    required_role: str | None = None
    required_slot: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.open_methods, str):
            raise TypeError("open_methods is a list of full method names, not one string")
        object.__setattr__(self, "open_methods", frozenset(self.open_methods))

    def request(self, metadata: Metadata) -> auth_pb2.ValidateRequest:
        """What to ask Latchkey about a call with this metadata."""
        request = auth_pb2.ValidateRequest(token=_bearer(metadata), peek=self.peek)
        if self.max_staleness is not None:
            request.max_staleness.FromTimedelta(self.max_staleness)
        return request

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send along. Of the call's own metadata nothing goes to Latchkey."""
        return (("x-latchkey-key", self.caller_key),) if self.caller_key else ()

    def admit(self, answer: auth_pb2.ValidateResponse) -> Identity:
        """Who gets in by this verdict."""
        try:
            who = verdict(answer)
        except Rejected as why:
            raise refusal.rejected(why) from None
        if self.required_slot is not None and who.slot != self.required_slot:
            raise refusal.not_allowed("slot", self.required_slot)
        if self.required_role is not None and self.required_role not in who.roles:
            raise refusal.not_allowed("role", self.required_role)
        return who


def verdict(answer: auth_pb2.ValidateResponse) -> Identity:
    """The identity, or ``Rejected``. An answer that is neither is none."""
    match answer.WhichOneof("verdict"):
        case "session":
            return Identity.of(answer.session)
        case "rejection":
            raise Rejected(answer.rejection)
        case _:
            raise RuntimeError("Latchkey answered without a verdict")


def no_verdict(method: str, why: Exception) -> refusal.Refusal:
    """Whatever went wrong, nobody gets in."""
    # What an RpcError prints of itself takes many lines.
    told = f"{why.code().name}: {why.details()}" if isinstance(why, grpc.Call) else repr(why)
    _log.warning("Latchkey gave no verdict on a call of %s: %s", method, told)
    return refusal.unavailable()


def _bearer(metadata: Metadata) -> str:
    """The token of exactly one ``authorization: Bearer ...``, as Latchkey itself reads it."""
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise refusal.malformed("there is no access token: send the metadata `authorization: Bearer <token>`")
    if len(values) > 1:
        # Which of them did the caller mean? Proxies disagree, so nobody guesses.
        raise refusal.malformed("there is more than one `authorization`")
    scheme, _, token = str(values[0]).partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise refusal.malformed("`authorization` is not of the form `Bearer <token>`")
    return token
