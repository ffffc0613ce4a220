import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from latchkey_auth.v1 import auth_pb2 as _auth_pb2
from latchkey_auth.v1 import reason_pb2 as _reason_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IssueSessionRequest(_message.Message):
    __slots__ = ("user_id", "slot", "device", "idempotency_key", "takeover", "username")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    TAKEOVER_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    slot: str
    device: str
    idempotency_key: str
    takeover: bool
    username: str
    def __init__(self, user_id: _Optional[str] = ..., slot: _Optional[str] = ..., device: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., takeover: bool = ..., username: _Optional[str] = ...) -> None: ...

class IssueSessionResponse(_message.Message):
    __slots__ = ("token", "session", "displaced")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DISPLACED_FIELD_NUMBER: _ClassVar[int]
    token: str
    session: _auth_pb2.Session
    displaced: _containers.RepeatedCompositeFieldContainer[_auth_pb2.DisplacedSession]
    def __init__(self, token: _Optional[str] = ..., session: _Optional[_Union[_auth_pb2.Session, _Mapping]] = ..., displaced: _Optional[_Iterable[_Union[_auth_pb2.DisplacedSession, _Mapping]]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("user_id", "everyone", "page_size", "page_token")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EVERYONE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    everyone: bool
    page_size: int
    page_token: str
    def __init__(self, user_id: _Optional[str] = ..., everyone: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[_auth_pb2.Session]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[_auth_pb2.Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class EndSessionsRequest(_message.Message):
    __slots__ = ("user_id", "slot", "session_id", "message", "everyone")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EVERYONE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    slot: str
    session_id: str
    message: str
    everyone: bool
    def __init__(self, user_id: _Optional[str] = ..., slot: _Optional[str] = ..., session_id: _Optional[str] = ..., message: _Optional[str] = ..., everyone: bool = ...) -> None: ...

class EndSessionsResponse(_message.Message):
    __slots__ = ("ended",)
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ended: int
    def __init__(self, ended: _Optional[int] = ...) -> None: ...

class WatchSessionsRequest(_message.Message):
    __slots__ = ("after", "user_id", "slot")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    after: str
    user_id: str
    slot: str
    def __init__(self, after: _Optional[str] = ..., user_id: _Optional[str] = ..., slot: _Optional[str] = ...) -> None: ...

class WatchSessionsResponse(_message.Message):
    __slots__ = ("cursor", "ended", "heartbeat", "resync", "everyone")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RESYNC_FIELD_NUMBER: _ClassVar[int]
    EVERYONE_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    ended: EndedSession
    heartbeat: Heartbeat
    resync: Resync
    everyone: EndedEveryone
    def __init__(self, cursor: _Optional[str] = ..., ended: _Optional[_Union[EndedSession, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., resync: _Optional[_Union[Resync, _Mapping]] = ..., everyone: _Optional[_Union[EndedEveryone, _Mapping]] = ...) -> None: ...

class EndedSession(_message.Message):
    __slots__ = ("user_id", "session_id", "slot", "rejection", "expires_at")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    slot: str
    rejection: _reason_pb2.Rejection
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., slot: _Optional[str] = ..., rejection: _Optional[_Union[_reason_pb2.Rejection, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class EndedEveryone(_message.Message):
    __slots__ = ("rejection",)
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    rejection: _reason_pb2.Rejection
    def __init__(self, rejection: _Optional[_Union[_reason_pb2.Rejection, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("as_of",)
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    as_of: _timestamp_pb2.Timestamp
    def __init__(self, as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Resync(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
