package latchkey.spring;

import latchkey.client.Identity;
import org.springframework.security.authentication.AbstractAuthenticationToken;
import org.springframework.security.core.authority.SimpleGrantedAuthority;

/** A live session. It keeps no token. */
public final class LatchkeyAuthentication extends AbstractAuthenticationToken {
  private static final long serialVersionUID = 1;

  private final Identity identity;

  /** Creates the authentication of an identity. */
  public LatchkeyAuthentication(Identity identity) {
    super(identity.roles().stream().map(role -> new SimpleGrantedAuthority("ROLE_" + role)).toList());
    this.identity = identity;
    super.setAuthenticated(true);
  }

  @Override
  public Identity getPrincipal() {
    return identity;
  }

  @Override
  public Object getCredentials() {
    return "";
  }
}
