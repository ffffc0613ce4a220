package latchkey.client;

import io.grpc.ServerCall;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.function.Consumer;

/** Holds back what happens to a call until it is known who listens. */
final class Held<T> extends ServerCall.Listener<T> {
  private final Queue<Consumer<ServerCall.Listener<T>>> waiting = new ArrayDeque<>();
  private ServerCall.Listener<T> listener;

  /** Tells the listener what has happened so far; from now on it is told directly. */
  synchronized void release(ServerCall.Listener<T> to) {
    // What happens meanwhile waits at the lock, or, where this thread itself brings it about, in the queue.
    for (var event = waiting.poll(); event != null; event = waiting.poll()) {
      event.accept(to);
    }
    listener = to;
  }

  private void tell(Consumer<ServerCall.Listener<T>> event) {
    synchronized (this) {
      if (listener == null) {
        waiting.add(event);
        return;
      }
    }
    event.accept(listener);
  }

  @Override
  public void onMessage(T message) {
    tell(to -> to.onMessage(message));
  }

  @Override
  public void onHalfClose() {
    tell(ServerCall.Listener::onHalfClose);
  }

  @Override
  public void onCancel() {
    tell(ServerCall.Listener::onCancel);
  }

  @Override
  public void onComplete() {
    tell(ServerCall.Listener::onComplete);
  }

  @Override
  public void onReady() {
    tell(ServerCall.Listener::onReady);
  }
}
