package latchkey.client;

import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
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
  private static final long RECONNECT_NANOS = TimeUnit.MILLISECONDS.toNanos(100);

  private final Channel channel;
  private final AuthServiceGrpc.AuthServiceStub latchkey;
  private final AuthServiceGrpc.AuthServiceBlockingStub waiting;
  private final ValidateRequest request;
  private final Duration timeout;
  private final AtomicLong reconnected = new AtomicLong(System.nanoTime() - RECONNECT_NANOS);

  Calls(Channel channel, String callerKey, ValidateRequest request, Duration timeout) {
    this.channel = channel;
    this.request = request;
    this.timeout = timeout;
    Channel with = withKey(channel, callerKey);
    latchkey = AuthServiceGrpc.newStub(with);
    waiting = AuthServiceGrpc.newBlockingStub(with);
  }

  /** Returns the channel with the caller key in every call. */
  static Channel withKey(Channel channel, String callerKey) {
    String key = callerKey == null ? "" : callerKey.strip();
    if (key.isEmpty()) {
      return channel;
    }
    if (!key.chars().allMatch(c -> c > ' ' && c < 0x7f)) {
      throw new IllegalArgumentException("the caller key is invalid: it may contain visible ASCII characters only");
    }
    Metadata about = new Metadata();
    about.put(CALLER_KEY, key);
    return ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(about));
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
    reconnectIfBroken();
    latchkey.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS).validate(question, answer);
  }

  /** Validates a token, and waits for the verdict. */
  ValidateResponse validate(String token) {
    reconnectIfBroken();
    ValidateRequest question = request.toBuilder().setToken(token).build();
    return waiting.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS).validate(question);
  }

  /** Watches a session for at most this long. */
  void watch(String token, long nanos, StreamObserver<WatchSessionResponse> told) {
    WatchSessionRequest question = WatchSessionRequest.newBuilder().setToken(token).build();
    latchkey.withDeadlineAfter(nanos, TimeUnit.NANOSECONDS).watchSession(question, told);
  }

  /** Connects at once after an outage that ended while nobody called. The call is repeated until then. */
  private void reconnectIfBroken() {
    if (isBroken(channel)) {
      reconnect();
    }
  }

  /** Returns whether the last attempt to connect has failed. */
  static boolean isBroken(Channel channel) {
    return channel instanceof ManagedChannel managed
        && managed.getState(false) == ConnectivityState.TRANSIENT_FAILURE;
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
