package latchkey.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.time.Instant;
import java.util.List;

/** Translates the statuses of Latchkey into exceptions. */
final class Errors {
  /** The domain of every ErrorInfo. */
  static final String DOMAIN = "latchkey";

  /** For answers without a delay. */
  private static final Duration RETRY_AFTER = Duration.ofSeconds(1);

  private Errors() {}

  static LatchkeyException of(Throwable thrown) {
    Status status = Status.fromThrowable(thrown);
    com.google.rpc.Status told = StatusProto.fromThrowable(thrown);
    List<Any> details = told == null ? List.of() : told.getDetailsList();
    ErrorInfo info = detail(details, ErrorInfo.getDefaultInstance());
    String message = status.getDescription() == null ? status.getCode().name() : status.getDescription();
    if (!info.getDomain().equals(DOMAIN)) {
      // From gRPC itself, or a proxy. A connection that closes under a call is UNKNOWN or INTERNAL.
      String reason = status.getCode().name();
      return switch (status.getCode()) {
        case UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNKNOWN, INTERNAL ->
            new UnavailableException(reason, message, RETRY_AFTER, thrown);
        default -> new LatchkeyException(reason, message, thrown);
      };
    }
    String reason = info.getReason();
    if (info.containsMetadata("terminal")) {
      return new RejectedException(rejection(info, message), thrown);
    }
    return switch (reason) {
      case "INVALID_CREDENTIALS" -> new InvalidCredentialsException(message, thrown);
      case "ACCOUNT_DISABLED" -> new AccountDisabledException(message, thrown);
      case "THROTTLED" -> new ThrottledException(message, retryAfter(details), thrown);
      case "SESSION_LIMIT" -> new SessionLimitException(message, holder(info), thrown);
      case "STORE_UNAVAILABLE", "OVERLOADED", "DEADLINE_EXCEEDED", "SHUTTING_DOWN", "TOO_SLOW" ->
          new UnavailableException(reason, message, retryAfter(details), thrown);
      case "INVALID_REQUEST" -> new InvalidRequestException(message, field(details), thrown);
      case "CALLER_UNAUTHENTICATED", "CALLER_NOT_ALLOWED" ->
          new NotAllowedException(reason, message, info.getMetadataOrDefault("role", ""), thrown);
      default -> new LatchkeyException(reason, message, thrown);
    };
  }

  private static Rejection rejection(ErrorInfo info, String message) {
    boolean terminal = info.getMetadataOrDefault("terminal", "").equals("true");
    Instant at = info.containsMetadata("at_unix") ? Instant.ofEpochSecond(number(info, "at_unix")) : null;
    return new Rejection(info.getReason(), message, terminal, at, info.getMetadataOrDefault("by_device", ""));
  }

  private static SessionLimitException.Holder holder(ErrorInfo info) {
    return new SessionLimitException.Holder(
        info.getMetadataOrDefault("slot", ""),
        info.getMetadataOrDefault("device", ""),
        Instant.ofEpochSecond(number(info, "issued_at_unix")),
        Duration.ofSeconds(number(info, "idle_seconds")));
  }

  private static long number(ErrorInfo info, String key) {
    try {
      return Long.parseLong(info.getMetadataOrDefault(key, "0"));
    } catch (NumberFormatException e) {
      return 0;
    }
  }

  private static Duration retryAfter(List<Any> details) {
    RetryInfo retry = detail(details, RetryInfo.getDefaultInstance());
    var delay = retry.getRetryDelay();
    return retry.hasRetryDelay() ? Duration.ofSeconds(delay.getSeconds(), delay.getNanos()) : RETRY_AFTER;
  }

  private static String field(List<Any> details) {
    BadRequest request = detail(details, BadRequest.getDefaultInstance());
    return request.getFieldViolationsCount() > 0 ? request.getFieldViolations(0).getField() : "";
  }

  /** Returns the first detail of this type, or the default. */
  private static <T extends Message> T detail(List<Any> details, T type) {
    for (Any detail : details) {
      if (detail.is(type.getClass())) {
        try {
          @SuppressWarnings("unchecked")
          T found = (T) detail.unpack(type.getClass());
          return found;
        } catch (InvalidProtocolBufferException e) {
          return type;
        }
      }
    }
    return type;
  }
}
