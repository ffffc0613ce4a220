"""A connection to Latchkey."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import grpc

# Calls take turns over all addresses of the target, and calls that are safe to repeat are repeated if Latchkey is
# unavailable. The file is a copy of proto/latchkey/v1/service_config.json.
SERVICE_CONFIG = resources.files("latchkey_auth").joinpath("service_config.json").read_text()

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", SERVICE_CONFIG),
    # By default gRPC waits up to two minutes between attempts, and every call fails meanwhile.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Detects a peer that has vanished without closing the connection.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # By default gRPC stops after two pings without data, as on a watch without events.
    ("grpc.http2.max_pings_without_data", 0),
    # Otherwise all channels of the process to one address share a connection and its backoff.
    ("grpc.use_local_subchannel_pool", 1),
)

CLOSED = "the channel to Latchkey is closed"


def authority(target: str) -> Sequence[tuple[str, str]]:
    """Returns the authority for a list of addresses, which gRPC would send as a whole. HTTP/2 servers reject that."""
    return [("grpc.default_authority", "latchkey")] if "," in target else []


def channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, object]] = (),
) -> grpc.Channel:
    """Creates a channel with keepalives, a short reconnect backoff and the service config of Latchkey.

    It uses plaintext without credentials. ``options`` override these settings. The channel connects at its first call,
    and each process that is forked before that has a connection of its own.
    """
    options = (*OPTIONS, *authority(target), *options)
    if credentials is None:
        return _Channel(lambda: grpc.insecure_channel(target, options=options))
    return _Channel(lambda: grpc.secure_channel(target, credentials, options=options))


def opened(latchkey: str | grpc.Channel) -> tuple[grpc.Channel, grpc.Channel | None]:
    """Returns the channel to use and, if it was made for an address, the one to close."""
    if isinstance(latchkey, str):
        own = channel(latchkey)
        return own, own
    if not isinstance(latchkey, grpc.Channel):
        raise TypeError(f"Latchkey is an address or a grpc.Channel, not {type(latchkey).__name__}: use latchkey_auth.channel")
    return latchkey, None


class _Channel(grpc.Channel):
    """Creates the channel of gRPC when it is first used: gRPC does not work in a process that is forked after that, and
    servers such as gunicorn fork after they have loaded the application."""

    def __init__(self, make: Callable[[], grpc.Channel]) -> None:
        self._make = make
        self._made: dict[int, grpc.Channel] = {}
        self._closed = False

    def real(self) -> grpc.Channel:
        process = os.getpid()
        made = self._made.get(process)
        if made is None:
            if self._closed:
                raise ValueError(CLOSED)
            # Without a lock, which a fork could copy while it is held.
            new = self._make()
            made = self._made.setdefault(process, new)
            if made is not new:
                new.close()
        return made

    def close(self) -> None:
        self._closed = True
        made = self._made.get(os.getpid())
        if made is not None:
            made.close()

    def __enter__(self) -> grpc.Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        self.real().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self.real().unsubscribe(callback)

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return _Method(self, "unary_unary", args, options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return _Method(self, "unary_stream", args, options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return _Method(self, "stream_unary", args, options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return _Method(self, "stream_stream", args, options)


class _Method:
    """A method of a channel that may not have been created yet."""

    def __init__(self, channel: _Channel, kind: str, args: Any, options: Any) -> None:
        self._channel, self._kind, self._args, self._options = channel, kind, args, options
        self._made: tuple[grpc.Channel | None, Any] = (None, None)

    def _real(self) -> Any:
        channel = self._channel.real()
        made_for, method = self._made
        if made_for is not channel:
            method = getattr(channel, self._kind)(*self._args, **self._options)
            self._made = (channel, method)
        return method

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._real()(*args, **options)

    def with_call(self, *args: Any, **options: Any) -> Any:
        return self._real().with_call(*args, **options)

    def future(self, *args: Any, **options: Any) -> Any:
        return self._real().future(*args, **options)
