package latchkey.client;

import java.io.Serializable;
import java.time.Instant;
import latchkey.v1.RejectionReason;

/**
 * Why a token is not good.
 *
 * @param reason the reason for programs, such as {@code REPLACED}; those that this version does not know are
 *     {@code UNKNOWN_SESSION}
 * @param message a sentence for the user
 * @param terminal whether a client must not log in again by itself, but let the user decide
 * @param at when the session ended, or {@code null} if no session is known
 * @param byDevice the device of the newer login, or an empty string
 */
public record Rejection(String reason, String message, boolean terminal, Instant at, String byDevice)
    implements Serializable {
  /** There is no token at all. */
  static final Rejection TOKEN_REQUIRED =
      new Rejection("TOKEN_REQUIRED", "Please log in: there is no access token.", false, null, "");

  private static final String PREFIX = "REJECTION_REASON_";

  static Rejection of(latchkey.v1.Rejection rejection) {
    return new Rejection(
        name(rejection.getReason()),
        rejection.getMessage(),
        rejection.getTerminal(),
        rejection.hasAt() ? Identity.instant(rejection.getAt()) : null,
        rejection.getByDevice());
  }

  private static String name(RejectionReason reason) {
    return switch (reason) {
      case UNRECOGNIZED, REJECTION_REASON_UNSPECIFIED -> "UNKNOWN_SESSION";
      default -> reason.name().substring(PREFIX.length());
    };
  }
}
