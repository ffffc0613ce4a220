import { type ChannelCredentials, credentials, type ClientOptions } from "@grpc/grpc-js";

import { AuthServiceClient } from "./gen/latchkey/v1/auth.js";
import { serviceConfig } from "./service_config.js";

/**
 * Creates a connection to Latchkey with keepalives, a short reconnect backoff and its service config. It uses plaintext
 * without credentials. `options` override these settings.
 */
export function connect(
  address: string,
  channelCredentials: ChannelCredentials = credentials.createInsecure(),
  options: ClientOptions = {},
): AuthServiceClient {
  return new AuthServiceClient(address, channelCredentials, {
    "grpc.service_config": serviceConfig,
    // By default gRPC waits up to two minutes between attempts, and every call fails meanwhile.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    // Detects a peer that has vanished without closing the connection.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 3_000,
    ...options,
  });
}
