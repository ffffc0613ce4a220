package latchkey.spring;

import static latchkey.spring.LatchkeySecurity.latchkey;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.springframework.security.config.Customizer.withDefaults;

import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicInteger;
import latchkey.client.Identity;
import latchkey.v1.AuthServiceGrpc;
import latchkey.v1.Rejection;
import latchkey.v1.RejectionReason;
import latchkey.v1.Session;
import latchkey.v1.ValidateRequest;
import latchkey.v1.ValidateResponse;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.security.access.prepost.PreAuthorize;
import org.springframework.security.config.annotation.method.configuration.EnableMethodSecurity;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.core.annotation.AuthenticationPrincipal;
import org.springframework.security.web.SecurityFilterChain;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RestController;

/** Tests the integration with Spring Security. clients/scenarios.json covers the verdicts. */
class SecurityTest {
  private static final FakeLatchkey LATCHKEY = new FakeLatchkey();
  private static final List<ConfigurableApplicationContext> SERVICES = new ArrayList<>();
  private static final HttpClient HTTP = HttpClient.newHttpClient();
  private static Server latchkey;
  private static String usual;
  private static String own;

  @BeforeAll
  static void start() throws Exception {
    latchkey = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create()).addService(LATCHKEY).build().start();
    usual = serve(Service.class);
    own = serve(OwnChain.class);
  }

  @AfterAll
  static void stop() {
    SERVICES.forEach(ConfigurableApplicationContext::close);
    latchkey.shutdownNow();
  }

  private static String serve(Class<?> service) {
    ConfigurableApplicationContext context = new SpringApplication(service).run(
        "--server.port=0",
        "--latchkey.address=127.0.0.1:" + latchkey.getPort(),
        "--latchkey.timeout=10s",
        "--latchkey.open-paths=/open,/open-asking");
    SERVICES.add(context);
    return "http://127.0.0.1:" + context.getEnvironment().getProperty("local.server.port");
  }

  private static HttpResponse<String> call(String method, String uri, String token) throws Exception {
    var request = HttpRequest.newBuilder(URI.create(uri)).method(method, HttpRequest.BodyPublishers.noBody());
    if (token != null) {
      request.header("Authorization", "Bearer " + token);
    }
    var response = HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
    assertTrue(response.headers().firstValue("set-cookie").isEmpty(), "it has a session of its own");
    return response;
  }

  private static void denied(HttpResponse<String> response, int status, String reason) {
    assertEquals(status, response.statusCode(), response.body());
    assertEquals(reason, response.headers().firstValue("x-latchkey-reason").orElse("none"));
    assertTrue(response.body().startsWith("{\"reason\":\"" + reason + "\""), response.body());
    assertEquals("no-store", response.headers().firstValue("cache-control").orElse(""));
  }

  @Test
  void theIdentityIsThePrincipalAndItsRolesAreAuthorities() throws Exception {
    for (String service : List.of(usual, own)) {
      assertEquals("anna ROLE_staff u1", call("GET", service + "/who", "live").body());
      assertEquals("staff", call("GET", service + "/staff", "live").body());
    }
  }

  @Test
  void aDenialKeepsItsReason() throws Exception {
    for (String service : List.of(usual, own)) {
      denied(call("GET", service + "/who", null), 401, "TOKEN_REQUIRED");
      denied(call("POST", service + "/post", null), 401, "TOKEN_REQUIRED");
      denied(call("GET", service + "/who", "dead"), 401, "REPLACED");
    }
    assertEquals("posted", call("POST", usual + "/post", "live").body());
  }

  @Test
  void methodSecurityNamesTheRole() throws Exception {
    var role = call("GET", usual + "/admin", "live");
    denied(role, 403, "ROLE_REQUIRED");
    assertTrue(role.body().contains("This needs the role `admin`."), role.body());
    denied(call("GET", usual + "/never", "live"), 403, "ACCESS_DENIED");
    denied(call("GET", own + "/chain-admin", "live"), 403, "ROLE_REQUIRED");
  }

  @Test
  void anOutageIsNoDenial() throws Exception {
    var outage = call("GET", usual + "/who", "down");
    assertEquals(503, outage.statusCode());
    assertEquals("1", outage.headers().firstValue("retry-after").orElse(""));
  }

  @Test
  void anOpenPathDependsOnNoToken() throws Exception {
    int before = LATCHKEY.asked.get();
    assertEquals("open", call("GET", usual + "/open", "dead").body());
    assertEquals("open", call("GET", usual + "/open", null).body());
    assertEquals(before, LATCHKEY.asked.get());
    // The method asks who is calling.
    denied(call("GET", usual + "/open-asking", "dead"), 401, "REPLACED");
    denied(call("GET", usual + "/open-asking", null), 401, "TOKEN_REQUIRED");
  }

  @Test
  void anAsynchronousHandlerIsValidatedOnce() throws Exception {
    int before = LATCHKEY.asked.get();
    assertEquals("later anna", call("GET", usual + "/later", "live").body());
    assertEquals(before + 1, LATCHKEY.asked.get());
  }

  @Test
  void theCallerKeyIsNotShown() {
    var properties = new LatchkeyProperties("a:1", "secret", "", "", null, false, null, List.of());
    assertFalse(properties.toString().contains("secret"));
  }

  /** A service that defines no chain. */
  @Configuration
  @EnableAutoConfiguration
  @EnableMethodSecurity
  @RestController
  static class Service {
    @GetMapping("/who")
    String who(@AuthenticationPrincipal Identity caller, LatchkeyAuthentication authentication) {
      return caller.username() + " " + authentication.getAuthorities().iterator().next() + " " + authentication.getName();
    }

    @GetMapping("/staff")
    @PreAuthorize("hasRole('staff')")
    String staff() {
      return "staff";
    }

    @GetMapping("/admin")
    @PreAuthorize("hasRole('admin')")
    String admin() {
      return "admin";
    }

    @GetMapping("/never")
    @PreAuthorize("denyAll()")
    String never() {
      return "never";
    }

    @PostMapping("/post")
    String post() {
      return "posted";
    }

    @GetMapping("/open")
    String open() {
      return "open";
    }

    @GetMapping("/open-asking")
    @PreAuthorize("isAuthenticated()")
    String asking() {
      return "asking";
    }

    @GetMapping("/later")
    Callable<String> later(@AuthenticationPrincipal Identity caller) {
      return () -> "later " + caller.username();
    }
  }

  /** A service with a chain of its own. */
  static class OwnChain extends Service {
    @Bean
    SecurityFilterChain chain(HttpSecurity http) throws Exception {
      return http.with(latchkey(), withDefaults())
          .authorizeHttpRequests(requests ->
              requests.requestMatchers("/chain-admin").hasRole("admin").anyRequest().authenticated())
          .build();
    }
  }

  /** A Latchkey whose verdict depends on the token. */
  private static final class FakeLatchkey extends AuthServiceGrpc.AuthServiceImplBase {
    private final AtomicInteger asked = new AtomicInteger();

    @Override
    public void validate(ValidateRequest request, StreamObserver<ValidateResponse> answers) {
      asked.incrementAndGet();
      ValidateResponse.Builder answer = ValidateResponse.newBuilder();
      switch (request.getToken()) {
        case "live" ->
            answer.setSession(Session.newBuilder().setUserId("u1").setUsername("anna").addRoles("staff"));
        case "dead" ->
            answer.setRejection(Rejection.newBuilder().setReason(RejectionReason.REJECTION_REASON_REPLACED));
        default -> {
          answers.onError(Status.INTERNAL.asRuntimeException());
          return;
        }
      }
      answers.onNext(answer.build());
      answers.onCompleted();
    }
  }
}
