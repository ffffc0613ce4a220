"""Ends streams of a ``grpc.server`` when the session of their caller ends.

Python cannot stop a thread, and only the thread that gRPC runs for a call can end the call with a status that has
details. So the handler runs in a thread of its own, and the thread of the call waits for its answers and for the end of
the session, whichever comes first.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, NoReturn

import grpc

from latchkey_auth.denial import Denial


def abort(context: grpc.ServicerContext, denial: Denial) -> NoReturn:
    """Ends the call with the denial."""
    context.set_trailing_metadata(denial.trailing_metadata)
    context.abort(denial.code, denial.message)
    raise denial


class SessionEnded(grpc.RpcError):
    """The session of the caller has ended. There are no further requests, and the received ones may be incomplete."""


class Stream:
    """A call whose handler runs in another thread."""

    def __init__(
        self, behavior: Callable[[Any, Any], Any], request: Any, context: grpc.ServicerContext, requests: bool
    ) -> None:
        self.over = threading.Event()
        """Set when the call has ended."""
        self._behavior = behavior
        self._request = _Requests(request, self) if requests else request
        self._context = context
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._news: SimpleQueue[_News] = SimpleQueue()
        self._lock = threading.Lock()
        self._last_words: list[Callable[[], Any]] = []
        self.ended: Denial | None = None
        """The denial for the caller, once the session has ended."""
        if not context.add_callback(self._is_over):
            self._is_over()

    def when_over(self, do: Callable[[], Any]) -> None:
        """Calls ``do`` when the call has ended."""
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

    def end(self, denial: Denial) -> None:
        """Ends the stream because the session has ended."""
        self.ended = denial
        self._news.put(_Ended(denial))

    def answer(self) -> Any:
        """Runs the handler and returns its answer."""
        self._start(self._run_once)
        return self._next().take(self._context)

    def answers(self) -> Iterator[Any]:
        """Runs the handler and yields its answers, each when gRPC asks for it."""
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
        # The handler may have returned because the session has ended.
        return news if self.ended is None else _Ended(self.ended)

    def _start(self, run: Callable[[], None]) -> None:
        # The copy contains the identity of the caller and other context variables of the call.
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
                # This raises GeneratorExit at the current yield of a generator.
                getattr(answers, "close", lambda: None)()
        except BaseException as why:
            self._news.put(_Raised(why))
        # Unblocks a reader that still waits.
        self._news.put(_Done())


class _Requests:
    """The requests of a call, which raise an error when the session ends."""

    def __init__(self, requests: Iterator[Any], stream: Stream) -> None:
        self._requests = requests
        self._stream = stream

    def __iter__(self) -> _Requests:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._requests)
        except Exception:
            # gRPC reports this as the regular end of the requests.
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
    def __init__(self, denial: Denial) -> None:
        self._denial = denial

    def take(self, context: grpc.ServicerContext) -> Any:
        abort(context, self._denial)


class _Done(_News):
    pass
