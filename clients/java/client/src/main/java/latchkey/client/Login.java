package latchkey.client;

import io.grpc.Metadata;
import java.time.Instant;
import java.util.List;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * The session that a login has opened. {@code toString} shows no token.
 *
 * @param token the access token, a secret: do not log it
 * @param identity the user and the session
 * @param displaced the live sessions that this login has ended, the oldest first
 * @param setCookies values of {@code set-cookie} for the browser, if the login asked for a cookie
 */
public record Login(String token, Identity identity, List<Displaced> displaced, List<String> setCookies) {
  /** Copies the lists. */
  public Login {
    displaced = List.copyOf(displaced);
    setCookies = List.copyOf(setCookies);
  }

  /**
   * A session that a login has displaced.
   *
   * @param sessionId its id
   * @param slot its slot
   * @param device what its client called itself at login
   * @param issuedAt when its login was committed
   */
  public record Displaced(String sessionId, String slot, String device, Instant issuedAt) {
    static Displaced of(latchkey.v1.DisplacedSession session) {
      return new Displaced(
          session.getSessionId(), session.getSlot(), session.getDevice(), Identity.instant(session.getIssuedAt()));
    }
  }

  @Override
  public String toString() {
    return "Login[identity=" + identity + ", displaced=" + displaced + "]";
  }

  static Login of(String token, latchkey.v1.Session session, List<latchkey.v1.DisplacedSession> displaced, Metadata told) {
    return new Login(token, Identity.of(session), displaced.stream().map(Displaced::of).toList(), cookies(told));
  }

  static List<String> cookies(Metadata told) {
    Iterable<String> values = told == null ? null : told.getAll(RequestHeaders.SET_COOKIE);
    Stream<String> cookies = values == null ? Stream.empty() : StreamSupport.stream(values.spliterator(), false);
    return cookies.toList();
  }
}
