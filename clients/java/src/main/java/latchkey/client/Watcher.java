package latchkey.client;

import io.grpc.Context;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Consumer;
import latchkey.v1.Rejection;
import latchkey.v1.ValidateResponse;
import latchkey.v1.WatchSessionResponse;

/** Waits for the ends of sessions whose streams run. It holds no thread while it waits. */
final class Watcher {
  /** How long to wait before watching again, the first time. Then twice as long each time. */
  private static final long FIRST_PAUSE = TimeUnit.MILLISECONDS.toNanos(100);

  /** How long to wait at most: how old the news of a stream is that may not be watched. */
  private static final long ASK_EVERY = TimeUnit.SECONDS.toNanos(10);

  /** How long to watch at a time: a connection that is dead and does not say so must not be trusted for ever. */
  private static final long WATCH_FOR = TimeUnit.MINUTES.toNanos(1);

  private final Calls calls;
  private final long grace;
  private final Semaphore places;
  private final AtomicBoolean told = new AtomicBoolean();

  Watcher(Calls calls, int places, Duration grace) {
    this.calls = calls;
    this.places = new Semaphore(places);
    this.grace = grace.toNanos();
  }

  /** Waits until the session has ended, and tells what its caller is told; or until the current context ends. */
  void watch(String method, String token, Consumer<Refusal> end) {
    new Watch(method, token, Context.current(), end).watch();
  }

  /** Once: it is the same for every stream. */
  private void tell(Status why) {
    if (why.getCode() == Status.Code.RESOURCE_EXHAUSTED && told.compareAndSet(false, true)) {
      Guard.LOG.log(Level.WARNING, "Some streams are not watched, and asked about every 10 s: {0}", why);
    }
  }

  /** Somewhat less: not all that began at once shall end at once. */
  private static long jittered(long nanos) {
    return (long) (nanos * ThreadLocalRandom.current().nextDouble(0.5, 1));
  }

  /**
   * One stream. A watch that breaks says nothing of the session, so that Latchkey is asked; and where a session cannot
   * be watched it is asked again and again.
   */
  private final class Watch {
    private final String method;
    private final String token;
    private final Context call;
    private final Consumer<Refusal> end;
    // Of what follows one thread at a time knows: that of the answer which everything waits for.
    private long live = System.nanoTime();
    private long pause = FIRST_PAUSE;

    Watch(String method, String token, Context call, Consumer<Refusal> end) {
      this.method = method;
      this.token = token;
      this.call = call;
      this.end = end;
    }

    void watch() {
      if (call.isCancelled()) {
        return;
      }
      if (!places.tryAcquire()) {
        tell(Status.RESOURCE_EXHAUSTED.withDescription("the guard watches as many as it may"));
        ask();
        return;
      }
      // In the context of the call: when that ends, so does the watch.
      call.run(() -> calls.watch(token, jittered(WATCH_FOR), new News()));
    }

    private void ask() {
      if (!call.isCancelled()) {
        call.run(() -> calls.peek(token, new Answer()));
      }
    }

    private void ended(Rejection why) {
      end.accept(Refusal.rejected(why));
    }

    private void silent(String why) {
      calls.reconnect();
      long left = live + grace - System.nanoTime();
      if (left > 0) {
        again(left);
      } else if (!call.isCancelled()) {
        Guard.LOG.log(Level.WARNING, "A stream of {0} ends, because Latchkey is away: {1}", method, why);
        end.accept(Refusal.unavailable());
      }
    }

    private void again(long atMost) {
      long wait = Math.min(jittered(pause), atMost);
      pause = Math.min(2 * pause, ASK_EVERY);
      CompletableFuture.delayedExecutor(wait, TimeUnit.NANOSECONDS).execute(this::watch);
    }

    /** What a watch tells. */
    private final class News implements StreamObserver<WatchSessionResponse> {
      private boolean watched;
      private Rejection rejection;

      @Override
      public void onNext(WatchSessionResponse news) {
        watched |= news.hasSession();
        if (news.hasRejection() && rejection == null) {
          rejection = news.getRejection();
          ended(rejection);
        }
      }

      @Override
      public void onError(Throwable why) {
        Status status = Status.fromThrowable(why);
        tell(status);
        broke();
      }

      @Override
      public void onCompleted() {
        broke();
      }

      private void broke() {
        places.release();
        if (watched) {
          live = System.nanoTime();
          pause = FIRST_PAUSE;
        }
        if (rejection == null) {
          ask();
        }
      }
    }

    /** What Latchkey answers. */
    private final class Answer implements StreamObserver<ValidateResponse> {
      private ValidateResponse answer = ValidateResponse.getDefaultInstance();

      @Override
      public void onNext(ValidateResponse answer) {
        this.answer = answer;
      }

      @Override
      public void onError(Throwable why) {
        silent(why.getMessage());
      }

      @Override
      public void onCompleted() {
        switch (answer.getVerdictCase()) {
          case SESSION -> {
            live = System.nanoTime();
            again(ASK_EVERY);
          }
          case REJECTION -> ended(answer.getRejection());
          default -> silent("it answered without a verdict");
        }
      }
    }
  }
}
