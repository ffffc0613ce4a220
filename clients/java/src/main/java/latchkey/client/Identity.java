package latchkey.client;

import com.google.protobuf.Timestamp;
import io.grpc.Context;
import java.time.Instant;
import java.util.List;
import latchkey.v1.Session;

/**
 * Who calls: the session that Latchkey found live.
 *
 * @param userId the account's stable, opaque id
 * @param username what a person types
 * @param sessionId the token's {@code jti}
 * @param slot the kind of client in which only the latest login lives
 * @param device what the client called itself when it logged in
 * @param roles those of the account now, which can be newer than the token's
 * @param issuedAt the moment of the login
 * @param expiresAt when the session ends at the latest
 * @param idleExpiresAt when the session ends if it is not used before
 */
public record Identity(
    String userId,
    String username,
    String sessionId,
    String slot,
    String device,
    List<String> roles,
    Instant issuedAt,
    Instant expiresAt,
    Instant idleExpiresAt) {
  static final Context.Key<Identity> KEY = Context.key("latchkey.identity");

  public Identity {
    roles = List.copyOf(roles);
  }

  /**
   * Who calls the method whose handler this is.
   *
   * @throws IllegalStateException in a method that is open, and outside of a call
   */
  public static Identity current() {
    Identity found = KEY.get();
    if (found == null) {
      throw new IllegalStateException("nobody is known to be calling");
    }
    return found;
  }

  /** Whether the user has this role. */
  public boolean hasRole(String role) {
    return roles.contains(role);
  }

  static Identity of(Session session) {
    return new Identity(
        session.getUserId(),
        session.getUsername(),
        session.getSessionId(),
        session.getSlot(),
        session.getDevice(),
        session.getRolesList(),
        instant(session.getIssuedAt()),
        instant(session.getExpiresAt()),
        instant(session.getIdleExpiresAt()));
  }

  private static Instant instant(Timestamp at) {
    return Instant.ofEpochSecond(at.getSeconds(), at.getNanos());
  }
}
