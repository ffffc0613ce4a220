"""What is known of the session of a stream that runs, whether it is waited for in a thread or in a coroutine."""

from __future__ import annotations

import random
import threading
import time

import grpc

from latchkey import refusal
from latchkey.rejected import Rejected
from latchkey.rules import Rules, in_short, log
from latchkey.v1 import auth_pb2

_FIRST_PAUSE = 0.1
_ASK_EVERY = 10.0
_WATCH_FOR = 60.0


class Places:
    """How many sessions a guard may watch at a time. A connection carries 256 calls at most, or fewer where something
    stands between, and every call of the guard's has to find room on it."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)
        self._told = False

    def __enter__(self) -> None:
        if not self._free.acquire(blocking=False):
            raise NoPlace("the guard watches as many as it may")

    def __exit__(self, *_: object) -> None:
        self._free.release()

    def tell(self, why: Exception) -> None:
        """Once: it is the same for every stream."""
        refused = isinstance(why, grpc.RpcError) and why.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        if (refused or isinstance(why, NoPlace)) and not self._told:
            self._told = True
            log.warning("some streams are not watched, and asked about every 10 s: %s", in_short(why))


class NoPlace(Exception):
    """The guard watches as many streams as it may."""


class News:
    """Latchkey tells of the end of a session that is watched. A watch that breaks says nothing of the session, so that
    Latchkey is asked; and where a session cannot be watched it is asked again and again."""

    def __init__(self, rules: Rules, method: str) -> None:
        self._grace = rules.outage_grace
        self._method = method
        self._live = time.monotonic()
        self._pause = _FIRST_PAUSE

    @staticmethod
    def watch_for() -> float:
        """How long to watch at a time: a connection that is dead and does not say so must not be trusted for ever."""
        return _jittered(_WATCH_FOR)

    def told(self, message: auth_pb2.WatchSessionResponse) -> None:
        """A watch told of the session; of its end, a ``Refusal`` is raised."""
        match message.WhichOneof("verdict"):
            case "session":
                self._pause = _FIRST_PAUSE
            case "rejection":
                raise refusal.rejected(Rejected(message.rejection))
            case _:
                raise RuntimeError("Latchkey told of neither a session nor its end")

    def broke(self, watched: bool) -> None:
        """A watch broke, which for a while went well or did not."""
        if watched:
            self._live = time.monotonic()

    def answered(self, answer: auth_pb2.ValidateResponse) -> float:
        """Latchkey was asked: how long to wait. If the session has ended, a ``Refusal`` is raised."""
        match answer.WhichOneof("verdict"):
            case "session":
                self._live = time.monotonic()
                return self._next()
            case "rejection":
                raise refusal.rejected(Rejected(answer.rejection))
            case _:
                return self.silent(RuntimeError("Latchkey answered without a verdict"))

    def silent(self, why: Exception) -> float:
        """Latchkey gave no verdict: how long to wait. After too long a time a ``Refusal`` is raised."""
        left = self._live + self._grace - time.monotonic()
        if left <= 0:
            log.warning("a stream of %s ends, because Latchkey is away: %s", self._method, in_short(why))
            raise refusal.unavailable()
        return min(left, self._next())

    def _next(self) -> float:
        pause = _jittered(self._pause)
        self._pause = min(2 * self._pause, _ASK_EVERY)
        return pause


def _jittered(pause: float) -> float:
    """Somewhat less: not all that began at once shall end at once."""
    return pause * random.uniform(0.5, 1)
