package latchkey.client;

import io.grpc.Metadata;
import latchkey.v1.LogoutScope;

/** What a logout ends: {@code new LogoutOptions().everySession()}. Default: the session of the token. */
public final class LogoutOptions {
  private LogoutScope scope = LogoutScope.LOGOUT_SCOPE_THIS;
  private final RequestHeaders headers = new RequestHeaders();

  /** Ends every session of the user. */
  public LogoutOptions everySession() {
    scope = LogoutScope.LOGOUT_SCOPE_ALL;
    return this;
  }

  /** Ends every session of the user except that of the token. */
  public LogoutOptions otherSessions() {
    scope = LogoutScope.LOGOUT_SCOPE_OTHERS;
    return this;
  }

  /** Asks for cookies that clear the one with the token, see {@link Logout#setCookies()}. */
  public LogoutOptions cookie() {
    headers.cookie();
    return this;
  }

  LogoutScope scope() {
    return scope;
  }

  Metadata headers() {
    return headers.metadata();
  }
}
