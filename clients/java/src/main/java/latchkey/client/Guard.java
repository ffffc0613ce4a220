package latchkey.client;

import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.Iterator;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import latchkey.v1.Session;
import latchkey.v1.ValidateRequest;
import latchkey.v1.ValidateResponse;

/**
 * Accepts only calls whose token has a live session, and ends streams when the session of their caller ends. It blocks
 * no thread while it waits.
 */
public final class Guard implements ServerInterceptor {
  static final System.Logger LOG = System.getLogger("latchkey");

  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final Pattern BEARER = Pattern.compile("bearer +([^ ].*?) *", Pattern.CASE_INSENSITIVE);
  private static final String MORE_THAN_ONE = "There is more than one `authorization`.";

  private final Calls latchkey;
  private final Watcher watcher;
  private final Set<String> open;
  private final String role;
  private final String slot;
  private final boolean watchStreams;

  private Guard(Builder options) {
    latchkey = new Calls(options.channel, options.callerKey, options.request.build(), options.timeout);
    watcher = new Watcher(latchkey, options.maxWatches, options.outageGrace);
    open = options.open;
    role = options.role;
    slot = options.slot;
    watchStreams = options.watchStreams;
  }

  /** Returns a builder for a guard that uses this channel to Latchkey, see {@link Latchkey#connect}. */
  public static Builder newBuilder(Channel latchkey) {
    return new Builder(latchkey);
  }

  @Override
  public <Q, A> ServerCall.Listener<Q> interceptCall(
      ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
    String method = call.getMethodDescriptor().getFullMethodName();
    if (open.contains(method)) {
      return next.startCall(call, headers);
    }
    Held<Q> held = new Held<>();
    try {
      String token = bearer(headers);
      latchkey.validate(token, new Answer(method) {
        @Override
        void decided(Identity who) {
          Context known = caller.withValue(Identity.KEY, who);
          try {
            if (watchStreams && call.getMethodDescriptor().getType() != MethodDescriptor.MethodType.UNARY) {
              runUntilEnd(known, token, call, headers, next, held);
            } else {
              held.release(Contexts.interceptCall(known, call, headers, next));
            }
          } catch (RuntimeException e) {
            // The answer of the server if a handler throws.
            Status status = Status.UNKNOWN.withDescription("Application error processing RPC");
            call.close(status.withCause(e), new Metadata());
          }
        }

        @Override
        void denied(Denial why) {
          why.close(call);
        }
      });
    } catch (Denial why) {
      why.close(call);
    }
    return held;
  }

  /** Runs the handler until it returns or the session has ended. */
  private <Q, A> void runUntilEnd(
      Context known,
      String token,
      ServerCall<Q, A> call,
      Metadata headers,
      ServerCallHandler<Q, A> next,
      Held<Q> held) {
    Context.CancellableContext running = known.withCancellation();
    EndableCall<Q, A> endable = new EndableCall<>(call);
    String method = call.getMethodDescriptor().getFullMethodName();
    known.run(
        () -> watcher.watch(method, token, why -> {
          if (endable.silence()) {
            held.cancel(() -> {
              // First, because closing the call cancels its context without a cause.
              running.cancel(why.status());
              why.close(call);
            });
          }
        }));
    // Last, because the handler may run in this thread for any length of time.
    held.release(Contexts.interceptCall(running, endable, headers, next));
  }

  /** Receives the verdict on a token. */
  private abstract class Answer implements StreamObserver<ValidateResponse> {
    /** The context of the call: when the caller disconnects, the validation is cancelled. */
    final Context caller = Context.current();

    private final String method;
    private ValidateResponse answer = ValidateResponse.getDefaultInstance();

    Answer(String method) {
      this.method = method;
    }

    abstract void decided(Identity who);

    abstract void denied(Denial why);

    @Override
    public void onNext(ValidateResponse answer) {
      this.answer = answer;
    }

    @Override
    public void onError(Throwable why) {
      // If the caller has disconnected, this is not an outage.
      if (!caller.isCancelled()) {
        LOG.log(Level.WARNING, "got no verdict for a call of {0}: {1}", method, why.getMessage());
        latchkey.reconnect();
      }
      denied(Denial.unavailable());
    }

    @Override
    public void onCompleted() {
      Identity who;
      try {
        who = admit(answer, method);
      } catch (Denial why) {
        denied(why);
        return;
      }
      decided(who);
    }
  }

