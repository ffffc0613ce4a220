package latchkey.client;

import io.grpc.Channel;
import java.util.Enumeration;
import java.util.Iterator;
import java.util.List;

/**
 * Decides whether an HTTP request has a live session. {@code latchkey.servlet.LatchkeyFilter} and the starter for Spring
 * Boot use it; a guard for another framework can, too. It waits for Latchkey in the thread of the request.
 */
public final class HttpGuard implements AutoCloseable {
  private final Checker checker;

  private HttpGuard(Checker checker) {
    this.checker = checker;
  }

  /** Returns a builder for a guard with a channel of its own, see {@link Latchkey#connect(String)}. */
  public static Builder newBuilder(String address) {
    return new Builder(address, null);
  }

  /** Returns a builder for a guard that uses this channel to Latchkey, and does not close it. */
  public static Builder newBuilder(Channel latchkey) {
    return new Builder(null, latchkey);
  }

  /** Returns a builder for a guard that uses the channel and the caller key of this client, and does not close them. */
  public static Builder newBuilder(Client latchkey) {
    return latchkey.share(new Builder(null, latchkey.rawChannel()));
  }

  /** Returns a guard that also requires this role, on the same connection. */
  public HttpGuard withRequiredRole(String role) {
    return new HttpGuard(checker.withRole(role));
  }

  /** Returns a guard that also requires a session in this slot, on the same connection. */
  public HttpGuard withRequiredSlot(String slot) {
    return new HttpGuard(checker.withSlot(slot));
  }

  /**
   * Returns the identity of the caller.
   *
   * @param authorization all values of the header {@code authorization}
   * @param call names the request in the log
   * @throws DeniedException what to answer, if there is no live session or no verdict
   */
  public Identity check(List<String> authorization, String call) throws DeniedException {
    return check(authorization.iterator(), call);
  }

  /** Does the same for the values that a servlet container returns. */
  public Identity check(Enumeration<String> authorization, String call) throws DeniedException {
    // A container that does not show the header returns null. Nobody has a token then.
    return authorization == null ? check(List.of(), call) : check(authorization.asIterator(), call);
  }

  private Identity check(Iterator<String> authorization, String call) throws DeniedException {
    return checker.check(Bearer.token(authorization), call);
  }

  /**
   * Checks the role and slot of an identity that was validated before in the same request.
   *
   * @throws DeniedException if it lacks them
   */
  public Identity recheck(Identity who) throws DeniedException {
    return checker.admit(who);
  }

  /** Closes the channel if the guard has made it. Guards that were derived from this one share it. */
  @Override
  public void close() {
    checker.close();
  }

  /** The options of a guard. */
  public static final class Builder extends GuardOptions<Builder> {
    private Builder(String address, Channel channel) {
      super(address, channel);
    }

    @Override
    Builder self() {
      return this;
    }

    /** Creates the guard. */
    public HttpGuard build() {
      return new HttpGuard(checker());
    }
  }
}
