package latchkey.client;

/** The caller key is missing, unknown, or does not have the role that the method needs. */
public final class NotAllowedException extends LatchkeyException {
  private static final long serialVersionUID = 1;

  private final String role;

  NotAllowedException(String reason, String message, String role, Throwable cause) {
    super(reason, message, cause);
    this.role = role;
  }

  /** Returns the caller role that the method needs, or an empty string if there is no valid caller key. */
  public String role() {
    return role;
  }
}
