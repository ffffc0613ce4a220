package latchkey.client;

/** The password is right, and the account is disabled. */
public final class AccountDisabledException extends LatchkeyException {
  private static final long serialVersionUID = 1;

  AccountDisabledException(String message, Throwable cause) {
    super("ACCOUNT_DISABLED", message, cause);
  }
}
