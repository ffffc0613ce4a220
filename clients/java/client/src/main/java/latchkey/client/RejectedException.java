package latchkey.client;

import java.time.Instant;

/** The token is not good, or there is none ({@code TOKEN_REQUIRED}). The message can be shown to the user. */
public final class RejectedException extends LatchkeyException {
  private static final long serialVersionUID = 1;

  private final Rejection rejection;

  /** Creates an exception for a rejection. */
  public RejectedException(Rejection rejection, Throwable cause) {
    super(rejection.reason(), rejection.message(), cause);
    this.rejection = rejection;
  }

  /** Returns why the token is not good. */
  public Rejection rejection() {
    return rejection;
  }

  /** Returns whether a client must not log in again by itself, but let the user decide. */
  public boolean isTerminal() {
    return rejection.terminal();
  }

  /** Returns when the session ended, or {@code null} if no session is known. */
  public Instant at() {
    return rejection.at();
  }

  /** Returns the device of the newer login, or an empty string. */
  public String byDevice() {
    return rejection.byDevice();
  }
}
