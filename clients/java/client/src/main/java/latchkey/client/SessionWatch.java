package latchkey.client;

import io.grpc.Context;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import latchkey.v1.AuthServiceGrpc;
import latchkey.v1.WatchSessionRequest;
import latchkey.v1.WatchSessionResponse;

/**
 * Waits for the end of a session. A stream that breaks says nothing about the session, so it is opened again until the
 * session has ended or the watch is closed. It blocks no thread.
 */
public final class SessionWatch implements AutoCloseable {
  private static final long FIRST_PAUSE = TimeUnit.MILLISECONDS.toNanos(100);
  private static final long LAST_PAUSE = TimeUnit.SECONDS.toNanos(10);
  /** The maximum time of one stream, because a connection can be dead without an error. */
  private static final long WATCH_FOR = TimeUnit.MINUTES.toNanos(1);

  private final AuthServiceGrpc.AuthServiceStub latchkey;
  private final Runnable reconnect;
  private final WatchSessionRequest request;
  private final Context.CancellableContext open = Context.ROOT.withCancellation();
  private final CompletableFuture<Identity> begun = new CompletableFuture<>();
  private final CompletableFuture<Rejection> ended = new CompletableFuture<>();
  private long pause = FIRST_PAUSE;

  SessionWatch(AuthServiceGrpc.AuthServiceStub latchkey, Runnable reconnect, String token) {
    this.latchkey = latchkey;
    this.reconnect = reconnect;
    request = WatchSessionRequest.newBuilder().setToken(token).build();
    watch();
  }

  /** Returns the session as it was when the watch began. */
  public Identity identity() {
    return begun.join();
  }

  /**
   * Returns the end of the session, for callbacks: {@code watch.ended().thenAccept(why -> ...)}. If the watch is closed
   * first, or Latchkey does not serve this client any longer, it completes exceptionally.
   */
  public CompletableFuture<Rejection> ended() {
    return ended.copy();
  }

  /** Waits until the session has ended, and returns why. */
  public Rejection awaitEnd() throws InterruptedException {
    try {
      return ended.get();
    } catch (ExecutionException e) {
      throw e.getCause() instanceof LatchkeyException why ? why : new CancellationException("the watch was closed");
    }
  }

  /** Stops watching. */
  @Override
  public void close() {
    ended.completeExceptionally(new CancellationException("the watch was closed"));
    open.cancel(null);
  }

  CompletableFuture<Identity> begun() {
    return begun;
  }

  private void watch() {
    if (!open.isCancelled()) {
      open.run(() -> latchkey.withDeadlineAfter(Watcher.jittered(WATCH_FOR), TimeUnit.NANOSECONDS)
          .watchSession(request, new News()));
    }
  }

  private void fail(LatchkeyException why) {
    begun.completeExceptionally(why);
    ended.completeExceptionally(why);
    open.cancel(null);
  }

  private void end(Rejection why) {
    ended.complete(why);
    open.cancel(null);
  }

  private void again(Duration atLeast) {
    long wait = Watcher.jittered(Math.max(pause, 2 * atLeast.toNanos()));
    pause = Math.min(2 * pause, LAST_PAUSE);
    CompletableFuture.delayedExecutor(wait, TimeUnit.NANOSECONDS).execute(this::watch);
  }

  /** Receives the messages of a stream. */
  private final class News implements StreamObserver<WatchSessionResponse> {
    @Override
    public void onNext(WatchSessionResponse news) {
      switch (news.getVerdictCase()) {
        case SESSION -> {
          pause = FIRST_PAUSE;
          begun.complete(Identity.of(news.getSession()));
        }
        case REJECTION -> end(Rejection.of(news.getRejection()));
        default -> { }
      }
    }

    @Override
    public void onError(Throwable thrown) {
      if (open.isCancelled()) {
        return;
      }
      LatchkeyException why = Errors.of(thrown);
      if (!begun.isDone()) {
        fail(why);
      } else if (why instanceof RejectedException rejected) {
        end(rejected.rejection());
      } else if (why instanceof UnavailableException passing) {
        reconnect.run();
        again(passing.reason().equals("DEADLINE_EXCEEDED") ? Duration.ZERO : passing.retryAfter());
      } else {
        fail(why);
      }
    }

    @Override
    public void onCompleted() {
      if (!ended.isDone()) {
        again(Duration.ZERO);
      }
    }
  }
}
