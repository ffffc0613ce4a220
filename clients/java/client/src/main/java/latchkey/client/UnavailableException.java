package latchkey.client;

import java.time.Duration;

/** Latchkey, or one of its stores, is unavailable or overloaded. A login may have taken effect. */
public final class UnavailableException extends LatchkeyException {
  private static final long serialVersionUID = 1;

  private final Duration retryAfter;

  /** Creates an exception for a reason such as {@code STORE_UNAVAILABLE}. */
  public UnavailableException(String reason, String message, Duration retryAfter, Throwable cause) {
    super(reason, message, cause);
    this.retryAfter = retryAfter;
  }

  /** Returns how long to wait before the next attempt. */
  public Duration retryAfter() {
    return retryAfter;
  }
}
