"""The requests and results of the clients, for threads and coroutines."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from latchkey_auth.errors import InvalidRequest, LatchkeyError, Rejected, Unavailable, of_failure
from latchkey_auth.identity import Identity
from latchkey_auth.v1 import auth_pb2, session_pb2

Metadata = tuple[tuple[str, str], ...]

LogoutScope = Literal["this", "others", "all"]
"""The sessions that a logout ends: that of the token, all others of its user, or all."""

_SCOPES = {
    "this": auth_pb2.LOGOUT_SCOPE_THIS,
    "others": auth_pb2.LOGOUT_SCOPE_OTHERS,
    "all": auth_pb2.LOGOUT_SCOPE_ALL,
}
_FIRST_PAUSE = 0.1
_LAST_PAUSE = 10.0


@dataclass(frozen=True)
class Displaced:
    """A session that a login has ended."""

    session_id: str
    """Its id."""
    slot: str
    """Its slot."""
    device: str
    """The name that its client gave itself, or nothing."""
    issued_at: datetime
    """When it logged in."""


@dataclass(frozen=True)
class Login:
    """A session that was opened."""

    token: str
    """The access token. A secret: do not log it."""
    session: Identity
    """The session."""
    displaced: tuple[Displaced, ...]
    """The live sessions that it ended, the oldest first."""
    set_cookie: tuple[str, ...] = ()
    """The headers ``set-cookie`` for the browser, if a cookie was asked for."""

    def __repr__(self) -> str:
        return f"Login(session={self.session!r}, displaced={self.displaced!r})"


@dataclass(frozen=True)
class Logout:
    """The result of a logout."""

    ended: int
    """The number of live sessions that it ended."""
    rejection: Rejected | None
    """Why the token was dead already, if it was. No session was ended then."""
    set_cookie: tuple[str, ...] = ()
    """The headers ``set-cookie`` for the browser, if a cookie was asked for."""


def metadata(caller_key: str | None, client_address: str | None = None, cookie: bool | str = False) -> Metadata:
    """Returns the metadata of a call."""
    pairs = []
    if caller_key:
        pairs.append(("x-latchkey-key", caller_key))
    if client_address:
        pairs.append(("x-forwarded-for", client_address))
    if cookie is not False:
        pairs.append(("x-latchkey-cookie", "true"))
    if isinstance(cookie, str):
        # Metadata are ASCII. Cookies of others need not be.
        kept = "; ".join(pair.strip() for pair in cookie.split(";") if pair.strip() and pair.isascii())
        if kept:
            pairs.append(("cookie", kept))
    return tuple(pairs)


def logout_request(token: str, scope: LogoutScope) -> auth_pb2.LogoutRequest:
    """Returns a LogoutRequest."""
    if scope not in _SCOPES:
        raise ValueError(f'scope is "this", "others" or "all", not {scope!r}')
    return auth_pb2.LogoutRequest(token=token, scope=_SCOPES[scope])


def login(answer: auth_pb2.LoginResponse | session_pb2.IssueSessionResponse, initial: Any = ()) -> Login:
    """Returns the result of a login."""
    displaced = (
        Displaced(one.session_id, one.slot, one.device, one.issued_at.ToDatetime(tzinfo=timezone.utc))
        for one in answer.displaced
    )
    return Login(answer.token, Identity.of(answer.session), tuple(displaced), set_cookie(initial))


def logout(answer: auth_pb2.LogoutResponse, initial: Any = ()) -> Logout:
    """Returns the result of a logout."""
    rejection = Rejected.of(answer.rejection) if answer.HasField("rejection") else None
    return Logout(answer.ended, rejection, set_cookie(initial))


def set_cookie(initial: Iterable[tuple[str, str | bytes]] | None) -> tuple[str, ...]:
    """Returns the values of ``set-cookie`` in the metadata of an answer."""
    return tuple(str(value) for key, value in initial or () if key == "set-cookie")


def jwks(answer: auth_pb2.GetJwksResponse) -> dict[str, Any]:
    """Returns the key set."""
    keys: dict[str, Any] = json.loads(answer.jwks)
    return keys


def streamed(answer: auth_pb2.ValidateResponse, token: str) -> Identity | LatchkeyError:
    """Returns the answer to one token of a stream."""
    if not token:
        return Rejected.no_token()
    match answer.WhichOneof("verdict"):
        case "session":
            return Identity.of(answer.session)
        case "rejection":
            return Rejected.of(answer.rejection)
        case _:
            return of_failure(answer.failure)


class Watch:
    """Follows one session through interruptions."""

    def __init__(self, outage_grace: float) -> None:
        self._grace = outage_grace
        self._told = False
        self._open = False
        self._live = 0.0
        self._pause = _FIRST_PAUSE

    def event(self, message: auth_pb2.WatchSessionResponse) -> Identity | Rejected | None:
        """Returns the event of a message: the session once, and the rejection."""
        match message.WhichOneof("verdict"):
            case "session":
                self._pause, self._open = _FIRST_PAUSE, True
                if self._told:
                    return None
                self._told = True
                return Identity.of(message.session)
            case "rejection":
                return Rejected.of(message.rejection)
            case _:
                raise RuntimeError("Latchkey sent neither a session nor a rejection")

    def broke(self, why: LatchkeyError) -> Rejected | float:
        """Returns the rejection, or the delay until the next attempt. Raises the error if waiting does not help."""
        if isinstance(why, Rejected):
            return why
        now = time.monotonic()
        if self._open:
            self._live, self._open = now, False
        left = self._live + self._grace - now
        if not isinstance(why, Unavailable) or not self._told or left <= 0:
            raise why
        pause = max(why.retry_after or 0.0, self._pause * random.uniform(0.5, 1))
        self._pause = min(2 * self._pause, _LAST_PAUSE)
        return min(left, pause)


def ended_early() -> Unavailable:
    """The error for a stream that ended without a rejection."""
    return Unavailable("UNKNOWN", "the stream ended without a rejection")


def logout_error(why: LatchkeyError, token: str) -> Logout:
    """Returns the result of a logout whose cookies had no token, or raises the error."""
    if not token and isinstance(why, InvalidRequest) and why.field == "token":
        return Logout(0, Rejected.no_token())
    raise why
