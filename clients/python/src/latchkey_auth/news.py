"""The state of a watched session, for threads and coroutines."""

from __future__ import annotations

import random
import threading
import time

import grpc

from latchkey_auth import denial
from latchkey_auth.errors import Rejected
from latchkey_auth.rules import Rules, in_short, log
from latchkey_auth.v1 import auth_pb2

_FIRST_PAUSE = 0.1
_ASK_EVERY = 10.0
_WATCH_FOR = 60.0


class Places:
    """Limits the number of watched sessions. A connection carries at most 256 calls, or fewer behind a proxy, and all
    other calls of the guard need room on it."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)
        self._told = False

    def __enter__(self) -> None:
        if not self._free.acquire(blocking=False):
            raise NoPlace("the guard has reached max_watches")

    def __exit__(self, *_: object) -> None:
        self._free.release()

    def tell(self, why: Exception) -> None:
        """Logs a reached limit of watches, once for all streams."""
        refused = isinstance(why, grpc.RpcError) and why.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        if (refused or isinstance(why, NoPlace)) and not self._told:
            self._told = True
            log.warning("some streams are not watched and are validated every 10 s instead: %s", in_short(why))


class NoPlace(Exception):
    """The guard has reached its limit of watched streams."""


class News:
    """Follows one session. A watch that breaks says nothing about the session, so its token is validated. A session
    that cannot be watched is validated periodically."""

    def __init__(self, rules: Rules, method: str) -> None:
        self._grace = rules.outage_grace
        self._method = method
        self._live = time.monotonic()
        self._pause = _FIRST_PAUSE

    @staticmethod
    def watch_for() -> float:
        """Returns the maximum time of one watch, because a connection can be dead without an error."""
        return _jittered(_WATCH_FOR)

    def told(self, message: auth_pb2.WatchSessionResponse) -> None:
        """Handles a message of a watch. Raises a ``Denial`` if the session has ended."""
        match message.WhichOneof("verdict"):
            case "session":
                self._pause = _FIRST_PAUSE
            case "rejection":
                raise denial.rejected(Rejected.of(message.rejection))
            case _:
                raise RuntimeError("Latchkey sent neither a session nor a rejection")

    def broke(self, watched: bool) -> None:
        """Handles the end of a watch. ``watched`` says whether it had received a session."""
        if watched:
            self._live = time.monotonic()

    def answered(self, answer: auth_pb2.ValidateResponse) -> float:
        """Handles a verdict and returns the next delay. Raises a ``Denial`` if the session has ended."""
        match answer.WhichOneof("verdict"):
            case "session":
                self._live = time.monotonic()
                return self._next()
            case "rejection":
                raise denial.rejected(Rejected.of(answer.rejection))
            case _:
                return self.silent(RuntimeError("Latchkey answered without a verdict"))

    def silent(self, why: Exception) -> float:
        """Handles a missing verdict and returns the next delay. Raises a ``Denial`` after ``outage_grace``."""
        left = self._live + self._grace - time.monotonic()
        if left <= 0:
            log.warning("ended a stream of %s because Latchkey is unavailable: %s", self._method, in_short(why))
            raise denial.unavailable()
        return min(left, self._next())

    def _next(self) -> float:
        pause = _jittered(self._pause)
        self._pause = min(2 * self._pause, _ASK_EVERY)
        return pause


def _jittered(pause: float) -> float:
    """Shortens a pause at random, so that streams that began together do not reconnect together."""
    return pause * random.uniform(0.5, 1)
