import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RejectionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECTION_REASON_UNSPECIFIED: _ClassVar[RejectionReason]
    REJECTION_REASON_MALFORMED: _ClassVar[RejectionReason]
    REJECTION_REASON_BAD_SIGNATURE: _ClassVar[RejectionReason]
    REJECTION_REASON_NOT_YET_VALID: _ClassVar[RejectionReason]
    REJECTION_REASON_EXPIRED: _ClassVar[RejectionReason]
    REJECTION_REASON_IDLE_TIMEOUT: _ClassVar[RejectionReason]
    REJECTION_REASON_REPLACED: _ClassVar[RejectionReason]
    REJECTION_REASON_KICKED: _ClassVar[RejectionReason]
    REJECTION_REASON_LOGGED_OUT: _ClassVar[RejectionReason]
    REJECTION_REASON_EVICTED: _ClassVar[RejectionReason]
    REJECTION_REASON_CREDENTIALS_CHANGED: _ClassVar[RejectionReason]
    REJECTION_REASON_ACCOUNT_DISABLED: _ClassVar[RejectionReason]
    REJECTION_REASON_UNKNOWN_SESSION: _ClassVar[RejectionReason]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_REQUEST: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_CREDENTIALS: _ClassVar[ErrorReason]
    ERROR_REASON_ACCOUNT_DISABLED: _ClassVar[ErrorReason]
    ERROR_REASON_CALLER_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_CALLER_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_ACCOUNT_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_ACCOUNT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_THROTTLED: _ClassVar[ErrorReason]
    ERROR_REASON_ACCOUNTS_READ_ONLY: _ClassVar[ErrorReason]
    ERROR_REASON_CALLER_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_CALLER_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_LIMIT: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_SLOW: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_REQUIRED: _ClassVar[ErrorReason]
    ERROR_REASON_SLOT_REQUIRED: _ClassVar[ErrorReason]
    ERROR_REASON_ROLE_REQUIRED: _ClassVar[ErrorReason]
REJECTION_REASON_UNSPECIFIED: RejectionReason
REJECTION_REASON_MALFORMED: RejectionReason
REJECTION_REASON_BAD_SIGNATURE: RejectionReason
REJECTION_REASON_NOT_YET_VALID: RejectionReason
REJECTION_REASON_EXPIRED: RejectionReason
REJECTION_REASON_IDLE_TIMEOUT: RejectionReason
REJECTION_REASON_REPLACED: RejectionReason
REJECTION_REASON_KICKED: RejectionReason
REJECTION_REASON_LOGGED_OUT: RejectionReason
REJECTION_REASON_EVICTED: RejectionReason
REJECTION_REASON_CREDENTIALS_CHANGED: RejectionReason
REJECTION_REASON_ACCOUNT_DISABLED: RejectionReason
REJECTION_REASON_UNKNOWN_SESSION: RejectionReason
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_REQUEST: ErrorReason
ERROR_REASON_INVALID_CREDENTIALS: ErrorReason
ERROR_REASON_ACCOUNT_DISABLED: ErrorReason
ERROR_REASON_CALLER_UNAUTHENTICATED: ErrorReason
ERROR_REASON_CALLER_NOT_ALLOWED: ErrorReason
ERROR_REASON_ACCOUNT_EXISTS: ErrorReason
ERROR_REASON_ACCOUNT_NOT_FOUND: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_THROTTLED: ErrorReason
ERROR_REASON_ACCOUNTS_READ_ONLY: ErrorReason
ERROR_REASON_CALLER_EXISTS: ErrorReason
ERROR_REASON_CALLER_NOT_FOUND: ErrorReason
ERROR_REASON_SESSION_LIMIT: ErrorReason
ERROR_REASON_TOO_SLOW: ErrorReason
ERROR_REASON_TOKEN_REQUIRED: ErrorReason
ERROR_REASON_SLOT_REQUIRED: ErrorReason
ERROR_REASON_ROLE_REQUIRED: ErrorReason

class Rejection(_message.Message):
    __slots__ = ("reason", "at", "by_device", "message", "terminal")
    REASON_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    BY_DEVICE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    reason: RejectionReason
    at: _timestamp_pb2.Timestamp
    by_device: str
    message: str
    terminal: bool
    def __init__(self, reason: _Optional[_Union[RejectionReason, str]] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., by_device: _Optional[str] = ..., message: _Optional[str] = ..., terminal: bool = ...) -> None: ...
