"""Why a token is not good."""

from __future__ import annotations

from datetime import UTC, datetime

from latchkey.v1 import reason_pb2

_PREFIX = "REJECTION_REASON_"


class Rejected(Exception):
    """A token is not, or no longer, good. The message can be shown to the user."""

    def __init__(self, rejection: reason_pb2.Rejection) -> None:
        super().__init__(rejection.message)
        self.message: str = rejection.message
        """A sentence for the user."""
        self.reason: str = _name(rejection.reason)
        """Such as ``REPLACED``. What this version does not know is ``UNKNOWN_SESSION``."""
        self.at: datetime | None = rejection.at.ToDatetime(tzinfo=UTC) if rejection.HasField("at") else None
        """When the session ended, where one is known."""
        self.by_device: str = rejection.by_device
        """The device of the login that took the place, where one did and had a name."""
        self.terminal: bool = rejection.terminal
        """Whether a client must not log in again by itself: show a button."""


def no_token() -> reason_pb2.Rejection:
    """What is said of an empty token, which Latchkey would take for one that was left out."""
    return reason_pb2.Rejection(
        reason=reason_pb2.REJECTION_REASON_MALFORMED, message="There is no access token.", terminal=False
    )


def _name(reason: int) -> str:
    known = reason_pb2.RejectionReason.DESCRIPTOR.values_by_number
    if reason == reason_pb2.REJECTION_REASON_UNSPECIFIED or reason not in known:
        return "UNKNOWN_SESSION"
    return reason_pb2.RejectionReason.Name(reason).removeprefix(_PREFIX)
