"""What the guards for HTTP share: the token of a request, the verdict, and the answer to a denied one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from latchkey_auth import aio_channel, bearer, denial
from latchkey_auth.channel import opened
from latchkey_auth.denial import Denial
from latchkey_auth.identity import Identity
from latchkey_auth.rules import CheckOptions, CheckRules, no_verdict, require
from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc

if TYPE_CHECKING:
    from typing_extensions import Unpack


class HttpOptions(CheckOptions, total=False):
    """The options of a guard for HTTP."""

    open_paths: Iterable[str]
    cookie: str | None


@dataclass(frozen=True)
class HttpRules(CheckRules):
    """The options of a guard for HTTP.

    :param caller_key: the caller key for Latchkey, needed with ``access.validate = "caller"``.
    :param open_paths: paths that are open to everybody. Each is a whole path, such as ``/health``.
    :param required_role: requests of users without this role get 403.
    :param required_slot: requests of sessions in other slots get 403.
    :param max_staleness: lets Latchkey answer from its near-cache, at most this ``timedelta`` old.
    :param peek: requests do not count as a use of the session.
    :param timeout: time limit for Latchkey's answer, in seconds.
    :param cookie: the name of a cookie that has the token if ``authorization`` is missing: that of ``gateway.cookie``.
    """

    _: KW_ONLY
    open_paths: Iterable[str] = ()
    cookie: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.open_paths, str):
            raise TypeError("open_paths is a list of paths, not one string")
        paths = frozenset(self.open_paths)
        for path in paths:
            if not path.startswith("/"):
                raise ValueError(f"open_paths: {path!r} is no path: write /{path}")
        object.__setattr__(self, "open_paths", paths)

    def is_open(self, path: str) -> bool:
        """Whether the path is open to everybody."""
        return path in self.open_paths

    def tokens(self, authorization: list[str], cookies: Iterable[str]) -> list[str]:
        """Returns the token of a request, or several that came in cookies. Raises a ``Denial`` if there is none."""
        empty = not authorization or (len(authorization) == 1 and bearer.is_empty(authorization[0]))
        if self.cookie is not None and empty:
            tokens = bearer.cookies(cookies, self.cookie)
            if tokens:
                return tokens
        return [bearer.token(authorization)]


class Checker:
    """Asks Latchkey about requests, in threads."""

    def __init__(self, latchkey: str | grpc.Channel, **options: Unpack[HttpOptions]) -> None:
        self.rules = HttpRules(**options)
        channel, self._own = opened(latchkey)
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)

    def check(
        self,
        what: str,
        authorization: list[str],
        cookies: Iterable[str] = (),
        role: str | None = None,
        slot: str | None = None,
    ) -> Identity:
        """Returns the identity of the caller, or raises a ``Denial``."""
        denials = []
        for token in self.rules.tokens(authorization, cookies):
            try:
                who = self.rules.admit(self._validate(token))
                require(who, role, slot)
                return who
            except Denial as why:
                denials.append(why)
            except Exception as why:
                raise no_verdict(what, why) from why
        raise first(denials)

    def _validate(self, token: str) -> auth_pb2.ValidateResponse:
        rules = self.rules
        request = rules.question(token, peek=rules.peek)
        return self._stub.Validate(request, timeout=rules.timeout, metadata=rules.metadata())

    def close(self) -> None:
        """Closes the channel, if the guard was given an address."""
        if self._own is not None:
            self._own.close()


class AioChecker:
    """Asks Latchkey about requests, in coroutines."""

    def __init__(self, latchkey: str | grpc.aio.Channel, **options: Unpack[HttpOptions]) -> None:
        self.rules = HttpRules(**options)
        channel, self._own = aio_channel.opened(latchkey)
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)

    async def check(
        self,
        what: str,
        authorization: list[str],
        cookies: Iterable[str] = (),
        role: str | None = None,
        slot: str | None = None,
    ) -> Identity:
        """Returns the identity of the caller, or raises a ``Denial``."""
        denials = []
        for token in self.rules.tokens(authorization, cookies):
            try:
                who = self.rules.admit(await self._validate(token))
                require(who, role, slot)
                return who
            except Denial as why:
                denials.append(why)
            except Exception as why:
                raise no_verdict(what, why) from why
        raise first(denials)

    async def _validate(self, token: str) -> auth_pb2.ValidateResponse:
        rules = self.rules
        request = rules.question(token, peek=rules.peek)
        return await self._stub.Validate(request, timeout=rules.timeout, metadata=rules.metadata())

    async def close(self) -> None:
        """Closes the channel, if the guard was given an address."""
        if self._own is not None:
            await self._own.close()


def first(denials: list[Denial]) -> Denial:
    """Returns the answer to a request none of whose tokens was accepted. A live session is more telling than a dead one."""
    forbidden = (why for why in denials if why.reason in ("ROLE_REQUIRED", "SLOT_REQUIRED"))
    return next(forbidden, denials[0] if denials else denial.token_required())
