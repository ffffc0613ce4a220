package latchkey.client;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.rpc.Code;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.Map;
import java.util.TreeMap;
import latchkey.v1.Rejection;
import latchkey.v1.RejectionReason;

/** What a guard answers in place of the method. */
final class Refusal extends Exception {
  private static final long serialVersionUID = 1;

  /** The domain of every ErrorInfo, as in Latchkey itself. */
  private static final String DOMAIN = "latchkey";

  private static final String PREFIX = "REJECTION_REASON_";

  /** A client may log in again by itself. */
  private static final Map<String, String> AGAIN = Map.of("terminal", "false");

  /** When to try again after an outage, as Latchkey itself says. */
  private static final Duration RETRY_AFTER = Duration.newBuilder().setSeconds(1).build();

  private final transient StatusRuntimeException status;

  private Refusal(Status status) {
    super(status.getMessage(), null, false, false);
    this.status = StatusProto.toStatusRuntimeException(status);
  }

  /** What Latchkey rejected. */
  static Refusal rejected(Rejection why) {
    Map<String, String> about = new TreeMap<>();
    about.put("terminal", Boolean.toString(why.getTerminal()));
    if (why.hasAt()) {
      about.put("at_unix", Long.toString(why.getAt().getSeconds()));
    }
    if (!why.getByDevice().isEmpty()) {
      about.put("by_device", why.getByDevice());
    }
    boolean disabled = why.getReason() == RejectionReason.REJECTION_REASON_ACCOUNT_DISABLED;
    Code code = disabled ? Code.PERMISSION_DENIED : Code.UNAUTHENTICATED;
    return new Refusal(status(code, why.getMessage(), name(why.getReason()), about).build());
  }

  /** There is no token to ask about. */
  static Refusal tokenRequired() {
    String message = "Please log in: there is no access token.";
    return new Refusal(status(Code.UNAUTHENTICATED, message, "TOKEN_REQUIRED", AGAIN).build());
  }

  /** There is something, and not exactly one token. */
  static Refusal malformed(String message) {
    return new Refusal(status(Code.UNAUTHENTICATED, message, "MALFORMED", AGAIN).build());
  }

  /** The session is live, in another slot. */
  static Refusal slotRequired(String slot) {
    String message = "This needs a session in the slot `" + slot + "`.";
    Map<String, String> about = Map.of("terminal", "false", "slot", slot);
    return new Refusal(status(Code.PERMISSION_DENIED, message, "SLOT_REQUIRED", about).build());
  }

  /** The session is live, and its user does not have the role. */
  static Refusal roleRequired(String role) {
    String message = "This needs the role `" + role + "`.";
    Map<String, String> about = Map.of("terminal", "false", "role", role);
    return new Refusal(status(Code.PERMISSION_DENIED, message, "ROLE_REQUIRED", about).build());
  }

  /** There is no verdict. It says nothing about the token, nor why: that is for the log. */
  static Refusal unavailable() {
    String message = "the session cannot be checked at the moment: try again";
    Any retry = Any.pack(RetryInfo.newBuilder().setRetryDelay(RETRY_AFTER).build());
    return new Refusal(status(Code.UNAVAILABLE, message, "STORE_UNAVAILABLE", Map.of()).addDetails(retry).build());
  }

  /** What gRPC makes of it. */
  StatusRuntimeException status() {
    return status;
  }

  /** Ends the call with it. */
  void close(ServerCall<?, ?> call) {
    Metadata trailers = status.getTrailers();
    call.close(status.getStatus(), trailers == null ? new Metadata() : trailers);
  }

  private static Status.Builder status(Code code, String message, String reason, Map<String, String> about) {
    ErrorInfo info = ErrorInfo.newBuilder().setReason(reason).setDomain(DOMAIN).putAllMetadata(about).build();
    return Status.newBuilder().setCode(code.getNumber()).setMessage(message).addDetails(Any.pack(info));
  }

  /** What this version does not know is an unknown session. */
  private static String name(RejectionReason reason) {
    return switch (reason) {
      case UNRECOGNIZED, REJECTION_REASON_UNSPECIFIED -> "UNKNOWN_SESSION";
      default -> reason.name().substring(PREFIX.length());
    };
  }
}
