package example;

import com.google.gson.Gson;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import latchkey.client.HttpGuard;
import latchkey.client.Identity;
import latchkey.servlet.LatchkeyFilter;
import org.apache.catalina.startup.Tomcat;

public final class Greeter extends HttpServlet {
  private final AtomicInteger begun = new AtomicInteger();

  public static void main(String[] args) throws Exception {
    URI listen = URI.create("//" + env("LISTEN", "127.0.0.1:0"));
    Tomcat tomcat = new Tomcat();
    tomcat.setBaseDir(Files.createTempDirectory("greeter").toString());
    tomcat.setPort(listen.getPort());
    tomcat.getConnector().setProperty("address", listen.getHost());
    HttpGuard guard = HttpGuard.newBuilder(env("LATCHKEY_ADDRESS", "127.0.0.1:50051"))
        .callerKey(env("LATCHKEY_CALLER_KEY", ""))
        .requiredRole(env("LATCHKEY_REQUIRED_ROLE", ""))
        .requiredSlot(env("LATCHKEY_REQUIRED_SLOT", ""))
        .build();
    tomcat.addContext("", null).addServletContainerInitializer((classes, context) -> {
      context.addFilter("latchkey", new LatchkeyFilter(guard, "/begun")).addMappingForUrlPatterns(null, false, "/*");
      context.addServlet("greeter", new Greeter()).addMapping("/greet", "/begun");
    }, null);
    tomcat.start();
    System.out.println("listens on 127.0.0.1:" + tomcat.getConnector().getLocalPort());
    tomcat.getServer().await();
  }

  @Override
  protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
    response.setContentType("application/json;charset=UTF-8");
    response.getWriter().print(new Gson().toJson(
        request.getServletPath().equals("/begun") ? Map.of("count", begun.get()) : greet(request)));
  }

  private Map<String, Object> greet(HttpServletRequest request) {
    begun.incrementAndGet();
    Identity caller = LatchkeyFilter.identity(request);
    return Map.of("text", "Hello, " + caller.username(), "identity", Map.of(
        "user_id", caller.userId(), "username", caller.username(), "session_id", caller.sessionId(),
        "slot", caller.slot(), "device", caller.device(), "roles", caller.roles(),
        "issued_at_unix", caller.issuedAt().getEpochSecond(), "expires_at_unix", caller.expiresAt().getEpochSecond()));
  }

  private static String env(String name, String otherwise) {
    return System.getenv().getOrDefault(name, otherwise);
  }
}
