package latchkey.client;

import io.grpc.ServerCall;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.function.Consumer;

/**
 * Holds back what happens to a call until it is known who listens, and tells it one after the other from then on, from
 * whatever thread it comes: gRPC's, or that of the guard which ends the call.
 */
final class Held<T> extends ServerCall.Listener<T> {
  private final Queue<Consumer<ServerCall.Listener<T>>> waiting = new ArrayDeque<>();
  private ServerCall.Listener<T> listener;
  private boolean telling;
  private boolean over;

  /** Tells the listener what has happened so far, and what happens from now on. */
  void release(ServerCall.Listener<T> to) {
    synchronized (this) {
      listener = to;
    }
    tellAll();
  }

  /** Ends the call from this side, unless it is over. The listener is told that it is cancelled, and nothing else. */
  void cancel(Runnable end) {
    synchronized (this) {
      if (over) {
        return;
      }
      // First, because gRPC tells of what has ended well that it is complete.
      over = true;
      waiting.clear();
      waiting.add(ServerCall.Listener::onCancel);
    }
    end.run();
    tellAll();
  }

  private void tell(Consumer<ServerCall.Listener<T>> event, boolean last) {
    synchronized (this) {
      if (!over) {
        over = last;
        waiting.add(event);
      }
    }
    tellAll();
  }

  /** Outside of the lock: a handler may take long, and whatever comes meanwhile is told by the thread that it holds. */
  private void tellAll() {
    while (true) {
      Consumer<ServerCall.Listener<T>> event;
      synchronized (this) {
        if (telling || listener == null || waiting.isEmpty()) {
          return;
        }
        event = waiting.poll();
        telling = true;
      }
      try {
        event.accept(listener);
      } finally {
        synchronized (this) {
          telling = false;
        }
      }
    }
  }

  @Override
  public void onMessage(T message) {
    tell(to -> to.onMessage(message), false);
  }

  @Override
  public void onHalfClose() {
    tell(ServerCall.Listener::onHalfClose, false);
  }

  @Override
  public void onCancel() {
    tell(ServerCall.Listener::onCancel, true);
  }

  @Override
  public void onComplete() {
    tell(ServerCall.Listener::onComplete, true);
  }

  @Override
  public void onReady() {
    tell(ServerCall.Listener::onReady, false);
  }
}
