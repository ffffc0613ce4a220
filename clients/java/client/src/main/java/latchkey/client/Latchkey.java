package latchkey.client;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.TlsChannelCredentials;
import java.util.concurrent.TimeUnit;

/** Connections to Latchkey. */
public final class Latchkey {
  private static final String HTTP = "http://";
  private static final String HTTPS = "https://";

  private Latchkey() {}

  /**
   * Creates a channel to an address: {@code latchkey:50051} or {@code http://latchkey:50051} in plaintext, or
   * {@code https://latchkey.example.com:50051} with TLS and the certificate authorities of the JVM.
   *
   * @throws IllegalArgumentException if it is not such an address
   */
  public static ManagedChannel connect(String address) {
    String target = address.strip();
    ChannelCredentials credentials = InsecureChannelCredentials.create();
    if (target.startsWith(HTTPS)) {
      target = target.substring(HTTPS.length());
      credentials = TlsChannelCredentials.create();
    } else if (target.startsWith(HTTP)) {
      target = target.substring(HTTP.length());
    }
    if (target.isEmpty() || target.contains("://") || target.matches(".*\\s.*")) {
      throw new IllegalArgumentException(
          "`" + address + "` is not an address of Latchkey: use latchkey:50051, or https://latchkey:50051 for TLS");
    }
    return connect(target, credentials);
  }

  /**
   * Creates a channel with keepalives, which detect a server that has vanished without closing the connection. Calls take
   * turns over all addresses of the target, and calls that are safe to repeat are repeated if Latchkey is unavailable.
   *
   * @param target a gRPC target, such as {@code dns:///latchkey:50051}
   * @param credentials such as those of {@code TlsChannelCredentials.newBuilder()}
   */
  public static ManagedChannel connect(String target, ChannelCredentials credentials) {
    return Grpc.newChannelBuilder(target, credentials)
        .defaultServiceConfig(ServiceConfig.VALUE)
        .keepAliveTime(10, TimeUnit.SECONDS)
        .keepAliveTimeout(3, TimeUnit.SECONDS)
        .build();
  }
}
