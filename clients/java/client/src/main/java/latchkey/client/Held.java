package latchkey.client;

import io.grpc.ServerCall;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.function.Consumer;

/**
 * Queues the events of a call until the listener is known, and then delivers them one at a time, whichever thread they
 * come from: that of gRPC, or that of the guard which ends the call.
 */
final class Held<T> extends ServerCall.Listener<T> {
  private final Queue<Consumer<ServerCall.Listener<T>>> waiting = new ArrayDeque<>();
  private ServerCall.Listener<T> listener;
  private boolean telling;
  private boolean over;

  /** Delivers the queued events, and all later ones, to the listener. */
  void release(ServerCall.Listener<T> to) {
    synchronized (this) {
      listener = to;
    }
    tellAll();
  }

  /** Ends the call from this side, unless it is over. The listener gets onCancel and nothing else. */
  void cancel(Runnable end) {
    synchronized (this) {
      if (over) {
        return;
      }
      // First, because gRPC reports a closed call as complete.
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

  /** Not under the lock: a handler may take long, and its thread delivers the events that arrive meanwhile. */
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
