"""The guard of a ``grpc.server``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Unpack

import grpc

from latchkey.identity import Identity, current
from latchkey.refusal import Refusal
from latchkey.rules import Options, Rules, no_verdict
from latchkey.v1 import auth_pb2_grpc

_HANDLERS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class Guard(grpc.ServerInterceptor):
    """Lets calls through whose token Latchkey finds good.

    :param channel: a connection to Latchkey; :func:`latchkey.channel` makes one.
    :param caller_key: says who asks, for a Latchkey with ``access.validate = "caller"``.
    :param open_methods: methods for everybody, by full names such as ``/grpc.health.v1.Health/Check``.
    :param max_staleness: lets Latchkey answer from memory, never with anything older than this ``timedelta``.
    :param peek: calls do not count as a use of the session.
    :param timeout: how long Latchkey may take, in seconds.
    :param required_role: who does not have it is told PERMISSION_DENIED.
    :param required_slot: the same for sessions of other slots.
    """

    def __init__(self, channel: grpc.Channel, **options: Unpack[Options]) -> None:
        self._rules = Rules(**options)
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method in self._rules.open_methods:
            return handler
        kind, make = _HANDLERS[handler.request_streaming, handler.response_streaming]
        behavior = getattr(handler, kind)

        # This method runs in the one thread that accepts calls; what waits has to wait in the handler's.
        @functools.wraps(behavior)
        def guarded(request: Any, context: grpc.ServicerContext, *rest: Any) -> Any:
            try:
                current.set(self._check(handler_call_details))
            except Refusal as refusal:
                context.set_trailing_metadata(refusal.trailing_metadata)
                context.abort(refusal.code, refusal.message)
            return behavior(request, context, *rest)

        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _check(self, details: grpc.HandlerCallDetails) -> Identity:
        rules = self._rules
        request = rules.request(details.invocation_metadata)
        try:
            answer = self._stub.Validate(request, timeout=rules.timeout, metadata=rules.metadata())
            return rules.admit(answer)
        except Refusal:
            raise
        except Exception as why:
            raise no_verdict(details.method, why) from why
