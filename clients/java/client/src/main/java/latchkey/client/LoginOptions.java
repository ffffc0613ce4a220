package latchkey.client;

import io.grpc.Metadata;

/** What a login can have in addition to the user: {@code new LoginOptions().device("Android").slot("mobile")}. */
public final class LoginOptions {
  private String slot = "";
  private String device = "";
  private String idempotencyKey = "";
  private boolean takeover;
  private final RequestHeaders headers = new RequestHeaders();

  /** Sets the slot to log in to. Default: the first one of the server. */
  public LoginOptions slot(String slot) {
    this.slot = slot;
    return this;
  }

  /** Sets a name of the client that the user recognises, such as {@code Firefox on Linux}: at most 128 code points. */
  public LoginOptions device(String device) {
    this.device = device;
    return this;
  }

  /**
   * Identifies this login, so that it can be repeated within a minute: 1 to 128 visible ASCII characters, such as a UUID.
   * Default: every call opens another session.
   */
  public LoginOptions idempotencyKey(String key) {
    idempotencyKey = key;
    return this;
  }

  /** Displaces the holder of the slot although the server's {@code session.on_limit} is {@code deny}. */
  public LoginOptions takeover() {
    takeover = true;
    return this;
  }

  /**
   * Forwards the address of the client, which Latchkey limits failed logins by. Your service must be one of the server's
   * {@code throttle.trusted_proxies}.
   */
  public LoginOptions clientAddress(String address) {
    headers.clientAddress(address);
    return this;
  }

  /** Asks for the token in a cookie, see {@link Login#setCookies()}. Needs the server's {@code browser.set_cookie}. */
  public LoginOptions cookie() {
    headers.cookie();
    return this;
  }

  String slot() {
    return slot;
  }

  String device() {
    return device;
  }

  String idempotencyKey() {
    return idempotencyKey;
  }

  boolean isTakeover() {
    return takeover;
  }

  Metadata headers() {
    return headers.metadata();
  }
}
