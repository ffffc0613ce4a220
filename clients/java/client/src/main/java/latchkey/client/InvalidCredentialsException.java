package latchkey.client;

/** Unknown user or wrong password. Latchkey does not tell which. */
public final class InvalidCredentialsException extends LatchkeyException {
  private static final long serialVersionUID = 1;

  InvalidCredentialsException(String message, Throwable cause) {
    super("INVALID_CREDENTIALS", message, cause);
  }
}
