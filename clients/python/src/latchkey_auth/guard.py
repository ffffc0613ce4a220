"""The guard of a ``grpc.server``."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from latchkey_auth.channel import opened
from latchkey_auth.denial import Denial
from latchkey_auth.handlers import KINDS
from latchkey_auth.identity import Identity, current
from latchkey_auth.news import News, NoPlace, Places
from latchkey_auth.rules import Options, Rules, no_verdict
from latchkey_auth.stream import Stream, abort
from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Guard(grpc.ServerInterceptor):
    """Accepts only calls whose token has a live session.

    :param latchkey: the address of Latchkey, without TLS, or a channel, see :func:`latchkey_auth.channel`.
    :param caller_key: the caller key for Latchkey, needed with ``access.validate = "caller"``.
    :param open_methods: methods that are open to everybody, by full names such as ``/grpc.health.v1.Health/Check``.
    :param max_staleness: lets Latchkey answer from its near-cache, at most this ``timedelta`` old.
    :param peek: calls do not count as a use of the session.
    :param timeout: time limit for Latchkey's answer, in seconds.
    :param required_role: calls of users without this role get PERMISSION_DENIED.
    :param required_slot: calls of sessions in other slots get PERMISSION_DENIED.
    :param watch_streams: end streams when the session of their caller ends.
    :param max_watches: the maximum number of watched streams. The tokens of further streams are validated every 10
        seconds. Keep it well below Latchkey's ``server.max_streams`` and the limits of proxies in between, because
        all other calls of the guard share the same connection.
    :param outage_grace: how long streams continue while Latchkey is unavailable, in seconds.
    """

    def __init__(self, latchkey: str | grpc.Channel, **options: Unpack[Options]) -> None:
        self._rules = Rules(**options)
        channel, self._own = opened(latchkey)
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._places = Places(self._rules.max_watches)

    def close(self) -> None:
        """Closes the channel, if the guard was given an address."""
        if self._own is not None:
            self._own.close()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method in self._rules.open_methods:
            return handler
        kind, make = KINDS[handler.request_streaming, handler.response_streaming]
        behavior = getattr(handler, kind)
        method = handler_call_details.method
        streams = handler.request_streaming or handler.response_streaming
        watched = streams and self._rules.watch_streams

        # This method runs in the single thread that accepts calls, so the thread of the handler does the validation.
        @functools.wraps(behavior)
        def guarded(request: Any, context: grpc.ServicerContext, *rest: Any) -> Any:
            try:
                question = self._rules.request(handler_call_details.invocation_metadata)
                current.set(self._check(method, question))
            except Denial as denial:
                abort(context, denial)
            # A handler with a callback for its answers (an experimental feature of gRPC) cannot be ended.
            if not watched or rest:
                return behavior(request, context, *rest)
            stream = Stream(behavior, request, context, handler.request_streaming)
            self._watch_in_background(stream, method, question.token)
            return stream.answers() if handler.response_streaming else stream.answer()

        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _check(self, method: str, request: auth_pb2.ValidateRequest) -> Identity:
        try:
            return self._rules.admit(self._validate(request))
        except Denial:
            raise
        except Exception as why:
            raise no_verdict(method, why) from why

    def _validate(self, request: auth_pb2.ValidateRequest) -> auth_pb2.ValidateResponse:
        rules = self._rules
        return self._stub.Validate(request, timeout=rules.timeout, metadata=rules.metadata())

    def _watch_in_background(self, stream: Stream, method: str, token: str) -> None:
        threading.Thread(target=self._end, args=(stream, method, token), name="latchkey-watch", daemon=True).start()

    def _end(self, stream: Stream, method: str, token: str) -> None:
        """Ends the stream when the session has ended."""
        news = News(self._rules, method)
        question = self._rules.question(token, peek=True)
        try:
            while not stream.over.is_set():
                self._watch(stream, token, news)
                if stream.over.is_set():
                    return
                try:
                    wait = news.answered(self._validate(question))
                except grpc.RpcError as why:
                    wait = news.silent(why)
                stream.over.wait(wait)
        except Denial as denial:
            stream.end(denial)

    def _watch(self, stream: Stream, token: str, news: News) -> None:
        """Watches the session until the watch breaks."""
        watched = False
        request, rules = auth_pb2.WatchSessionRequest(token=token), self._rules
        try:
            with self._places:
                call = self._stub.WatchSession(request, timeout=news.watch_for(), metadata=rules.metadata())
                stream.when_over(call.cancel)
                for message in call:
                    news.told(message)
                    watched = True
        except (grpc.RpcError, NoPlace) as why:
            self._places.tell(why)
        news.broke(watched)
