"""The identity of the caller."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone

from latchkey_auth.v1 import auth_pb2


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of the caller: a live session."""

    user_id: str
    """The account's stable, opaque id."""
    username: str
    """The username."""
    session_id: str
    """The token's ``jti``."""
    slot: str
    """The slot: the kind of client in which only the latest login lives."""
    device: str
    """The name that the client gave itself at login."""
    roles: frozenset[str]
    """The current roles of the account, which can be newer than those in the token."""
    issued_at: datetime
    """When the login was committed."""
    expires_at: datetime
    """The absolute deadline."""
    idle_expires_at: datetime
    """The idle deadline."""
    last_seen_at: datetime | None = None
    """The latest recorded use. Only from ``list_sessions``."""

    @staticmethod
    def of(session: auth_pb2.Session) -> Identity:
        """Returns the identity for a session."""
        return Identity(
            user_id=session.user_id,
            username=session.username,
            session_id=session.session_id,
            slot=session.slot,
            device=session.device,
            roles=frozenset(session.roles),
            issued_at=session.issued_at.ToDatetime(tzinfo=timezone.utc),
            expires_at=session.expires_at.ToDatetime(tzinfo=timezone.utc),
            idle_expires_at=session.idle_expires_at.ToDatetime(tzinfo=timezone.utc),
            last_seen_at=session.last_seen_at.ToDatetime(tzinfo=timezone.utc) if session.HasField("last_seen_at") else None,
        )


current: ContextVar[Identity | None] = ContextVar("latchkey_auth.identity", default=None)


def identity() -> Identity:
    """Returns the identity of the caller. Raises ``LookupError`` in an open method and outside of a call."""
    who = current.get()
    if who is None:
        raise LookupError("there is no caller: the method or the path is open, or no guard was asked")
    return who
