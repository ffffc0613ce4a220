package latchkey.client;

/**
 * Latchkey has not done what a {@link Client} asked for. Subclasses are the cases that callers tell apart; others, such as
 * {@code ACCOUNT_NOT_FOUND} and {@code ACCOUNTS_READ_ONLY}, are instances of this class.
 */
public class LatchkeyException extends RuntimeException {
  private static final long serialVersionUID = 1;

  private final String reason;

  /** Creates an exception for a reason. */
  public LatchkeyException(String reason, String message, Throwable cause) {
    super(message, cause);
    this.reason = reason;
  }

  /**
   * Returns the reason for programs: an {@code ErrorReason} or {@code RejectionReason} of the protocol without its prefix,
   * or the code of gRPC if the answer is not from Latchkey.
   */
  public String reason() {
    return reason;
  }
}
