package latchkey.spring;

import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import latchkey.client.DeniedException;
import latchkey.servlet.LatchkeyFilter;
import org.springframework.security.access.AccessDeniedException;
import org.springframework.security.authorization.AuthorityAuthorizationDecision;
import org.springframework.security.authorization.AuthorizationDeniedException;
import org.springframework.security.authorization.AuthorizationResult;
import org.springframework.security.authorization.ExpressionAuthorizationDecision;
import org.springframework.security.core.AuthenticationException;
import org.springframework.security.web.AuthenticationEntryPoint;
import org.springframework.security.web.access.AccessDeniedHandler;

/** Answers denied requests like every guard, with the reason in a header and in the body. */
final class Denials implements AuthenticationEntryPoint, AccessDeniedHandler {
  private static final Pattern HAS_ROLE =
      Pattern.compile("\\s*(?:hasRole\\s*\\(\\s*'(?:ROLE_)?|hasAuthority\\s*\\(\\s*'ROLE_)([^']+)'\\s*\\)\\s*");
  private static final String PREFIX = "ROLE_";

  @Override
  public void commence(HttpServletRequest request, HttpServletResponse response, AuthenticationException why)
      throws IOException {
    boolean known = why instanceof LatchkeyAuthenticationException;
    LatchkeyFilter.deny(
        response, known ? ((LatchkeyAuthenticationException) why).denial() : DeniedException.tokenRequired());
  }

  @Override
  public void handle(HttpServletRequest request, HttpServletResponse response, AccessDeniedException why)
      throws IOException {
    String role = why instanceof AuthorizationDeniedException denied ? role(denied.getAuthorizationResult()) : null;
    LatchkeyFilter.deny(response, role == null ? DeniedException.accessDenied() : DeniedException.roleRequired(role));
  }

  /** Returns the role that a rule asks for, or null if it is not a single role. */
  private static String role(AuthorizationResult rule) {
    if (rule instanceof AuthorityAuthorizationDecision decision && decision.getAuthorities().size() == 1) {
      String authority = decision.getAuthorities().iterator().next().getAuthority();
      return authority != null && authority.startsWith(PREFIX) ? authority.substring(PREFIX.length()) : null;
    }
    if (rule instanceof ExpressionAuthorizationDecision decision) {
      Matcher match = HAS_ROLE.matcher(decision.getExpression().getExpressionString());
      return match.matches() ? match.group(1) : null;
    }
    return null;
  }
}
