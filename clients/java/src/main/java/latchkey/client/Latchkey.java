package latchkey.client;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import java.util.concurrent.TimeUnit;

/** Connections to Latchkey. */
public final class Latchkey {
  private Latchkey() {}

  /**
   * Creates a channel with keepalives, which detect a server that has vanished without closing the connection. Calls take
   * turns over all addresses of the target, and calls that are safe to repeat are repeated if Latchkey is unavailable.
   */
  public static ManagedChannel connect(String target, ChannelCredentials credentials) {
    return Grpc.newChannelBuilder(target, credentials)
        .defaultServiceConfig(ServiceConfig.VALUE)
        .keepAliveTime(10, TimeUnit.SECONDS)
        .keepAliveTimeout(3, TimeUnit.SECONDS)
        .build();
  }
}
