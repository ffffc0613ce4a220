package latchkey.client;

import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.Iterator;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import latchkey.v1.AuthServiceGrpc;
import latchkey.v1.Session;
import latchkey.v1.ValidateRequest;
import latchkey.v1.ValidateResponse;

/** Lets calls through whose token Latchkey finds good. It holds no thread while it waits. */
public final class Guard implements ServerInterceptor {
  private static final System.Logger LOG = System.getLogger("latchkey");
  private static final Metadata.Key<String> AUTHORIZATION = ascii("authorization");
  private static final Metadata.Key<String> CALLER_KEY = ascii("x-latchkey-key");
  private static final Pattern BEARER = Pattern.compile("bearer +([^ ].*?) *", Pattern.CASE_INSENSITIVE);
  private static final long RECONNECT_NANOS = TimeUnit.SECONDS.toNanos(1);

  private final Channel channel;
  private final AuthServiceGrpc.AuthServiceStub latchkey;
  private final ValidateRequest request;
  private final Duration timeout;
  private final Set<String> open;
  private final String role;
  private final String slot;
  private final AtomicLong reconnected = new AtomicLong(System.nanoTime());

  private Guard(Builder options) {
    channel = options.channel;
    request = options.request.build();
    timeout = options.timeout;
    open = options.open;
    role = options.role;
    slot = options.slot;
    Metadata about = new Metadata();
    if (options.callerKey != null && !options.callerKey.isEmpty()) {
      about.put(CALLER_KEY, options.callerKey);
    }
    latchkey = AuthServiceGrpc.newStub(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(about));
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
    // The call's own context: when the caller goes, so does the question.
    Context context = Context.current();
    try {
      ValidateRequest question = request.toBuilder().setToken(bearer(headers)).build();
      latchkey
          .withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS)
          .validate(question, new Answer(method, context) {
            @Override
            void decided(Identity who) {
              Context known = context.withValue(Identity.KEY, who);
              try {
                held.release(Contexts.interceptCall(known, call, headers, next));
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

  /** What Latchkey says of a token. */
  private abstract class Answer implements StreamObserver<ValidateResponse> {
    private final String method;
    private final Context caller;
    private ValidateResponse answer = ValidateResponse.getDefaultInstance();

    Answer(String method, Context caller) {
      this.method = method;
      this.caller = caller;
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
        reconnect();
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
      throw Refusal.notAllowed("slot", slot);
    }
    if (role != null && !who.hasRole(role)) {
      throw Refusal.notAllowed("role", role);
    }
    return who;
  }

  /** gRPC would wait up to two minutes between attempts, and every call fails meanwhile. */
  private void reconnect() {
    long last = reconnected.get();
    long now = System.nanoTime();
    if (channel instanceof ManagedChannel managed
        && now - last > RECONNECT_NANOS
        && reconnected.compareAndSet(last, now)) {
      managed.resetConnectBackoff();
    }
  }

  /** The token of exactly one {@code authorization: Bearer ...}, as Latchkey itself reads it. */
  private static String bearer(Metadata headers) throws Refusal {
    Iterable<String> values = headers.getAll(AUTHORIZATION);
    if (values == null) {
      throw Refusal.malformed("there is no access token: send the metadata `authorization: Bearer <token>`");
    }
    Iterator<String> each = values.iterator();
    Matcher value = BEARER.matcher(each.next());
    if (each.hasNext()) {
      // Which of them did the caller mean? Proxies disagree, so nobody guesses.
      throw Refusal.malformed("there is more than one `authorization`");
    }
    if (!value.matches()) {
      throw Refusal.malformed("`authorization` is not of the form `Bearer <token>`");
    }
    return value.group(1);
  }

  private static Metadata.Key<String> ascii(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
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

    /** The guard. */
    public Guard build() {
      return new Guard(this);
    }
  }
}
