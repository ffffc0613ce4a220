package latchkey.spring;

import java.time.Duration;
import java.util.List;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;

/**
 * The properties of the starter.
 *
 * @param address address of Latchkey: host:port in plaintext, or https://host:port for TLS
 * @param callerKey caller key for Latchkey, needed with access.validate = "caller"
 * @param requiredRole denies users without this role
 * @param requiredSlot denies sessions in other slots
 * @param maxStaleness lets Latchkey answer from its near-cache, at most this old
 * @param peek whether requests do not count as a use of the session
 * @param timeout time limit for Latchkey's answer
 * @param openPaths paths that are open to everybody, if the service defines no SecurityFilterChain
 */
@ConfigurationProperties("latchkey")
public record LatchkeyProperties(
    @DefaultValue("127.0.0.1:50051") String address,
    @DefaultValue("") String callerKey,
    @DefaultValue("") String requiredRole,
    @DefaultValue("") String requiredSlot,
    Duration maxStaleness,
    @DefaultValue("false") boolean peek,
    @DefaultValue("1s") Duration timeout,
    @DefaultValue List<String> openPaths) {
  /** Does not show the caller key. */
  @Override
  public String toString() {
    return "LatchkeyProperties[address=" + address + "]";
  }
}
