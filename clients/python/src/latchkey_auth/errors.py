"""The errors of this package. All of them are a :class:`LatchkeyError`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from latchkey_auth.v1 import auth_pb2, reason_pb2

DOMAIN = "latchkey"
"""The domain of every ErrorInfo, as in Latchkey."""

DETAILS = "grpc-status-details-bin"
NO_TOKEN = "Please log in: there is no access token."

_PREFIX = "REJECTION_REASON_"


class LatchkeyError(Exception):
    """Latchkey did not do what was asked. The classes below say why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        """The reason, such as ``REPLACED`` or ``INVALID_CREDENTIALS``: a name of ``RejectionReason`` or ``ErrorReason``
        without its prefix, or the name of a gRPC status if the answer did not come from Latchkey."""
        self.message = message
        """A sentence that says what happened."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Task queues and pools of processes pickle errors, which calls the constructor with two parameters by default.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[LatchkeyError], args: tuple[str, str], fields: dict[str, Any]) -> LatchkeyError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class Rejected(LatchkeyError):
    """The token is not, or no longer, valid. The message can be shown to the user."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        terminal: bool = False,
        at: datetime | None = None,
        by_device: str = "",
    ) -> None:
        super().__init__(reason, message)
        self.terminal = terminal
        """Whether a client must not log in again automatically."""
        self.at = at
        """When the session ended, if a session is known."""
        self.by_device = by_device
        """The device of the login that displaced the session, if there is one and it has a name."""

    @staticmethod
    def of(rejection: reason_pb2.Rejection) -> Rejected:
        """Returns the error for a rejection. A reason that this version does not know becomes ``UNKNOWN_SESSION``."""
        return Rejected(
            _name(rejection.reason),
            rejection.message,
            terminal=rejection.terminal,
            at=rejection.at.ToDatetime(tzinfo=timezone.utc) if rejection.HasField("at") else None,
            by_device=rejection.by_device,
        )

    @staticmethod
    def no_token() -> Rejected:
        """Returns the error for a missing token."""
        return Rejected("TOKEN_REQUIRED", NO_TOKEN)


class InvalidCredentials(LatchkeyError):
    """The user is unknown or the password is wrong. The error does not tell which."""


class AccountDisabled(LatchkeyError):
    """The password is right, and the account is disabled."""


class Throttled(LatchkeyError):
    """There were too many failed logins, or clients displace each other in turn. It says nothing about the password."""

    def __init__(self, reason: str, message: str, retry_after: float) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after
        """When to try again, in seconds from now."""


@dataclass(frozen=True)
class Holder:
    """The session that holds a slot."""

    slot: str
    """The slot."""
    device: str
    """The name that its client gave itself at login, or nothing."""
    since: datetime
    """When it logged in."""
    idle: timedelta
    """How long it has not been used."""


class SessionLimit(LatchkeyError):
    """The slot is full, and the server displaces nobody. A login with ``takeover=True`` succeeds: ask the user first."""

    def __init__(self, reason: str, message: str, holder: Holder) -> None:
        super().__init__(reason, message)
        self.holder = holder
        """The session that ``takeover`` would displace."""


class InvalidRequest(LatchkeyError):
    """A field of the request is missing, too long or malformed."""

    def __init__(self, reason: str, message: str, fields: Mapping[str, str]) -> None:
        super().__init__(reason, message)
        self.fields = dict(fields)
        """What is wrong with each invalid field, by its name."""
        self.field = next(iter(fields), "")
        """The name of the first of them."""


class NotAllowed(LatchkeyError):
    """Latchkey does not serve this caller: the caller key is missing, unknown, or lacks a role."""

    def __init__(self, reason: str, message: str, role: str) -> None:
        super().__init__(reason, message)
        self.role = role
        """The role that the caller key needs, if the key is known."""


class NotFound(LatchkeyError):
    """There is no such account."""


class AccountsReadOnly(LatchkeyError):
    """The accounts belong to another system, and Latchkey only reads them."""


class Unavailable(LatchkeyError):
    """Latchkey could not answer. It says nothing about a token or a password."""

    def __init__(self, reason: str, message: str, retry_after: float | None = None, outcome_unknown: bool = True) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after
        """When to try again, in seconds from now, if Latchkey said so."""
        self.outcome_unknown = outcome_unknown
        """Whether the call may have taken effect."""


