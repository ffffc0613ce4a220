package latchkey.client;

import java.util.List;
import java.util.Map;

/** The service config of {@code proto/latchkey/v1/service_config.json}, which a test compares. */
final class ServiceConfig {
  private ServiceConfig() {}

  /**
   * Calls take turns over all addresses of the target, and calls that are safe to repeat are repeated if Latchkey is
   * unavailable. Numbers are doubles, as gRPC requires.
   */
  static final Map<String, ?> VALUE =
      Map.of(
          "loadBalancingConfig", List.of(Map.of("round_robin", Map.of())),
          "methodConfig",
              List.of(
                  Map.of(
                      "name",
                          List.of(
                              method("AuthService", "Validate"),
                              method("AuthService", "Logout"),
                              method("AuthService", "GetJwks"),
                              method("AuthService", "WatchSession"),
                              method("SessionService", "ListSessions"),
                              method("SessionService", "WatchSessions"),
                              method("AccountService", "GetAccount"),
                              method("AccountService", "ListAccounts"),
                              method("AccountService", "UpdateAccount"),
                              method("AccountService", "UnlockAccount"),
                              method("CallerService", "ListCallers")),
                      "retryPolicy",
                          Map.of(
                              "maxAttempts", 4.0,
                              "initialBackoff", "0.05s",
                              "maxBackoff", "0.5s",
                              "backoffMultiplier", 2.0,
                              "retryableStatusCodes", List.of("UNAVAILABLE")))),
          "retryThrottling", Map.of("maxTokens", 1000.0, "tokenRatio", 1.0));

  private static Map<String, String> method(String service, String method) {
    return Map.of("service", "latchkey.v1." + service, "method", method);
  }
}
