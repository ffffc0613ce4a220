"""Rejections of tokens."""

from __future__ import annotations

from datetime import UTC, datetime

from latchkey.v1 import reason_pb2

_PREFIX = "REJECTION_REASON_"


class Rejected(Exception):
    """Latchkey rejected the token. The message can be shown to the user."""

    def __init__(self, rejection: reason_pb2.Rejection) -> None:
        super().__init__(rejection.message)
        self.message: str = rejection.message
        """A sentence for the user."""
        self.reason: str = _name(rejection.reason)
        """The reason, such as ``REPLACED``. A reason that this version does not know becomes ``UNKNOWN_SESSION``."""
        self.at: datetime | None = rejection.at.ToDatetime(tzinfo=UTC) if rejection.HasField("at") else None
        """When the session ended, if a session is known."""
        self.by_device: str = rejection.by_device
        """The device of the login that displaced the session, if there is one and it has a name."""
        self.terminal: bool = rejection.terminal
        """Whether a client must not log in again automatically."""


def no_token() -> reason_pb2.Rejection:
    """Returns the rejection of an empty token, which Latchkey would treat as a missing one."""
    return reason_pb2.Rejection(
        reason=reason_pb2.REJECTION_REASON_MALFORMED, message="There is no access token.", terminal=False
    )


def _name(reason: int) -> str:
    known = reason_pb2.RejectionReason.DESCRIPTOR.values_by_number
    if reason == reason_pb2.REJECTION_REASON_UNSPECIFIED or reason not in known:
        return "UNKNOWN_SESSION"
    return reason_pb2.RejectionReason.Name(reason).removeprefix(_PREFIX)
