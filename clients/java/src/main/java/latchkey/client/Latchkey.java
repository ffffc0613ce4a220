package latchkey.client;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import java.util.concurrent.TimeUnit;

/** Where Latchkey is. */
public final class Latchkey {
  private Latchkey() {}

  /** A channel that finds out soon that a Latchkey has vanished without a word. */
  public static ManagedChannel connect(String target, ChannelCredentials credentials) {
    return Grpc.newChannelBuilder(target, credentials)
        .keepAliveTime(10, TimeUnit.SECONDS)
        .keepAliveTimeout(3, TimeUnit.SECONDS)
        .build();
  }
}
