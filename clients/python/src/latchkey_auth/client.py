"""A client of Latchkey for threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc

from latchkey_auth import calls
from latchkey_auth.calls import Login, Logout, LogoutScope
from latchkey_auth.channel import opened
from latchkey_auth.errors import LatchkeyError, Rejected, of_rpc_error
from latchkey_auth.identity import Identity
from latchkey_auth.rules import question, verdict
from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc, session_pb2, session_pb2_grpc

if TYPE_CHECKING:
    from typing_extensions import Self


class Client:
    """Every method of AuthService and SessionService but the revocation feed. All others are in ``latchkey_auth.v1``.

    Every method raises a :class:`~latchkey_auth.LatchkeyError`. :class:`~latchkey_auth.Unavailable` says nothing about
    tokens and passwords.

    :param latchkey: the address of Latchkey, without TLS, or a channel, see :func:`latchkey_auth.channel`.
    :param caller_key: the caller key, for methods that need one.
    :param timeout: time limit of a call, in seconds.
    """

    def __init__(self, latchkey: str | grpc.Channel, *, caller_key: str | None = None, timeout: float = 10.0) -> None:
        channel, self._own = opened(latchkey)
        self._auth = auth_pb2_grpc.AuthServiceStub(channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(channel)
        self._key = caller_key
        self._timeout = timeout
        self._closed = False

    def close(self) -> None:
        """Closes the channel, if the client was given an address."""
        self._closed = True
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def login(
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
        """Checks a password and opens a session.

        :param slot: the slot. Without one: the first that is configured.
        :param device: a name of the client that a displaced user recognises, such as ``Firefox on Linux``.
        :param takeover: displaces the holder of a full slot. For users who were shown a ``SessionLimit`` and insist.
        :param idempotency_key: a name of this login, such as a UUID. Repeating it within a minute opens no other session.
        :param client_address: the address of the user, for a server that Latchkey trusts (``throttle.trusted_proxies``).
        :param cookie: ``True`` asks for the token in a cookie for a browser, see ``Login.set_cookie``. The header
            ``Cookie`` of the browser, if given, lets Latchkey remove cookies of other scopes.
        """
        request = auth_pb2.LoginRequest(
            username=username,
            password=password,
            slot=slot,
            device=device,
            takeover=takeover,
            idempotency_key=idempotency_key,
        )
        return calls.login(*self._call(self._auth.Login, request, client_address, cookie))

    def validate(self, token: str, *, peek: bool = False, max_staleness: timedelta | None = None) -> Identity:
        """Returns the session of the token, or raises :class:`~latchkey_auth.Rejected`.

        :param peek: does not count as a use of the session.
        :param max_staleness: the maximum age of the answer. Zero reads the primary store.
        """
        if not token:
            raise Rejected.no_token()
        request = question(token, peek=peek, max_staleness=max_staleness)
        return verdict(self._call(self._auth.Validate, request)[0])

    def validate_stream(
        self, tokens: Iterable[str], *, peek: bool = False, max_staleness: timedelta | None = None
    ) -> Iterator[Identity | LatchkeyError]:
        """Validates many tokens over one stream. Yields the session or the error for each token, in their order."""
        asked: deque[str] = deque()

        def requests() -> Iterator[auth_pb2.ValidateRequest]:
            for token in tokens:
                asked.append(token)
                yield question(token, peek=peek, max_staleness=max_staleness)

        call = self._auth.ValidateStream(requests(), metadata=calls.metadata(self._key))
        try:
            for answer in call:
                yield calls.streamed(answer, asked.popleft())
        except grpc.RpcError as why:
            raise of_rpc_error(why) from why
        finally:
            call.cancel()

    def logout(self, token: str, *, scope: LogoutScope = "this", cookie: bool | str = False) -> Logout:
        """Ends the session of the token, all others of its user (``others``), or all (``all``).

        A token that is dead already, or none, is not an error: no session is ended, and the result says why.

        :param cookie: as in ``login``. Without a token it is taken from the cookie.
        """
        if not token and not isinstance(cookie, str):
            return Logout(0, Rejected.no_token())
        request = calls.logout_request(token, scope)
        try:
            return calls.logout(*self._call(self._auth.Logout, request, None, cookie))
        except LatchkeyError as why:
            return calls.logout_error(why, token)

    def watch_session(self, token: str, *, outage_grace: float = 60.0) -> Iterator[Identity | Rejected]:
        """Yields the session and, when it has ended, the :class:`~latchkey_auth.Rejected` that says why.

        For a token that is dead already it yields only the latter. Connections that break are restored. It raises
        :class:`~latchkey_auth.Unavailable` if Latchkey cannot be reached at first, or for longer than ``outage_grace``
        seconds.
        """
        if not token:
            yield Rejected.no_token()
            return
        watch, metadata = calls.Watch(outage_grace), calls.metadata(self._key)
        while not self._closed:
            call = self._auth.WatchSession(auth_pb2.WatchSessionRequest(token=token), metadata=metadata)
            why: LatchkeyError = calls.ended_early()
            try:
                for message in call:
                    event = watch.event(message)
                    if event is not None:
                        yield event
                    if isinstance(event, Rejected):
                        return
            except grpc.RpcError as error:
                why = of_rpc_error(error)
            finally:
                call.cancel()
            if self._closed:
                return
            wait = watch.broke(why)
            if isinstance(wait, Rejected):
                yield wait
                return
            time.sleep(wait)

    def change_password(
        self, token: str, current_password: str, new_password: str, *, client_address: str | None = None
    ) -> int:
        """Sets a new password and ends all other sessions of the user. Returns the number of sessions that it ended."""
        if not token:
            raise Rejected.no_token()
        request = auth_pb2.ChangePasswordRequest(token=token, current_password=current_password, new_password=new_password)
        answer: auth_pb2.ChangePasswordResponse = self._call(self._auth.ChangePassword, request, client_address)[0]
        return answer.ended

    def jwks(self) -> dict[str, Any]:
        """Returns the public keys that verify tokens, a JSON Web Key Set."""
        return calls.jwks(self._call(self._auth.GetJwks, auth_pb2.GetJwksRequest())[0])

    def issue_session(
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
        """Opens a session for a user whom the caller has authenticated itself. For caller keys with the role ``issuer``.

        The other parameters are those of ``login``.

        :param username: instead of ``user_id``, for accounts that are found by username only.
        """
        request = session_pb2.IssueSessionRequest(
            user_id=user_id,
            username=username,
            slot=slot,
            device=device,
            takeover=takeover,
            idempotency_key=idempotency_key,
        )
        return calls.login(self._call(self._sessions.IssueSession, request, client_address)[0])

    def list_sessions(self, user_id: str) -> list[Identity]:
        """Returns the live sessions of a user, the oldest login first. For caller keys with the role ``operator``."""
        request = session_pb2.ListSessionsRequest(user_id=user_id)
        answer: session_pb2.ListSessionsResponse = self._call(self._sessions.ListSessions, request)[0]
        return [Identity.of(session) for session in answer.sessions]

    def list_all_sessions(self, *, page_size: int = 0) -> Iterator[Identity]:
        """Yields the live sessions of all users, in the order of their usernames, and reads a page at a time."""
        request = session_pb2.ListSessionsRequest(everyone=True, page_size=page_size)
        while True:
            answer: session_pb2.ListSessionsResponse = self._call(self._sessions.ListSessions, request)[0]
            yield from map(Identity.of, answer.sessions)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def end_sessions(self, user_id: str, *, slot: str = "", session_id: str = "", message: str = "") -> int:
        """Ends the sessions of a user, those in a slot, or a single one. Returns the number of sessions that it ended.

        For caller keys with the role ``operator``.

        :param message: is shown to the user instead of the default sentence.
        """
        request = session_pb2.EndSessionsRequest(user_id=user_id, slot=slot, session_id=session_id, message=message)
        answer: session_pb2.EndSessionsResponse = self._call(self._sessions.EndSessions, request)[0]
        return answer.ended

    def end_all_sessions(self, *, message: str = "") -> None:
        """Ends all sessions of all users, for example after a signing key has leaked."""
        self._call(self._sessions.EndSessions, session_pb2.EndSessionsRequest(everyone=True, message=message))

    def _call(
        self, method: Any, request: Any, client_address: str | None = None, cookie: bool | str = False
    ) -> tuple[Any, Any]:
        metadata = calls.metadata(self._key, client_address, cookie)
        try:
            answer, call = method.with_call(request, metadata=metadata, timeout=self._timeout)
            return answer, call.initial_metadata()
        except grpc.RpcError as why:
            raise of_rpc_error(why) from why
