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
import java.time.Duration;
import java.util.Collections;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import latchkey.v1.ValidateResponse;

/**
 * Accepts only calls whose token has a live session, and ends streams when the session of their caller ends. It blocks
 * no thread while it waits.
 */
public final class Guard implements ServerInterceptor, AutoCloseable {
  static final System.Logger LOG = Checker.LOG;

  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final Checker checker;
  private final Watcher watcher;
  private final Set<String> open;
  private final boolean watchStreams;

  private Guard(Builder options) {
    checker = options.checker();
    watcher = new Watcher(checker.latchkey(), options.maxWatches, options.outageGrace);
    open = options.open;
    watchStreams = options.watchStreams;
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

  /** Closes the channel if the guard has made it. Close the guard after its server. */
  @Override
  public void close() {
    checker.close();
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
      Iterable<String> sent = headers.getAll(AUTHORIZATION);
      String token = Bearer.token(sent == null ? Collections.emptyIterator() : sent.iterator());
      checker.latchkey().validate(token, new Answer(method) {
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
        void denied(DeniedException why) {
          why.close(call);
        }
      });
    } catch (DeniedException why) {
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

    abstract void denied(DeniedException why);

    @Override
    public void onNext(ValidateResponse answer) {
      this.answer = answer;
    }

    @Override
    public void onError(Throwable why) {
      // If the caller has disconnected, this is not an outage.
      denied(caller.isCancelled() ? DeniedException.unavailable() : checker.noVerdict(method, why));
    }

    @Override
    public void onCompleted() {
      Identity who;
      try {
        who = checker.admit(answer, method);
      } catch (DeniedException why) {
        denied(why);
        return;
      }
      decided(who);
    }
  }

  /** The options of a guard. */
  public static final class Builder extends GuardOptions<Builder> {
    private Set<String> open = Set.of();
    private boolean watchStreams = true;
    private int maxWatches = 100;
    private Duration outageGrace = Duration.ofMinutes(1);

    private Builder(String address, Channel channel) {
      super(address, channel);
    }

    @Override
    Builder self() {
      return this;
    }

    /** Opens methods to everybody, by full names such as {@code /grpc.health.v1.Health/Check}. */
    public Builder openMethods(String... methods) {
      // grpc-java writes full names without the slash.
      open = Stream.of(methods).map(name -> name.replaceFirst("^/", "")).collect(Collectors.toUnmodifiableSet());
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
