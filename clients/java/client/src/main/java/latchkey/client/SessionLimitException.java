package latchkey.client;

import java.io.Serializable;
import java.time.Duration;
import java.time.Instant;

/**
 * The slot is full, and the server's {@code session.on_limit} is {@code deny}. A login with
 * {@link LoginOptions#takeover()} succeeds.
 */
public final class SessionLimitException extends LatchkeyException {
  private static final long serialVersionUID = 1;

  private final Holder holder;

  SessionLimitException(String message, Holder holder, Throwable cause) {
    super("SESSION_LIMIT", message, cause);
    this.holder = holder;
  }

  /** Returns the session that a takeover would displace. */
  public Holder holder() {
    return holder;
  }

  /**
   * The holder of a slot.
   *
   * @param slot the slot
   * @param device what the client called itself at login, or an empty string
   * @param issuedAt when the login was committed
   * @param idle how long the session has not been used
   */
  public record Holder(String slot, String device, Instant issuedAt, Duration idle) implements Serializable {}
}
