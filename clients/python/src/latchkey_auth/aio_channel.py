"""A connection to Latchkey for ``grpc.aio``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from latchkey_auth.channel import CLOSED, OPTIONS, authority


def channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, object]] = (),
) -> grpc.aio.Channel:
    """As :func:`latchkey_auth.channel`. It may be created before the event loop, and be used in several of them."""
    options = (*OPTIONS, *authority(target), *options)
    if credentials is None:
        return _Channel(lambda: grpc.aio.insecure_channel(target, options=options))
    return _Channel(lambda: grpc.aio.secure_channel(target, credentials, options=options))


def opened(latchkey: str | grpc.aio.Channel) -> tuple[grpc.aio.Channel, grpc.aio.Channel | None]:
    """As :func:`latchkey_auth.channel.opened`."""
    if isinstance(latchkey, str):
        own = channel(latchkey)
        return own, own
    if not isinstance(latchkey, grpc.aio.Channel):
        kind = type(latchkey).__name__
        raise TypeError(f"Latchkey is an address or a grpc.aio.Channel, not {kind}: use latchkey_auth.aio.channel")
    return latchkey, None


class _Channel(grpc.aio.Channel):
    """Creates a channel of gRPC in each event loop in which it is used: gRPC binds a channel to the loop that it finds when
    the channel is created, and a module is loaded before ``asyncio.run`` has made the one that matters."""

    def __init__(self, make: Callable[[], grpc.aio.Channel]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, grpc.aio.Channel] = {}
        self._closed = False

    def real(self) -> grpc.aio.Channel:
        loop = asyncio.get_running_loop()
        made = self._made.get(loop)
        if made is None:
            if self._closed:
                raise ValueError(CLOSED)
            # Loops that have ended do not close their channels.
            self._made = {other: channel for other, channel in list(self._made.items()) if not other.is_closed()}
            made = self._made[loop] = self._make()
        return made

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        made = self._made.get(asyncio.get_running_loop())
        if made is not None:
            await made.close(grace)

    async def __aenter__(self) -> grpc.aio.Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.real().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.real().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.real().channel_ready()

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
        self._made: tuple[grpc.aio.Channel | None, Any] = (None, None)

    def __call__(self, *args: Any, **options: Any) -> Any:
        channel = self._channel.real()
        made_for, method = self._made
        if made_for is not channel:
            method = getattr(channel, self._kind)(*self._args, **self._options)
            self._made = (channel, method)
        return method(*args, **options)
