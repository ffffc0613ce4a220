package example;

import java.net.URI;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import latchkey.client.Identity;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.security.core.annotation.AuthenticationPrincipal;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

@SpringBootApplication
@RestController
public class Greeter {
  private final AtomicInteger begun = new AtomicInteger();

  public static void main(String[] args) {
    URI listen = URI.create("//" + System.getenv().getOrDefault("LISTEN", "127.0.0.1:0"));
    SpringApplication service = new SpringApplication(Greeter.class);
    service.setDefaultProperties(Map.of("server.address", listen.getHost(), "server.port", listen.getPort()));
    String port = service.run(args).getEnvironment().getProperty("local.server.port");
    System.out.println("listens on 127.0.0.1:" + port);
  }

  @GetMapping("/greet")
  Map<String, Object> greet(@AuthenticationPrincipal Identity caller) {
    begun.incrementAndGet();
    return Map.of("text", "Hello, " + caller.username(), "identity", Map.of(
        "user_id", caller.userId(), "username", caller.username(), "session_id", caller.sessionId(),
        "slot", caller.slot(), "device", caller.device(), "roles", caller.roles(),
        "issued_at_unix", caller.issuedAt().getEpochSecond(), "expires_at_unix", caller.expiresAt().getEpochSecond()));
  }

  @GetMapping("/begun")
  Map<String, Object> begun() {
    return Map.of("count", begun.get());
  }
}
