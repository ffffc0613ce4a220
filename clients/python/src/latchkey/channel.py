"""A connection to Latchkey."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import grpc

# Calls take turns over all addresses of the target, and calls that are safe to repeat are repeated if Latchkey is
# unavailable. The file is a copy of proto/latchkey/v1/service_config.json.
SERVICE_CONFIG = resources.files("latchkey").joinpath("service_config.json").read_text()

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


def authority(target: str) -> Sequence[tuple[str, str]]:
    """Returns the authority for a list of addresses, which gRPC would send as a whole. HTTP/2 servers reject that."""
    return [("grpc.default_authority", "latchkey")] if "," in target else []


def channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, object]] = (),
) -> grpc.Channel:
    """Creates a channel with keepalives, a short reconnect backoff and the service config of Latchkey.

    It uses plaintext without credentials. ``options`` override these settings.
    """
    options = (*OPTIONS, *authority(target), *options)
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)
