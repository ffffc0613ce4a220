package latchkey.servlet;

import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.Principal;
import java.util.Set;
import latchkey.client.DeniedException;
import latchkey.client.HttpGuard;
import latchkey.client.Identity;

/**
 * Lets requests through only with the token of a live session. The identity of the caller is the user principal of the
 * request, and {@code isUserInRole} knows its roles.
 */
public final class LatchkeyFilter implements Filter {
  /** The request attribute with the {@link Identity}. */
  public static final String IDENTITY = "latchkey.identity";

  private final HttpGuard guard;
  private final Set<String> open;

  /**
   * Creates a filter.
   *
   * @param guard decides about the requests; the filter does not close it
   * @param openPaths paths that are open to everybody, each as a whole path below the context path, such as
   *     {@code /health}
   */
  public LatchkeyFilter(HttpGuard guard, String... openPaths) {
    this.guard = guard;
    open = Set.of(openPaths);
  }

  /**
   * Returns the identity of the caller.
   *
   * @throws IllegalStateException if no guard has let this request through
   */
  public static Identity identity(ServletRequest request) {
    if (request.getAttribute(IDENTITY) instanceof Identity who) {
      return who;
    }
    throw new IllegalStateException("the caller has no identity: the path is open, or has no LatchkeyFilter");
  }

  @Override
  public void doFilter(ServletRequest request, ServletResponse response, FilterChain next)
      throws IOException, ServletException {
    HttpServletRequest http = (HttpServletRequest) request;
    if (open.contains(path(http))) {
      next.doFilter(request, response);
      return;
    }
    Identity who;
    try {
      who = identify(http);
    } catch (DeniedException why) {
      deny((HttpServletResponse) response, why);
      return;
    }
    request.setAttribute(IDENTITY, who);
    next.doFilter(new Identified(http, who), response);
  }

  /** Forwards and other dispatches within a request do not validate the token again. */
  private Identity identify(HttpServletRequest request) throws DeniedException {
    if (request.getDispatcherType() != DispatcherType.REQUEST
        && request.getAttribute(IDENTITY) instanceof Identity known) {
      return guard.recheck(known);
    }
    return guard.check(request.getHeaders("Authorization"), request.getMethod() + " " + request.getRequestURI());
  }

  /** Returns the path as it was sent: a path that has to be decoded first is not open. */
  private static String path(HttpServletRequest request) {
    String path = request.getRequestURI();
    String context = request.getContextPath();
    return path.startsWith(context) ? path.substring(context.length()) : path;
  }

  /** Sends the answer to a denied request. */
  public static void deny(HttpServletResponse response, DeniedException why) throws IOException {
    response.setStatus(why.httpStatus());
    why.httpHeaders().forEach(response::setHeader);
    byte[] body = why.httpBody().getBytes(StandardCharsets.UTF_8);
    response.setContentLength(body.length);
    response.getOutputStream().write(body);
  }

  /** A request with an identity. */
  private static final class Identified extends HttpServletRequestWrapper {
    private final Identity who;

    Identified(HttpServletRequest request, Identity who) {
      super(request);
      this.who = who;
    }

    @Override
    public Principal getUserPrincipal() {
      return who;
    }

    @Override
    public String getRemoteUser() {
      return who.getName();
    }

    @Override
    public boolean isUserInRole(String role) {
      return who.hasRole(role);
    }

    @Override
    public String getAuthType() {
      return "Bearer";
    }
  }
}
