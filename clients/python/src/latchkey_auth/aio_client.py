"""A client of Latchkey for ``grpc.aio``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from latchkey_auth import calls
from latchkey_auth.aio_channel import opened
from latchkey_auth.calls import Login, Logout, LogoutScope
from latchkey_auth.errors import LatchkeyError, Rejected, of_rpc_error
from latchkey_auth.identity import Identity
from latchkey_auth.rules import question, verdict
from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc, session_pb2, session_pb2_grpc

if TYPE_CHECKING:
    from typing_extensions import Self


class Client:
    """As :class:`latchkey_auth.Client`, with the same parameters. It may be created before the event loop."""

    def __init__(self, latchkey: str | grpc.aio.Channel, *, caller_key: str | None = None, timeout: float = 10.0) -> None:
        channel, self._own = opened(latchkey)
        self._auth = auth_pb2_grpc.AuthServiceStub(channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(channel)
        self._key = caller_key
        self._timeout = timeout
        self._closed = False

    async def close(self) -> None:
        """Closes the channel, if the client was given an address."""
        self._closed = True
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def login(
        self,
        username: str,
        password: str,
        *,
        slot: str = "",
        device: str = "",
        takeover: bool = False,
        idempotency_key: str = "",
        client_address: str | None = None,
        cookie: bool | str = False,
    ) -> Login:
        """As :meth:`latchkey_auth.Client.login`."""
        request = auth_pb2.LoginRequest(
            username=username,
            password=password,
            slot=slot,
            device=device,
            takeover=takeover,
            idempotency_key=idempotency_key,
        )
        return calls.login(*await self._call(self._auth.Login, request, client_address, cookie))

    async def validate(self, token: str, *, peek: bool = False, max_staleness: timedelta | None = None) -> Identity:
        """As :meth:`latchkey_auth.Client.validate`."""
        if not token:
            raise Rejected.no_token()
        request = question(token, peek=peek, max_staleness=max_staleness)
        return verdict((await self._call(self._auth.Validate, request))[0])

    async def validate_stream(
        self, tokens: AsyncIterable[str] | Iterable[str], *, peek: bool = False, max_staleness: timedelta | None = None
    ) -> AsyncIterator[Identity | LatchkeyError]:
        """As :meth:`latchkey_auth.Client.validate_stream`."""
        asked: deque[str] = deque()

        def ask(token: str) -> auth_pb2.ValidateRequest:
            asked.append(token)
            return question(token, peek=peek, max_staleness=max_staleness)

        async def requests() -> AsyncIterator[auth_pb2.ValidateRequest]:
            if isinstance(tokens, AsyncIterable):
                async for token in tokens:
                    yield ask(token)
            else:
                for token in tokens:
                    yield ask(token)

        call = self._auth.ValidateStream(requests(), metadata=calls.metadata(self._key))
        try:
            async for answer in call:
                yield calls.streamed(answer, asked.popleft())
        except grpc.RpcError as why:
            raise of_rpc_error(why) from why
        finally:
            call.cancel()

    async def logout(self, token: str, *, scope: LogoutScope = "this", cookie: bool | str = False) -> Logout:
        """As :meth:`latchkey_auth.Client.logout`."""
        if not token and not isinstance(cookie, str):
            return Logout(0, Rejected.no_token())
        request = calls.logout_request(token, scope)
        try:
            return calls.logout(*await self._call(self._auth.Logout, request, None, cookie))
        except LatchkeyError as why:
            return calls.logout_error(why, token)

    async def watch_session(self, token: str, *, outage_grace: float = 60.0) -> AsyncIterator[Identity | Rejected]:
        """As :meth:`latchkey_auth.Client.watch_session`."""
        if not token:
            yield Rejected.no_token()
            return
        watch, metadata = calls.Watch(outage_grace), calls.metadata(self._key)
        while not self._closed:
            call = self._auth.WatchSession(auth_pb2.WatchSessionRequest(token=token), metadata=metadata)
            why: LatchkeyError = calls.ended_early()
            try:
                async for message in call:
                    event = watch.event(message)
                    if event is not None:
                        yield event
                    if isinstance(event, Rejected):
                        return
            except grpc.RpcError as error:
                why = of_rpc_error(error)
            except asyncio.CancelledError:
                # gRPC raises this when the channel is closed, too.
                if not self._closed or _is_cancelled():
                    raise
            finally:
                call.cancel()
            if self._closed:
                return
            wait = watch.broke(why)
            if isinstance(wait, Rejected):
                yield wait
                return
            await asyncio.sleep(wait)

    async def change_password(
        self, token: str, current_password: str, new_password: str, *, client_address: str | None = None
    ) -> int:
        """As :meth:`latchkey_auth.Client.change_password`."""
        if not token:
            raise Rejected.no_token()
        request = auth_pb2.ChangePasswordRequest(token=token, current_password=current_password, new_password=new_password)
        answer: auth_pb2.ChangePasswordResponse = (await self._call(self._auth.ChangePassword, request, client_address))[0]
        return answer.ended

    async def jwks(self) -> dict[str, Any]:
        """As :meth:`latchkey_auth.Client.jwks`."""
        return calls.jwks((await self._call(self._auth.GetJwks, auth_pb2.GetJwksRequest()))[0])

    async def issue_session(
        self,
        user_id: str = "",
        *,
        username: str = "",
        slot: str = "",
        device: str = "",
        takeover: bool = False,
        idempotency_key: str = "",
        client_address: str | None = None,
    ) -> Login:
        """As :meth:`latchkey_auth.Client.issue_session`."""
        request = session_pb2.IssueSessionRequest(
            user_id=user_id,
            username=username,
            slot=slot,
            device=device,
            takeover=takeover,
            idempotency_key=idempotency_key,
        )
        return calls.login((await self._call(self._sessions.IssueSession, request, client_address))[0])

    async def list_sessions(self, user_id: str) -> list[Identity]:
        """As :meth:`latchkey_auth.Client.list_sessions`."""
        request = session_pb2.ListSessionsRequest(user_id=user_id)
        answer: session_pb2.ListSessionsResponse = (await self._call(self._sessions.ListSessions, request))[0]
        return [Identity.of(session) for session in answer.sessions]

    async def list_all_sessions(self, *, page_size: int = 0) -> AsyncIterator[Identity]:
        """As :meth:`latchkey_auth.Client.list_all_sessions`."""
        request = session_pb2.ListSessionsRequest(everyone=True, page_size=page_size)
        while True:
            answer: session_pb2.ListSessionsResponse = (await self._call(self._sessions.ListSessions, request))[0]
            for session in answer.sessions:
                yield Identity.of(session)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def end_sessions(self, user_id: str, *, slot: str = "", session_id: str = "", message: str = "") -> int:
        """As :meth:`latchkey_auth.Client.end_sessions`."""
        request = session_pb2.EndSessionsRequest(user_id=user_id, slot=slot, session_id=session_id, message=message)
        answer: session_pb2.EndSessionsResponse = (await self._call(self._sessions.EndSessions, request))[0]
        return answer.ended

    async def end_all_sessions(self, *, message: str = "") -> None:
        """As :meth:`latchkey_auth.Client.end_all_sessions`."""
        await self._call(self._sessions.EndSessions, session_pb2.EndSessionsRequest(everyone=True, message=message))

    async def _call(
        self, method: Any, request: Any, client_address: str | None = None, cookie: bool | str = False
    ) -> tuple[Any, Any]:
        metadata = calls.metadata(self._key, client_address, cookie)
        try:
            call = method(request, metadata=metadata, timeout=self._timeout)
            return await call, await call.initial_metadata()
        except grpc.RpcError as why:
            raise of_rpc_error(why) from why


def _is_cancelled() -> bool:
    """Whether the current task was cancelled. Python 3.10 cannot tell."""
    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is not None and cancelling() > 0
