"""The answer of a guard instead of the method's: a denial or an error."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from latchkey.rejected import Rejected

DOMAIN = "latchkey"
"""The domain of every ErrorInfo, as in Latchkey."""

_RETRY_AFTER = Duration(seconds=1)
_DETAILS = "grpc-status-details-bin"
# A client may log in again automatically.
_AGAIN = {"terminal": "false"}


class Denial(Exception):
    """A status with details."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        retry_after: Duration | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        status = status_pb2.Status(code=code.value[0], message=message)
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
        if retry_after is not None:
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=retry_after))
        self.trailing_metadata = ((_DETAILS, status.SerializeToString()),)


def rejected(why: Rejected) -> Denial:
    """Denial: Latchkey rejected the token."""
    metadata = {"terminal": "true" if why.terminal else "false"}
    if why.at is not None:
        metadata["at_unix"] = str(int(why.at.timestamp()))
    if why.by_device:
        metadata["by_device"] = why.by_device
    disabled = why.reason == "ACCOUNT_DISABLED"
    code = grpc.StatusCode.PERMISSION_DENIED if disabled else grpc.StatusCode.UNAUTHENTICATED
    return Denial(code, why.message, why.reason, metadata)


def token_required() -> Denial:
    """Denial: the call has no token."""
    message = "Please log in: there is no access token."
    return Denial(grpc.StatusCode.UNAUTHENTICATED, message, "TOKEN_REQUIRED", _AGAIN)


def malformed(message: str) -> Denial:
    """Denial: `authorization` is not exactly one bearer token."""
    return Denial(grpc.StatusCode.UNAUTHENTICATED, message, "MALFORMED", _AGAIN)


def slot_required(slot: str) -> Denial:
    """Denial: the session is live, but in another slot."""
    message = f"This needs a session in the slot `{slot}`."
    return Denial(grpc.StatusCode.PERMISSION_DENIED, message, "SLOT_REQUIRED", {**_AGAIN, "slot": slot})


def role_required(role: str) -> Denial:
    """Denial: the session is live, but its user lacks the role."""
    message = f"This needs the role `{role}`."
    return Denial(grpc.StatusCode.PERMISSION_DENIED, message, "ROLE_REQUIRED", {**_AGAIN, "role": role})


def unavailable() -> Denial:
    """Error: there is no verdict. It says nothing about the token; the log has the cause."""
    message = "the session cannot be checked at the moment: try again"
    return Denial(grpc.StatusCode.UNAVAILABLE, message, "STORE_UNAVAILABLE", retry_after=_RETRY_AFTER)
