package latchkey.client;

import io.grpc.Channel;
import io.grpc.ManagedChannel;
import java.time.Duration;
import latchkey.v1.ValidateRequest;

/** The options that all guards have. */
abstract sealed class GuardOptions<B extends GuardOptions<B>> permits Guard.Builder, HttpGuard.Builder {
  private final String address;
  private final Channel channel;
  private final ValidateRequest.Builder request = ValidateRequest.newBuilder();
  private Duration timeout = Duration.ofSeconds(1);
  private String callerKey = "";
  private String role;
  private String slot;

  GuardOptions(String address, Channel channel) {
    this.address = address;
    this.channel = channel;
  }

  abstract B self();

  /** Sets the caller key for Latchkey, needed with {@code access.validate = "caller"}. */
  public B callerKey(String key) {
    callerKey = key;
    return self();
  }

  /** Lets Latchkey answer from its near-cache, at most this old. */
  public B maxStaleness(Duration age) {
    request.getMaxStalenessBuilder().setSeconds(age.getSeconds()).setNanos(age.getNano());
    return self();
  }

  /** Calls do not count as a use of the session. */
  public B peek() {
    request.setPeek(true);
    return self();
  }

  /** Sets the time limit for Latchkey's answer. Default: one second. */
  public B timeout(Duration timeout) {
    this.timeout = timeout;
    return self();
  }

  /** Denies calls of users without this role. An empty one, or null, means none. */
  public B requiredRole(String role) {
    this.role = role;
    return self();
  }

  /** Denies calls of sessions in other slots. An empty one, or null, means any. */
  public B requiredSlot(String slot) {
    this.slot = slot;
    return self();
  }

  Checker checker() {
    if (timeout.isNegative() || timeout.isZero()) {
      throw new IllegalArgumentException("timeout must be positive, such as Duration.ofSeconds(1), not " + timeout);
    }
    if (request.hasMaxStaleness() && request.getMaxStaleness().getSeconds() < 0) {
      throw new IllegalArgumentException("maxStaleness must not be negative");
    }
    // A channel that the guard makes is its own to close.
    ManagedChannel own = channel == null ? Latchkey.connect(address) : null;
    Channel used = own == null ? channel : own;
    if (used instanceof ManagedChannel managed) {
      // Connects, so that the first call does not wait for it.
      managed.getState(true);
    }
    Calls calls = new Calls(used, callerKey, request.build(), timeout);
    return new Checker(calls, own, role, slot);
  }
}
