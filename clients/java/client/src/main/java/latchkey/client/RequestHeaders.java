package latchkey.client;

import io.grpc.Metadata;

/** The metadata of a request on behalf of a client or browser. */
final class RequestHeaders {
  static final Metadata.Key<String> SET_COOKIE = key("set-cookie");
  private static final Metadata.Key<String> FORWARDED_FOR = key("x-forwarded-for");
  private static final Metadata.Key<String> COOKIE = key("x-latchkey-cookie");

  private String address = "";
  private boolean cookie;

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  void clientAddress(String address) {
    this.address = address;
  }

  void cookie() {
    cookie = true;
  }

  Metadata metadata() {
    Metadata metadata = new Metadata();
    if (address != null && !address.isEmpty()) {
      metadata.put(FORWARDED_FOR, address);
    }
    if (cookie) {
      metadata.put(COOKIE, "true");
    }
    return metadata;
  }
}
