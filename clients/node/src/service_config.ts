/**
 * The service config of `connect`: calls take turns over all addresses of the target, and calls that are safe to repeat
 * are repeated if Latchkey is unavailable. It is a copy of proto/latchkey/v1/service_config.json.
 */
export const serviceConfig = JSON.stringify({
  "loadBalancingConfig": [{ "round_robin": {} }],
  "methodConfig": [
    {
      "name": [
        { "service": "latchkey.v1.AuthService", "method": "Validate" },
        { "service": "latchkey.v1.AuthService", "method": "Logout" },
        { "service": "latchkey.v1.AuthService", "method": "GetJwks" },
        { "service": "latchkey.v1.AuthService", "method": "WatchSession" },
        { "service": "latchkey.v1.SessionService", "method": "ListSessions" },
        { "service": "latchkey.v1.SessionService", "method": "WatchSessions" },
        { "service": "latchkey.v1.AccountService", "method": "GetAccount" },
        { "service": "latchkey.v1.AccountService", "method": "ListAccounts" },
        { "service": "latchkey.v1.AccountService", "method": "UpdateAccount" },
        { "service": "latchkey.v1.AccountService", "method": "UnlockAccount" },
        { "service": "latchkey.v1.CallerService", "method": "ListCallers" }
      ],
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "0.5s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]
      }
    }
  ],
  "retryThrottling": { "maxTokens": 1000, "tokenRatio": 1 }
});
