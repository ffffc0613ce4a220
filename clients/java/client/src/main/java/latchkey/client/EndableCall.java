package latchkey.client;

import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.Status;

/** A call that can be ended while its handler runs. */
final class EndableCall<Q, A> extends SimpleForwardingServerCall<Q, A> {
  private boolean closed;
  private boolean ended;

  EndableCall(ServerCall<Q, A> call) {
    super(call);
  }

  /** Discards everything that the handler sends from now on. Returns false if it has closed the call already. */
  synchronized boolean silence() {
    ended = !closed;
    return ended;
  }

  @Override
  public synchronized void request(int count) {
    if (!ended) {
      super.request(count);
    }
  }

  @Override
  public synchronized void sendHeaders(Metadata headers) {
    if (!ended) {
      super.sendHeaders(headers);
    }
  }

  @Override
  public synchronized void sendMessage(A message) {
    if (!ended) {
      super.sendMessage(message);
    }
  }

  @Override
  public synchronized void close(Status status, Metadata trailers) {
    if (!ended) {
      closed = true;
      super.close(status, trailers);
    }
  }

  @Override
  public synchronized boolean isCancelled() {
    return ended || super.isCancelled();
  }
}
