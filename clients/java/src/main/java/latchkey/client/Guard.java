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
 * Lets calls through whose token Latchkey finds good, and ends streams when the session of their caller does. It holds
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

  /** A guard that asks over this channel; {@link Latchkey#connect} makes one. */
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
            // As the server itself answers where a handler throws.
            Status status = Status.UNKNOWN.withDescription("Application error processing RPC");
            call.close(status.withCause(e), new Metadata());
          }
        }

        @Override
        void refused(Refusal why) {
          why.close(call);
        }
      });
    } catch (Refusal why) {
      why.close(call);
    }
    return held;
  }

  /** Runs the handler until it or the session has ended. */
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
              // First, because gRPC ends the context of a call that is closed, without a cause.
              running.cancel(why.status());
              why.close(call);
            });
          }
        }));
    // Last: this thread may be that in which the handler runs, for as long as it likes.
    held.release(Contexts.interceptCall(running, endable, headers, next));
  }

  /** What Latchkey says of a token. */
  private abstract class Answer implements StreamObserver<ValidateResponse> {
    /** The call's own context: when the caller goes, so does the question. */
    final Context caller = Context.current();

    private final String method;
    private ValidateResponse answer = ValidateResponse.getDefaultInstance();

    Answer(String method) {
      this.method = method;
    }

    abstract void decided(Identity who);

    abstract void refused(Refusal why);

    @Override
    public void onNext(ValidateResponse answer) {
      this.answer = answer;
    }

    @Override
    public void onError(Throwable why) {
      // Where the caller has gone, nothing is wrong.
      if (!caller.isCancelled()) {
        LOG.log(Level.WARNING, "Latchkey gave no verdict on a call of {0}: {1}", method, why.getMessage());
        latchkey.reconnect();
      }
      refused(Refusal.unavailable());
    }

    @Override
    public void onCompleted() {
      Identity who;
      try {
        who = admit(answer, method);
      } catch (Refusal why) {
        refused(why);
        return;
      }
      decided(who);
    }
  }

  private Identity admit(ValidateResponse answer, String method) throws Refusal {
    switch (answer.getVerdictCase()) {
      case SESSION:
        return admit(answer.getSession());
      case REJECTION:
        throw Refusal.rejected(answer.getRejection());
      default:
        LOG.log(Level.WARNING, "Latchkey answered a call of {0} without a verdict", method);
        throw Refusal.unavailable();
    }
  }

  private Identity admit(Session session) throws Refusal {
    Identity who = Identity.of(session);
    if (slot != null && !slot.equals(who.slot())) {
      throw Refusal.slotRequired(slot);
    }
    if (role != null && !who.hasRole(role)) {
      throw Refusal.roleRequired(role);
    }
    return who;
  }

  /** The token of exactly one {@code authorization: Bearer ...}, as Latchkey itself reads it. */
  private static String bearer(Metadata headers) throws Refusal {
    Iterable<String> values = headers.getAll(AUTHORIZATION);
    if (values == null) {
      throw Refusal.tokenRequired();
    }
    Iterator<String> each = values.iterator();
    String sent = each.next();
    if (each.hasNext()) {
      // Which of them did the caller mean? Proxies disagree, so nobody guesses.
      throw Refusal.malformed(MORE_THAN_ONE);
    }
    if (sent.isBlank() || sent.strip().equalsIgnoreCase("bearer")) {
      // A client that has no token, and sends the header all the same.
      throw Refusal.tokenRequired();
    }
    Matcher value = BEARER.matcher(sent);
    if (!value.matches()) {
      throw Refusal.malformed("The header `authorization` is not of the form `Bearer <token>`.");
    }
    if (value.group(1).contains(",")) {
      // Proxies join values with commas, and no token has one.
      throw Refusal.malformed(MORE_THAN_ONE);
    }
    return value.group(1);
  }

  /** What a guard does. */
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

    /** Says who asks, for a Latchkey with {@code access.validate = "caller"}. */
    public Builder callerKey(String key) {
      callerKey = key;
      return this;
    }

    /** Methods for everybody, by full names such as {@code /grpc.health.v1.Health/Check}. */
    public Builder openMethods(String... methods) {
      // gRPC for Java writes them without the slash.
      open = Stream.of(methods).map(name -> name.replaceFirst("^/", "")).collect(Collectors.toUnmodifiableSet());
      return this;
    }

    /** Lets Latchkey answer from memory, never with anything older than this. */
    public Builder maxStaleness(Duration age) {
      request.getMaxStalenessBuilder().setSeconds(age.getSeconds()).setNanos(age.getNano());
      return this;
    }

    /** Calls do not count as a use of the session. */
    public Builder peek() {
      request.setPeek(true);
      return this;
    }

    /** How long Latchkey may take: one second, unless it is set. */
    public Builder timeout(Duration timeout) {
      this.timeout = timeout;
      return this;
    }

    /** Who does not have this role is told PERMISSION_DENIED. */
    public Builder requiredRole(String role) {
      this.role = role;
      return this;
    }

    /** The same for sessions of other slots. */
    public Builder requiredSlot(String slot) {
      this.slot = slot;
      return this;
    }

    /** Streams end when the session of their caller does: {@code true}, unless it is set. */
    public Builder watchStreams(boolean watch) {
      watchStreams = watch;
      return this;
    }

    /**
     * How many streams are watched at a time over the channel: 100, unless it is set. About the others Latchkey is asked
     * every 10 seconds. It has to stay well below Latchkey's {@code server.max_streams} and what proxies between allow,
     * because every other call of the guard's needs room on the same connection.
     */
    public Builder maxWatches(int count) {
      maxWatches = count;
      return this;
    }

    /** How long streams go on while Latchkey is away: one minute, unless it is set. */
    public Builder outageGrace(Duration grace) {
      outageGrace = grace;
      return this;
    }

    /** The guard. */
    public Guard build() {
      return new Guard(this);
    }
  }
}
