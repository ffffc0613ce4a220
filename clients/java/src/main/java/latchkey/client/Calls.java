package latchkey.client;

import io.grpc.Channel;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import latchkey.v1.AuthServiceGrpc;
import latchkey.v1.ValidateRequest;
import latchkey.v1.ValidateResponse;
import latchkey.v1.WatchSessionRequest;
import latchkey.v1.WatchSessionResponse;

/** The calls of a guard to Latchkey. */
final class Calls {
  private static final Metadata.Key<String> CALLER_KEY =
      Metadata.Key.of("x-latchkey-key", Metadata.ASCII_STRING_MARSHALLER);
  private static final long RECONNECT_NANOS = TimeUnit.SECONDS.toNanos(1);

  private final Channel channel;
  private final AuthServiceGrpc.AuthServiceStub latchkey;
  private final ValidateRequest request;
  private final Duration timeout;
  private final AtomicLong reconnected = new AtomicLong(System.nanoTime());

  Calls(Channel channel, String callerKey, ValidateRequest request, Duration timeout) {
    this.channel = channel;
    this.request = request;
    this.timeout = timeout;
    Metadata about = new Metadata();
    if (callerKey != null && !callerKey.isEmpty()) {
      about.put(CALLER_KEY, callerKey);
    }
    latchkey = AuthServiceGrpc.newStub(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(about));
  }

  /** Validates a token. */
  void validate(String token, StreamObserver<ValidateResponse> answer) {
    validate(request.toBuilder().setToken(token).build(), answer);
  }

  /** Validates a token without using the session. */
  void peek(String token, StreamObserver<ValidateResponse> answer) {
    validate(request.toBuilder().setToken(token).setPeek(true).build(), answer);
  }

  private void validate(ValidateRequest question, StreamObserver<ValidateResponse> answer) {
    latchkey.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS).validate(question, answer);
  }

  /** Watches a session for at most this long. */
  void watch(String token, long nanos, StreamObserver<WatchSessionResponse> told) {
    WatchSessionRequest question = WatchSessionRequest.newBuilder().setToken(token).build();
    latchkey.withDeadlineAfter(nanos, TimeUnit.NANOSECONDS).watchSession(question, told);
  }

  /** Resets the backoff: by default gRPC waits up to two minutes between attempts, and every call fails meanwhile. */
  void reconnect() {
    long last = reconnected.get();
    long now = System.nanoTime();
    if (channel instanceof ManagedChannel managed
        && now - last > RECONNECT_NANOS
        && reconnected.compareAndSet(last, now)) {
      managed.resetConnectBackoff();
    }
  }
}
