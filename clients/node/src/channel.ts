import type { ChannelOptions } from "@grpc/grpc-js";

import { serviceConfig } from "./service_config.js";

/** The channel options of a client: keepalives, a short reconnect backoff and the service config of Latchkey. */
export const channelOptions: ChannelOptions = {
  "grpc.service_config": serviceConfig,
  // By default gRPC waits up to two minutes between attempts, and every call fails meanwhile.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  // Detects a peer that has vanished without closing the connection.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 3_000,
};
