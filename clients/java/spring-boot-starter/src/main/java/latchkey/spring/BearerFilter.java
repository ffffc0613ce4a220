package latchkey.spring;

import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.security.Principal;
import java.util.function.Supplier;
import latchkey.client.DeniedException;
import latchkey.client.HttpGuard;
import latchkey.client.Identity;
import latchkey.servlet.LatchkeyFilter;
import org.springframework.security.core.context.SecurityContext;
import org.springframework.security.core.context.SecurityContextHolder;
import org.springframework.security.core.context.SecurityContextHolderStrategy;
import org.springframework.web.filter.OncePerRequestFilter;

/**
 * Authenticates requests by their bearer tokens, once a rule or a method asks who is calling. Requests to open paths are
 * so independent of their tokens and of Latchkey.
 */
final class BearerFilter extends OncePerRequestFilter {
  private final SecurityContextHolderStrategy contexts = SecurityContextHolder.getContextHolderStrategy();
  private final HttpGuard guard;

  BearerFilter(HttpGuard guard) {
    this.guard = guard;
  }

  @Override
  protected void doFilterInternal(HttpServletRequest request, HttpServletResponse response, FilterChain next)
      throws ServletException, IOException {
    Decision decision = new Decision(request, contexts.getDeferredContext());
    contexts.setDeferredContext(decision);
    next.doFilter(new Decided(request, decision), response);
  }

  /** The later dispatches of a request are authorized again, with the identity that was found first. */
  @Override
  protected boolean shouldNotFilterAsyncDispatch() {
    return false;
  }

  @Override
  protected boolean shouldNotFilterErrorDispatch() {
    return false;
  }

  /** Finds out once who is calling. */
  private final class Decision implements Supplier<SecurityContext> {
    private final HttpServletRequest request;
    private final Supplier<SecurityContext> otherwise;
    private SecurityContext context;
    private DeniedException denied;

    Decision(HttpServletRequest request, Supplier<SecurityContext> otherwise) {
      this.request = request;
      this.otherwise = otherwise;
    }

    @Override
    public synchronized SecurityContext get() {
      if (context == null && denied == null) {
        decide();
      }
      if (denied != null) {
        throw new LatchkeyAuthenticationException(denied);
      }
      return context;
    }

    /** Whether a rule or a method has asked, and the caller is known. */
    synchronized boolean isKnown() {
      return context != null;
    }

    private void decide() {
      try {
        Identity who = identify();
        request.setAttribute(LatchkeyFilter.IDENTITY, who);
        context = contexts.createEmptyContext();
        context.setAuthentication(new LatchkeyAuthentication(who));
      } catch (DeniedException why) {
        if (why.reason().equals("TOKEN_REQUIRED")) {
          // Another mechanism of the chain may have authenticated the request.
          context = otherwise.get();
        } else {
          denied = why;
        }
      }
    }

    private Identity identify() throws DeniedException {
      if (request.getAttribute(LatchkeyFilter.IDENTITY) instanceof Identity known) {
        return guard.recheck(known);
      }
      return guard.check(request.getHeaders("Authorization"), request.getMethod() + " " + request.getRequestURI());
    }
  }

  /**
   * A request whose principal is that of the decision, without asking for one: after every request, Spring MVC looks up
   * the name of the user for its event.
   */
  private static final class Decided extends HttpServletRequestWrapper {
    private final Decision decision;

    Decided(HttpServletRequest request, Decision decision) {
      super(request);
      this.decision = decision;
    }

    @Override
    public Principal getUserPrincipal() {
      return decision.isKnown() ? super.getUserPrincipal() : null;
    }

    @Override
    public String getRemoteUser() {
      return decision.isKnown() ? super.getRemoteUser() : null;
    }
  }
}
