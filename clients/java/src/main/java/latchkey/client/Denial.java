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

/** The answer of a guard instead of the method's: a denial or an error. */
final class Denial extends Exception {
  private static final long serialVersionUID = 1;

  /** The domain of every ErrorInfo, as in Latchkey. */
  private static final String DOMAIN = "latchkey";

  private static final String PREFIX = "REJECTION_REASON_";

  /** A client may log in again automatically. */
  private static final Map<String, String> AGAIN = Map.of("terminal", "false");

  /** The retry delay after an outage, as in Latchkey. */
  private static final Duration RETRY_AFTER = Duration.newBuilder().setSeconds(1).build();

  private final transient StatusRuntimeException status;

  private Denial(Status status) {
    super(status.getMessage(), null, false, false);
    this.status = StatusProto.toStatusRuntimeException(status);
  }

  /** Denial: Latchkey rejected the token. */
  static Denial rejected(Rejection why) {
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
    return new Denial(status(code, why.getMessage(), name(why.getReason()), about).build());
  }

  /** Denial: the call has no token. */
  static Denial tokenRequired() {
    String message = "Please log in: there is no access token.";
    return new Denial(status(Code.UNAUTHENTICATED, message, "TOKEN_REQUIRED", AGAIN).build());
  }

  /** Denial: `authorization` is not exactly one bearer token. */
  static Denial malformed(String message) {
    return new Denial(status(Code.UNAUTHENTICATED, message, "MALFORMED", AGAIN).build());
  }

  /** Denial: the session is live, but in another slot. */
  static Denial slotRequired(String slot) {
    String message = "This needs a session in the slot `" + slot + "`.";
    Map<String, String> about = Map.of("terminal", "false", "slot", slot);
    return new Denial(status(Code.PERMISSION_DENIED, message, "SLOT_REQUIRED", about).build());
  }

  /** Denial: the session is live, but its user lacks the role. */
  static Denial roleRequired(String role) {
    String message = "This needs the role `" + role + "`.";
    Map<String, String> about = Map.of("terminal", "false", "role", role);
    return new Denial(status(Code.PERMISSION_DENIED, message, "ROLE_REQUIRED", about).build());
  }

  /** Error: there is no verdict. It says nothing about the token; the log has the cause. */
  static Denial unavailable() {
    String message = "the session cannot be checked at the moment: try again";
    Any retry = Any.pack(RetryInfo.newBuilder().setRetryDelay(RETRY_AFTER).build());
    return new Denial(status(Code.UNAVAILABLE, message, "STORE_UNAVAILABLE", Map.of()).addDetails(retry).build());
  }

  /** Returns the status as an exception. */
  StatusRuntimeException status() {
    return status;
  }

  /** Ends the call with the status. */
  void close(ServerCall<?, ?> call) {
    Metadata trailers = status.getTrailers();
    call.close(status.getStatus(), trailers == null ? new Metadata() : trailers);
  }

  private static Status.Builder status(Code code, String message, String reason, Map<String, String> about) {
    ErrorInfo info = ErrorInfo.newBuilder().setReason(reason).setDomain(DOMAIN).putAllMetadata(about).build();
    return Status.newBuilder().setCode(code.getNumber()).setMessage(message).addDetails(Any.pack(info));
  }

  /** A reason that this version does not know becomes UNKNOWN_SESSION. */
  private static String name(RejectionReason reason) {
    return switch (reason) {
      case UNRECOGNIZED, REJECTION_REASON_UNSPECIFIED -> "UNKNOWN_SESSION";
      default -> reason.name().substring(PREFIX.length());
    };
  }
}
