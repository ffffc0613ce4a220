"""Who calls."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

from latchkey.v1 import auth_pb2


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: the session that Latchkey found live."""

    user_id: str
    """The account's stable, opaque id."""
    username: str
    """What a person types."""
    session_id: str
    """The token's ``jti``."""
    slot: str
    """The kind of client in which only the latest login lives."""
    device: str
    """What the client called itself when it logged in."""
    roles: frozenset[str]
    """Those of the account now, which can be newer than the token's."""
    issued_at: datetime
    """The moment of the login."""
    expires_at: datetime
    """When the session ends at the latest."""
    idle_expires_at: datetime
    """When the session ends if it is not used before."""

    @staticmethod
    def of(session: auth_pb2.Session) -> Identity:
        """The identity that a session is."""
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
    """Who calls the method whose handler this is. ``LookupError`` in a method that is open, and outside of a call."""
    return current.get()
