import { type ChannelCredentials, credentials, type ClientOptions } from "@grpc/grpc-js";

import { AuthServiceClient } from "./gen/latchkey/v1/auth.js";

/**
 * A connection to Latchkey that finds out soon that Latchkey is gone, and soon that it is back. In plaintext, unless
 * there are credentials.
 */
export function connect(
  address: string,
  channelCredentials: ChannelCredentials = credentials.createInsecure(),
  options: ClientOptions = {},
): AuthServiceClient {
  return new AuthServiceClient(address, channelCredentials, {
    // gRPC would wait up to two minutes between attempts, and every call fails meanwhile.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    // A peer that has vanished without a word is otherwise asked again and again.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 3_000,
    ...options,
  });
}
