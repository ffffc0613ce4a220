"""The answer of a guard instead of the method's or the handler's: a denial or an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cached_property

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from latchkey_auth.errors import DETAILS, DOMAIN, NO_TOKEN, Rejected

_RETRY_AFTER = 1
_HTTP_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class Denial(Exception):
    """A status with details, for gRPC and for HTTP."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str,
        *,
        terminal: bool = False,
        at: datetime | None = None,
        by_device: str = "",
        wanted: Mapping[str, str] | None = None,
        error: str | None = None,
        challenges: bool = True,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.terminal = terminal
        self._at = at
        self._by_device = by_device
        self._wanted = wanted or {}
        self._error = error
        self._challenges = challenges

    @property
    def is_outage(self) -> bool:
        """Whether there was no verdict."""
        return self.code is grpc.StatusCode.UNAVAILABLE

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The details of the gRPC status."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN)
        if self.is_outage:
            status.details.add().Pack(info)
            delay = Duration(seconds=_RETRY_AFTER)
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
            return ((DETAILS, status.SerializeToString()),)
        info.metadata["terminal"] = "true" if self.terminal else "false"
        if self._at is not None:
            info.metadata["at_unix"] = str(int(self._at.timestamp()))
        if self._by_device:
            info.metadata["by_device"] = self._by_device
        info.metadata.update(self._wanted)
        status.details.add().Pack(info)
        return ((DETAILS, status.SerializeToString()),)

    @property
    def http_status(self) -> int:
        """The HTTP status."""
        return _HTTP_STATUS[self.code]

    @property
    def challenge(self) -> str | None:
        """The header ``www-authenticate`` (RFC 6750 section 3). A disabled account has none: no token would help."""
        if self.is_outage or not self._challenges:
            return None
        realm = 'Bearer realm="latchkey"'
        return realm if self._error is None else f'{realm}, error="{self._error}", error_description="{self.reason}"'

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers of the HTTP response."""
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        if self.is_outage:
            return {**headers, "retry-after": str(_RETRY_AFTER)}
        headers["x-latchkey-reason"] = self.reason
        if self.challenge is not None:
            headers["www-authenticate"] = self.challenge
        return headers

    @property
    def fields(self) -> dict[str, str | bool]:
        """The fields of the body of the HTTP response."""
        fields: dict[str, str | bool] = {"reason": self.reason, "message": self.message}
        if self.is_outage:
            return fields
        fields["terminal"] = self.terminal
        if self._at is not None:
            fields["at"] = self._at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if self._by_device:
            fields["by_device"] = self._by_device
        return fields

    @property
    def body(self) -> bytes:
        """The body of the HTTP response."""
        return json.dumps(self.fields, ensure_ascii=False, separators=(",", ":")).encode()


def rejected(why: Rejected) -> Denial:
    """Denial: Latchkey rejected the token."""
    disabled = why.reason == "ACCOUNT_DISABLED"
    return Denial(
        grpc.StatusCode.PERMISSION_DENIED if disabled else grpc.StatusCode.UNAUTHENTICATED,
        why.message,
        why.reason,
        terminal=why.terminal,
        at=why.at,
        by_device=why.by_device,
        error="invalid_token",
        challenges=not disabled,
    )


def token_required() -> Denial:
    """Denial: the call has no token."""
    return Denial(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN, "TOKEN_REQUIRED")


def malformed(message: str) -> Denial:
    """Denial: `authorization` is not exactly one bearer token."""
    return Denial(grpc.StatusCode.UNAUTHENTICATED, message, "MALFORMED", error="invalid_request")


def slot_required(slot: str) -> Denial:
    """Denial: the session is live, but in another slot."""
    return _insufficient(f"This needs a session in the slot `{slot}`.", "SLOT_REQUIRED", {"slot": slot})


def role_required(role: str) -> Denial:
    """Denial: the session is live, but its user lacks the role."""
    return _insufficient(f"This needs the role `{role}`.", "ROLE_REQUIRED", {"role": role})


def _insufficient(message: str, reason: str, wanted: Mapping[str, str]) -> Denial:
    code = grpc.StatusCode.PERMISSION_DENIED
    return Denial(code, message, reason, wanted=wanted, error="insufficient_scope")


def unavailable() -> Denial:
    """Error: there is no verdict. It says nothing about the token; the log has the cause."""
    message = "the session cannot be checked at the moment: try again"
    return Denial(grpc.StatusCode.UNAVAILABLE, message, "STORE_UNAVAILABLE")
