package latchkey.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import com.google.protobuf.Timestamp;
import java.util.Set;
import latchkey.v1.RejectionReason;
import org.junit.jupiter.api.Test;

class DeniedExceptionTest {
  private static DeniedException replaced(Timestamp at) {
    return DeniedException.rejected(
        latchkey.v1.Rejection.newBuilder()
            .setReason(RejectionReason.REJECTION_REASON_REPLACED)
            .setMessage("A \"message\"\n\\ of Zoë’s.")
            .setByDevice("\u0007")
            .setTerminal(true)
            .setAt(at)
            .build());
  }

  @Test
  void theBodyIsJson() {
    assertEquals(
        "{\"reason\":\"REPLACED\",\"message\":\"A \\\"message\\\"\\u000a\\\\ of Zoë’s.\",\"terminal\":true,"
            + "\"at\":\"2026-07-29T16:34:56.100000Z\",\"by_device\":\"\\u0007\"}",
        replaced(Timestamp.newBuilder().setSeconds(1_785_342_896).setNanos(100_000_999).build()).httpBody());
  }

  @Test
  void timesEndWithTheYear9999() {
    String body = replaced(Timestamp.newBuilder().setSeconds(253_402_300_800L).build()).httpBody();
    assertEquals("\"9999-12-31T23:59:59.999999Z\"", body.replaceAll(".*\"at\":([^,]*),.*", "$1"));
  }

  @Test
  void aDisabledAccountGetsNoChallenge() {
    var reason = RejectionReason.REJECTION_REASON_ACCOUNT_DISABLED;
    var denied = DeniedException.rejected(latchkey.v1.Rejection.newBuilder().setReason(reason).build());
    assertEquals(403, denied.httpStatus());
    assertEquals(Set.of("Content-Type", "Cache-Control", "X-Latchkey-Reason"), denied.httpHeaders().keySet());
  }

  @Test
  void anOutageSaysNothingAboutTheToken() {
    var denied = DeniedException.unavailable();
    assertEquals(503, denied.httpStatus());
    assertEquals(Set.of("Content-Type", "Cache-Control", "Retry-After"), denied.httpHeaders().keySet());
    assertFalse(denied.httpBody().contains("terminal"));
  }
}
