package latchkey.client;

/** A field of a request is missing, too long or malformed. */
public final class InvalidRequestException extends LatchkeyException {
  private static final long serialVersionUID = 1;

  private final String field;

  InvalidRequestException(String message, String field, Throwable cause) {
    super("INVALID_REQUEST", message, cause);
    this.field = field;
  }

  /** Returns the name of the field in the protocol, such as {@code slot}, or an empty string if there is none. */
  public String field() {
    return field;
  }
}
