from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GreetRequest(_message.Message):
    __slots__ = ("greeting",)
    GREETING_FIELD_NUMBER: _ClassVar[int]
    greeting: str
    def __init__(self, greeting: _Optional[str] = ...) -> None: ...

class GreetResponse(_message.Message):
    __slots__ = ("text", "identity")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    identity: Identity
    def __init__(self, text: _Optional[str] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("user_id", "username", "session_id", "slot", "device", "roles", "issued_at_unix", "expires_at_unix")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    username: str
    session_id: str
    slot: str
    device: str
    roles: _containers.RepeatedScalarFieldContainer[str]
    issued_at_unix: int
    expires_at_unix: int
    def __init__(self, user_id: _Optional[str] = ..., username: _Optional[str] = ..., session_id: _Optional[str] = ..., slot: _Optional[str] = ..., device: _Optional[str] = ..., roles: _Optional[_Iterable[str]] = ..., issued_at_unix: _Optional[int] = ..., expires_at_unix: _Optional[int] = ...) -> None: ...

class BegunRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BegunResponse(_message.Message):
    __slots__ = ("count", "running")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    count: int
    running: int
    def __init__(self, count: _Optional[int] = ..., running: _Optional[int] = ...) -> None: ...