  private Identity admit(ValidateResponse answer, String method) throws Denial {
    switch (answer.getVerdictCase()) {
      case SESSION:
        return admit(answer.getSession());
      case REJECTION:
        throw Denial.rejected(answer.getRejection());
      default:
        LOG.log(Level.WARNING, "got an answer without a verdict for a call of {0}", method);
        throw Denial.unavailable();
    }
  }

  private Identity admit(Session session) throws Denial {
    Identity who = Identity.of(session);
    if (slot != null && !slot.equals(who.slot())) {
      throw Denial.slotRequired(slot);
    }
    if (role != null && !who.hasRole(role)) {
      throw Denial.roleRequired(role);
    }
    return who;
  }

  /** Returns the token of exactly one {@code authorization: Bearer ...}, parsed as in Latchkey. */
  private static String bearer(Metadata headers) throws Denial {
    Iterable<String> values = headers.getAll(AUTHORIZATION);
    if (values == null) {
      throw Denial.tokenRequired();
    }
    Iterator<String> each = values.iterator();
    String sent = each.next();
    if (each.hasNext()) {
      // Proxies disagree on which of them counts, so the guard does not guess.
      throw Denial.malformed(MORE_THAN_ONE);
    }
    if (sent.isBlank() || sent.strip().equalsIgnoreCase("bearer")) {
      // A client without a token that sends the header anyway.
      throw Denial.tokenRequired();
    }
    Matcher value = BEARER.matcher(sent);
    if (!value.matches()) {
      throw Denial.malformed("The header `authorization` is not of the form `Bearer <token>`.");
    }
    if (value.group(1).contains(",")) {
      // Proxies join values with commas, and a token never contains one.
      throw Denial.malformed(MORE_THAN_ONE);
    }
    return value.group(1);
  }

  /** The options of a guard. */
  public static final class Builder {
    private final Channel channel;
    private final ValidateRequest.Builder request = ValidateRequest.newBuilder();
    private Duration timeout = Duration.ofSeconds(1);
    private Set<String> open = Set.of();
    private String callerKey;
    private String role;
    private String slot;
    private boolean watchStreams = true;
    private int maxWatches = 100;
    private Duration outageGrace = Duration.ofMinutes(1);

    private Builder(Channel channel) {
      this.channel = channel;
    }

    /** Sets the caller key for Latchkey, needed with {@code access.validate = "caller"}. */
    public Builder callerKey(String key) {
      callerKey = key;
      return this;
    }

    /** Opens methods to everybody, by full names such as {@code /grpc.health.v1.Health/Check}. */
    public Builder openMethods(String... methods) {
      // grpc-java writes full names without the slash.
      open = Stream.of(methods).map(name -> name.replaceFirst("^/", "")).collect(Collectors.toUnmodifiableSet());
      return this;
    }

    /** Lets Latchkey answer from its near-cache, at most this old. */
    public Builder maxStaleness(Duration age) {
      request.getMaxStalenessBuilder().setSeconds(age.getSeconds()).setNanos(age.getNano());
      return this;
    }

    /** Calls do not count as a use of the session. */
    public Builder peek() {
      request.setPeek(true);
      return this;
    }

    /** Sets the time limit for Latchkey's answer. Default: one second. */
    public Builder timeout(Duration timeout) {
      this.timeout = timeout;
      return this;
    }

    /** Calls of users without this role get PERMISSION_DENIED. */
    public Builder requiredRole(String role) {
      this.role = role;
      return this;
    }

    /** Calls of sessions in other slots get PERMISSION_DENIED. */
    public Builder requiredSlot(String slot) {
      this.slot = slot;
      return this;
    }

    /** Sets whether streams end when the session of their caller ends. Default: {@code true}. */
    public Builder watchStreams(boolean watch) {
      watchStreams = watch;
      return this;
    }

    /**
     * Sets the maximum number of watched streams. The tokens of further streams are validated every 10 seconds.
     * Default: 100. Keep it well below Latchkey's {@code server.max_streams} and the limits of proxies in between,
     * because all other calls of the guard share the same connection.
     */
    public Builder maxWatches(int count) {
      maxWatches = count;
      return this;
    }

    /** Sets how long streams continue while Latchkey is unavailable. Default: one minute. */
    public Builder outageGrace(Duration grace) {
      outageGrace = grace;
      return this;
    }

    /** Creates the guard. */
    public Guard build() {
      return new Guard(this);
    }
  }
}
