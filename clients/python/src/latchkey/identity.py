"""The identity of the caller."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

from latchkey.v1 import auth_pb2


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
            issued_at=session.issued_at.ToDatetime(tzinfo=UTC),
            expires_at=session.expires_at.ToDatetime(tzinfo=UTC),
            idle_expires_at=session.idle_expires_at.ToDatetime(tzinfo=UTC),
        )


current: ContextVar[Identity] = ContextVar("latchkey.identity")


def identity() -> Identity:
    """Returns the identity of the caller. Raises ``LookupError`` in an open method and outside of a call."""
    return current.get()
