package latchkey.client;

import com.google.protobuf.Any;
import com.google.rpc.Code;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import latchkey.v1.RejectionReason;

/**
 * The answer of a guard instead of the handler's: a denial, or the error that there is no verdict. Its message can be
 * shown to the user. Frameworks without a guard of their own send {@link #httpStatus()}, {@link #httpHeaders()} and
 * {@link #httpBody()}.
 */
public final class DeniedException extends Exception {
  private static final long serialVersionUID = 1;

  /** Decides the status and the challenge. */
  private enum Kind {
    NO_TOKEN(401, Code.UNAUTHENTICATED, ""),
    MALFORMED(401, Code.UNAUTHENTICATED, "invalid_request"),
    REJECTED(401, Code.UNAUTHENTICATED, "invalid_token"),
    /** No other token would help. */
    DISABLED(403, Code.PERMISSION_DENIED, null),
    INSUFFICIENT(403, Code.PERMISSION_DENIED, "insufficient_scope"),
    OUTAGE(503, Code.UNAVAILABLE, null);

    private final int http;
    private final Code grpc;
    private final String challenge;

    Kind(int http, Code grpc, String challenge) {
      this.http = http;
      this.grpc = grpc;
      this.challenge = challenge;
    }
  }

  /** The retry delay after an outage, as in Latchkey. */
  private static final Duration RETRY_AFTER = Duration.ofSeconds(1);

  private final Kind kind;
  private final Rejection why;
  private final TreeMap<String, String> needs;

  private DeniedException(Kind kind, Rejection why, Map<String, String> needs) {
    super(why.message(), null, false, false);
    this.kind = kind;
    this.why = why;
    this.needs = new TreeMap<>(needs);
  }

  private static DeniedException of(Kind kind, String reason, String message, Map<String, String> needs) {
    return new DeniedException(kind, new Rejection(reason, message, false, null, ""), needs);
  }

  /** Denial: Latchkey rejected the token. */
  static DeniedException rejected(latchkey.v1.Rejection rejection) {
    boolean disabled = rejection.getReason() == RejectionReason.REJECTION_REASON_ACCOUNT_DISABLED;
    return new DeniedException(disabled ? Kind.DISABLED : Kind.REJECTED, Rejection.of(rejection), Map.of());
  }

  /** Returns the denial of a call without a token. */
  public static DeniedException tokenRequired() {
    return new DeniedException(Kind.NO_TOKEN, Rejection.TOKEN_REQUIRED, Map.of());
  }

  /** Denial: {@code authorization} is not exactly one bearer token. */
  static DeniedException malformed(String message) {
    return of(Kind.MALFORMED, "MALFORMED", message, Map.of());
  }

  /** Denial: the session is live, but in another slot. */
  static DeniedException slotRequired(String slot) {
    String message = "This needs a session in the slot `" + slot + "`.";
    return of(Kind.INSUFFICIENT, "SLOT_REQUIRED", message, Map.of("slot", slot));
  }

  /** Returns the denial for a session that is live, but whose user lacks the role. */
  public static DeniedException roleRequired(String role) {
    String message = "This needs the role `" + role + "`.";
    return of(Kind.INSUFFICIENT, "ROLE_REQUIRED", message, Map.of("role", role));
  }

  /** Returns the denial for a session that is live, but not allowed to do this, by a rule of the service itself. */
  public static DeniedException accessDenied() {
    return of(Kind.INSUFFICIENT, "ACCESS_DENIED", "You are not allowed to do this.", Map.of());
  }

  /** Error: there is no verdict. It says nothing about the token; the log has the cause. */
  static DeniedException unavailable() {
    String message = "the session cannot be checked at the moment: try again";
    return of(Kind.OUTAGE, "STORE_UNAVAILABLE", message, Map.of());
  }

  /** Returns the reason for programs, such as {@code REPLACED} or {@code TOKEN_REQUIRED}. */
  public String reason() {
    return why.reason();
  }

  /** Returns whether this is no denial: there is no verdict, which says nothing about the token. */
  public boolean isOutage() {
    return kind == Kind.OUTAGE;
  }

  /** Returns the status of the HTTP response: 401, 403, or 503 without a verdict. */
  public int httpStatus() {
    return kind.http;
  }

  /** Returns the headers of the HTTP response. */
  public Map<String, String> httpHeaders() {
    Map<String, String> headers = new LinkedHashMap<>();
    headers.put("Content-Type", "application/json");
    headers.put("Cache-Control", "no-store");
    if (isOutage()) {
      headers.put("Retry-After", Long.toString(RETRY_AFTER.toSeconds()));
      return headers;
    }
    // For gateways that forward the headers of a denial and not its body.
    headers.put("X-Latchkey-Reason", reason());
    if (kind.challenge != null) {
      String error = ", error=\"" + kind.challenge + "\", error_description=\"" + reason() + "\"";
      headers.put("WWW-Authenticate", "Bearer realm=\"latchkey\"" + (kind.challenge.isEmpty() ? "" : error));
    }
    return headers;
  }

  /** Returns the body of the HTTP response: JSON, to be sent in UTF-8. */
  public String httpBody() {
    StringBuilder body = new StringBuilder("{\"reason\":").append(Json.quoted(reason()));
    body.append(",\"message\":").append(Json.quoted(why.message()));
    if (!isOutage()) {
      body.append(",\"terminal\":").append(why.terminal());
    }
    if (why.at() != null) {
      body.append(",\"at\":").append(Json.quoted(Json.time(why.at())));
    }
    if (!why.byDevice().isEmpty()) {
      body.append(",\"by_device\":").append(Json.quoted(why.byDevice()));
    }
    return body.append('}').toString();
  }

  /** Returns the answer over gRPC. */
  public StatusRuntimeException status() {
    ErrorInfo.Builder info = ErrorInfo.newBuilder().setDomain(Errors.DOMAIN).setReason(reason());
    Status.Builder status = Status.newBuilder().setCode(kind.grpc.getNumber()).setMessage(why.message());
    if (isOutage()) {
      RetryInfo.Builder retry = RetryInfo.newBuilder();
      retry.getRetryDelayBuilder().setSeconds(RETRY_AFTER.toSeconds());
      status.addDetails(Any.pack(info.build())).addDetails(Any.pack(retry.build()));
    } else {
      status.addDetails(Any.pack(info.putAllMetadata(metadata()).build()));
    }
    return StatusProto.toStatusRuntimeException(status.build());
  }

  private Map<String, String> metadata() {
    Map<String, String> metadata = new TreeMap<>(needs);
    metadata.put("terminal", Boolean.toString(why.terminal()));
    Instant at = why.at();
    if (at != null) {
      metadata.put("at_unix", Long.toString(at.getEpochSecond()));
    }
    if (!why.byDevice().isEmpty()) {
      metadata.put("by_device", why.byDevice());
    }
    return metadata;
  }

  /** Ends the call with the status. */
  void close(ServerCall<?, ?> call) {
    StatusRuntimeException status = status();
    Metadata trailers = status.getTrailers();
    call.close(status.getStatus(), trailers == null ? new Metadata() : trailers);
  }
}
