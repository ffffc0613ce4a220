package latchkey.client;

import com.google.protobuf.Timestamp;
import io.grpc.Context;
import java.io.Serializable;
import java.security.Principal;
import java.time.Instant;
import java.util.List;
import latchkey.v1.Session;

/**
 * The identity of the caller: a live session.
 *
 * @param userId the account's stable, opaque id
 * @param username the username
 * @param sessionId the token's {@code jti}
 * @param slot the slot: the kind of client in which only the latest login lives
 * @param device the name that the client gave itself at login
 * @param roles the current roles of the account, which can be newer than those in the token
 * @param issuedAt when the login was committed
 * @param expiresAt the absolute deadline
 * @param idleExpiresAt the idle deadline
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
    Instant idleExpiresAt)
    implements Principal, Serializable {
  static final Context.Key<Identity> KEY = Context.key("latchkey.identity");

  public Identity {
    roles = List.copyOf(roles);
  }

  /**
   * Returns the identity of the caller of a gRPC method.
   *
   * @throws IllegalStateException in an open method, and outside of a call
   */
  public static Identity current() {
    Identity found = KEY.get();
    if (found == null) {
      throw new IllegalStateException("the caller has no identity: the method is open, or the server has no guard");
    }
    return found;
  }

  /** Returns the user id. It is never assigned again, unlike a username. */
  @Override
  public String getName() {
    return userId;
  }

  /** Returns whether the user has this role. */
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

  static Instant instant(Timestamp at) {
    return Instant.ofEpochSecond(at.getSeconds(), at.getNanos());
  }
}
