package latchkey.client;

import java.time.Instant;

/**
 * A live session in a list.
 *
 * @param identity the user and the session
 * @param lastSeenAt the latest recorded use, at most one touch interval older than the latest use
 */
public record ListedSession(Identity identity, Instant lastSeenAt) {
  static ListedSession of(latchkey.v1.Session session) {
    return new ListedSession(Identity.of(session), Identity.instant(session.getLastSeenAt()));
  }
}
