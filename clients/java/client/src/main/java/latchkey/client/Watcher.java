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

/** Waits for the ends of sessions with running streams. It blocks no thread while it waits. */
final class Watcher {
  /** The first delay before watching again. It doubles each time. */
  private static final long FIRST_PAUSE = TimeUnit.MILLISECONDS.toNanos(100);

  /** The maximum delay, and so the polling interval of streams that cannot be watched. */
  private static final long ASK_EVERY = TimeUnit.SECONDS.toNanos(10);

  /** The maximum time of one watch, because a connection can be dead without an error. */
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

  /** Calls {@code end} with the denial when the session has ended, unless the current context ends first. */
  void watch(String method, String token, Consumer<DeniedException> end) {
    new Watch(method, token, Context.current(), end).watch();
  }

  /** Logs a reached limit of watches, once for all streams. */
  private void tell(Status why) {
    if (why.getCode() == Status.Code.RESOURCE_EXHAUSTED && told.compareAndSet(false, true)) {
      Guard.LOG.log(Level.WARNING, "some streams are not watched and are validated every 10 s instead: {0}", why);
    }
  }

  /** Shortens a pause at random, so that streams that began together do not reconnect together. */
  static long jittered(long nanos) {
    return (long) (nanos * ThreadLocalRandom.current().nextDouble(0.5, 1));
  }

  /**
   * One stream. A watch that breaks says nothing about the session, so its token is validated. A session that cannot be
   * watched is validated periodically.
   */
  private final class Watch {
    private final String method;
    private final String token;
    private final Context call;
    private final Consumer<DeniedException> end;
    // Used by one thread at a time: that of the pending answer.
    private long live = System.nanoTime();
    private long pause = FIRST_PAUSE;

    Watch(String method, String token, Context call, Consumer<DeniedException> end) {
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
        tell(Status.RESOURCE_EXHAUSTED.withDescription("the guard has reached maxWatches"));
        ask();
        return;
      }
      // In the context of the call, so that the watch ends with it.
      call.run(() -> calls.watch(token, jittered(WATCH_FOR), new News()));
    }

    private void ask() {
      if (!call.isCancelled()) {
        call.run(() -> calls.peek(token, new Answer()));
      }
    }

    private void ended(Rejection why) {
      end.accept(DeniedException.rejected(why));
    }

    private void silent(String why) {
      calls.reconnect();
      long left = live + grace - System.nanoTime();
      if (left > 0) {
        again(left);
      } else if (!call.isCancelled()) {
        Guard.LOG.log(Level.WARNING, "ended a stream of {0} because Latchkey is unavailable: {1}", method, why);
        end.accept(DeniedException.unavailable());
      }
    }

    private void again(long atMost) {
      long wait = Math.min(jittered(pause), atMost);
      pause = Math.min(2 * pause, ASK_EVERY);
      CompletableFuture.delayedExecutor(wait, TimeUnit.NANOSECONDS).execute(this::watch);
    }

    /** Receives the messages of a watch. */
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

    /** Receives the verdict of Validate. */
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
          default -> silent("the answer has no verdict");
        }
      }
    }
  }
}
