"""Streams of a ``grpc.server`` that end with their callers' sessions.

Nobody can end a thread of Python's, and only the thread that runs a call's handler can end the call with a status that
has details. So the handler runs in a thread of its own, and the one that gRPC gave to the call waits for its answers
and for the end of the session, whichever comes first.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, NoReturn

import grpc

from latchkey.refusal import Refusal


def abort(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    """Ends the call with it."""
    context.set_trailing_metadata(refusal.trailing_metadata)
    context.abort(refusal.code, refusal.message)
    raise refusal


class SessionEnded(grpc.RpcError):
    """The session of the caller has ended: no more requests come, and these may not be all."""


class Stream:
    """A call whose handler runs elsewhere."""

    def __init__(
        self, behavior: Callable[[Any, Any], Any], request: Any, context: grpc.ServicerContext, requests: bool
    ) -> None:
        self.over = threading.Event()
        """Whether the call has ended."""
        self._behavior = behavior
        self._request = _Requests(request, self) if requests else request
        self._context = context
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._news: SimpleQueue[_News] = SimpleQueue()
        self._lock = threading.Lock()
        self._last_words: list[Callable[[], Any]] = []
        self.ended: Refusal | None = None
        """What the caller is told of the end of the session."""
        if not context.add_callback(self._is_over):
            self._is_over()

    def when_over(self, do: Callable[[], Any]) -> None:
        """Does something when the call has ended."""
        with self._lock:
            if not self.over.is_set():
                self._last_words = [do]
                return
        do()

    def _is_over(self) -> None:
        with self._lock:
            self.over.set()
            last_words, self._last_words = self._last_words, []
        self._wanted.put(False)
        for do in last_words:
            do()

    def end(self, refusal: Refusal) -> None:
        """The session has ended."""
        self.ended = refusal
        self._news.put(_Ended(refusal))

    def answer(self) -> Any:
        """What the handler returns."""
        self._start(self._run_once)
        return self._next().take(self._context)

    def answers(self) -> Iterator[Any]:
        """What the handler yields, each when it is asked for, as gRPC does it."""
        self._start(self._run)
        try:
            while True:
                self._wanted.put(True)
                news = self._next()
                if isinstance(news, _Done):
                    return
                yield news.take(self._context)
        finally:
            self._wanted.put(False)

    def _next(self) -> _News:
        news = self._news.get()
        # The handler may have stopped because the session has ended.
        return news if self.ended is None else _Ended(self.ended)

    def _start(self, run: Callable[[], None]) -> None:
        # It has the caller's identity, and whatever else stands around the call.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run,), name="latchkey-handler", daemon=True).start()

    def _run_once(self) -> None:
        try:
            self._news.put(_Answer(self._behavior(self._request, self._context)))
        except BaseException as why:
            self._news.put(_Raised(why))

    def _run(self) -> None:
        try:
            answers = iter(self._behavior(self._request, self._context))
            try:
                while self._wanted.get():
                    try:
                        answer = next(answers)
                    except StopIteration:
                        break
                    self._news.put(_Answer(answer))
            finally:
                # In a generator, that is raised where it has stopped.
                getattr(answers, "close", lambda: None)()
        except BaseException as why:
            self._news.put(_Raised(why))
        # Whoever still asks is not left waiting.
        self._news.put(_Done())


class _Requests:
    """The requests of a call, which break off where the session ends."""

    def __init__(self, requests: Iterator[Any], stream: Stream) -> None:
        self._requests = requests
        self._stream = stream

    def __iter__(self) -> _Requests:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._requests)
        except Exception:
            # gRPC tells it as if the client had nothing more to say.
            if self._stream.ended is not None:
                raise SessionEnded("the session of the caller has ended") from None
            raise


class _News:
    def take(self, context: grpc.ServicerContext) -> Any:
        raise NotImplementedError


class _Answer(_News):
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def take(self, context: grpc.ServicerContext) -> Any:
        return self._answer


class _Raised(_News):
    def __init__(self, why: BaseException) -> None:
        self._why = why

    def take(self, context: grpc.ServicerContext) -> Any:
        raise self._why


class _Ended(_News):
    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def take(self, context: grpc.ServicerContext) -> Any:
        abort(context, self._refusal)


class _Done(_News):
    pass
