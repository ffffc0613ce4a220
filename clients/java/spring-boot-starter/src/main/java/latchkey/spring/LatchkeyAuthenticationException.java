package latchkey.spring;

import latchkey.client.DeniedException;
import org.springframework.security.core.AuthenticationException;

/** The token of a request has no live session, or there is no verdict. */
public final class LatchkeyAuthenticationException extends AuthenticationException {
  private static final long serialVersionUID = 1;

  LatchkeyAuthenticationException(DeniedException why) {
    super(why.getMessage(), why);
  }

  /** Returns the answer to the request. */
  public DeniedException denial() {
    return (DeniedException) getCause();
  }
}
