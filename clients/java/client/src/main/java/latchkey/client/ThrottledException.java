package latchkey.client;

import java.time.Duration;

/** Too many failed logins, or a kick war over the slot. It says nothing about the password. */
public final class ThrottledException extends LatchkeyException {
  private static final long serialVersionUID = 1;

  private final Duration retryAfter;

  ThrottledException(String message, Duration retryAfter, Throwable cause) {
    super("THROTTLED", message, cause);
    this.retryAfter = retryAfter;
  }

  /** Returns how long to wait before the next attempt. */
  public Duration retryAfter() {
    return retryAfter;
  }
}
