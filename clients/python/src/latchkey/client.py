"""A client for logging in and out on behalf of users."""

from __future__ import annotations

import grpc

from latchkey.identity import Identity
from latchkey.rejected import Rejected, no_token
from latchkey.rules import verdict
from latchkey.v1 import auth_pb2, auth_pb2_grpc


class Client:
    """The calls that most services make. All others are in ``latchkey.v1``."""

    def __init__(self, channel: grpc.Channel, *, caller_key: str | None = None, timeout: float = 10.0) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._rest = {"metadata": (("x-latchkey-key", caller_key),) if caller_key else (), "timeout": timeout}

    def login(self, username: str, password: str, *, device: str = "", slot: str = "") -> auth_pb2.LoginResponse:
        """Opens a session. Returns the token, the session and the displaced sessions."""
        request = auth_pb2.LoginRequest(username=username, password=password, device=device, slot=slot)
        return self._stub.Login(request, **self._rest)

    def validate(self, token: str, *, peek: bool = False) -> Identity:
        """Returns the identity, or raises :class:`Rejected`. A ``grpc.RpcError`` says nothing about the token."""
        if not token:
            raise Rejected(no_token())
        request = auth_pb2.ValidateRequest(token=token, peek=peek)
        return verdict(self._stub.Validate(request, **self._rest))

    def logout(self, token: str) -> auth_pb2.LogoutResponse:
        """Ends the session of the token. It is not an error if it has ended already, or if the token is invalid."""
        if not token:
            return auth_pb2.LogoutResponse(rejection=no_token())
        return self._stub.Logout(auth_pb2.LogoutRequest(token=token), **self._rest)