def of_rpc_error(error: grpc.RpcError) -> LatchkeyError:
    """Returns the error for a status of Latchkey, or of the connection to it."""
    code: grpc.StatusCode = error.code()
    return _of_status(code, str(error.details()), _details(error.trailing_metadata()))


def of_failure(failure: auth_pb2.Failure) -> LatchkeyError:
    """Returns the error for a request of ValidateStream."""
    number = failure.code or code_pb2.UNKNOWN
    code = next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN)
    details = _Details(info=info)
    if failure.HasField("retry_after"):
        details.retry_after = failure.retry_after.ToTimedelta().total_seconds()
    return _of_status(code, failure.message, details)


@dataclass
class _Details:
    """The details of a status."""

    info: error_details_pb2.ErrorInfo | None = None
    retry_after: float | None = None
    fields: dict[str, str] | None = None


def _details(trailing: Iterable[tuple[str, str | bytes]] | None) -> _Details:
    found = _Details()
    value = next((value for key, value in trailing or () if key == DETAILS), None)
    if not isinstance(value, bytes):
        return found
    try:
        status = status_pb2.Status.FromString(value)
        for detail in status.details:
            info, retry, bad = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.RetryInfo(),
                error_details_pb2.BadRequest(),
            )
            if detail.Unpack(info) and info.domain == DOMAIN:
                found.info = info
            elif detail.Unpack(retry):
                found.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
            elif detail.Unpack(bad):
                found.fields = {violation.field: violation.description for violation in bad.field_violations}
    except DecodeError:
        # A proxy has damaged them.
        return _Details()
    return found


def _of_status(code: grpc.StatusCode, message: str, details: _Details) -> LatchkeyError:
    if details.info is None:
        # The connection, a proxy or another server.
        status = code.name
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return LatchkeyError(status, message)
        return Unavailable(status, message, details.retry_after)
    reason, metadata = details.info.reason, details.info.metadata
    if "terminal" in metadata:
        at = metadata.get("at_unix")
        return Rejected(
            reason,
            message,
            terminal=metadata["terminal"] == "true",
            at=datetime.fromtimestamp(int(at), timezone.utc) if at else None,
            by_device=metadata.get("by_device", ""),
        )
    if reason == "INVALID_CREDENTIALS":
        return InvalidCredentials(reason, message)
    if reason == "ACCOUNT_DISABLED":
        return AccountDisabled(reason, message)
    if reason == "THROTTLED":
        return Throttled(reason, message, 1.0 if details.retry_after is None else details.retry_after)
    if reason == "SESSION_LIMIT":
        return SessionLimit(reason, message, _holder(metadata))
    if reason == "INVALID_REQUEST":
        return InvalidRequest(reason, message, details.fields or {})
    if reason in ("CALLER_UNAUTHENTICATED", "CALLER_NOT_ALLOWED"):
        return NotAllowed(reason, message, metadata.get("role", ""))
    if reason == "ACCOUNT_NOT_FOUND":
        return NotFound(reason, message)
    if reason == "ACCOUNTS_READ_ONLY":
        return AccountsReadOnly(reason, message)
    if reason in ("STORE_UNAVAILABLE", "SHUTTING_DOWN", "DEADLINE_EXCEEDED", "INTERNAL"):
        return Unavailable(reason, message, details.retry_after)
    if reason in ("OVERLOADED", "TOO_SLOW"):
        return Unavailable(reason, message, details.retry_after, outcome_unknown=False)
    return LatchkeyError(reason, message)


def _holder(metadata: Mapping[str, str]) -> Holder:
    return Holder(
        slot=metadata.get("slot", ""),
        device=metadata.get("device", ""),
        since=datetime.fromtimestamp(int(metadata.get("issued_at_unix", 0)), timezone.utc),
        idle=timedelta(seconds=int(metadata.get("idle_seconds", 0))),
    )


def _name(reason: int) -> str:
    known = reason_pb2.RejectionReason.DESCRIPTOR.values_by_number
    if reason == reason_pb2.REJECTION_REASON_UNSPECIFIED or reason not in known:
        return "UNKNOWN_SESSION"
    return reason_pb2.RejectionReason.Name(reason).removeprefix(_PREFIX)
