package latchkey.client;

import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Assumptions;

/** A Latchkey of a test, with the embedded store. The system property {@code latchkey.program} names the program. */
final class RealLatchkey implements AutoCloseable {
  private static final Pattern LISTENS = Pattern.compile("\"listen\\.grpc\":\"(127\\.0\\.0\\.1:\\d+)\"");

  private final Path data;
  private final Map<String, String> settings;
  private Process process;
  private String address = "127.0.0.1:0";

  private RealLatchkey(Path data, Map<String, String> settings) {
    this.data = data;
    this.settings = settings;
  }

  /** Starts it. The test is skipped if there is no program. */
  static RealLatchkey start(Path data, Map<String, String> settings) throws Exception {
    Assumptions.assumeTrue(System.getProperty("latchkey.program") != null, "-Dlatchkey.program names no Latchkey");
    RealLatchkey latchkey = new RealLatchkey(data, settings);
    latchkey.start();
    return latchkey;
  }

  /** Starts it, after the first time on the same port. */
  void start() throws Exception {
    ProcessBuilder command = new ProcessBuilder(System.getProperty("latchkey.program"), "serve");
    command.environment().keySet().removeIf(name -> name.startsWith("LATCHKEY_"));
    command.environment().put("LATCHKEY_DATA_DIR", data.toString());
    command.environment().put("LATCHKEY_LISTEN__GRPC", address);
    command.environment().put("LATCHKEY_LISTEN__HTTP", "127.0.0.1:0");
    command.environment().putAll(settings);
    process = command.redirectErrorStream(true).start();
    BufferedReader output = process.inputReader();
    StringBuilder said = new StringBuilder();
    boolean listening = false;
    boolean serving = false;
    for (String line = output.readLine(); line != null; line = output.readLine()) {
      said.append(line).append('\n');
      Matcher listens = LISTENS.matcher(line);
      if (listens.find()) {
        address = listens.group(1);
        listening = true;
      }
      serving |= line.contains("\"message\":\"serving\"");
      if (listening && serving) {
        // The output is read so that the server cannot block on a full pipe.
        CompletableFuture.runAsync(() -> output.lines().forEach(rest -> {}));
        return;
      }
    }
    throw new AssertionError("Latchkey does not start: " + said);
  }

  void stop() throws InterruptedException {
    process.destroyForcibly().waitFor(10, TimeUnit.SECONDS);
  }

  String address() {
    return address;
  }

  String adminKey() throws IOException {
    return Files.readString(data.resolve("admin.key"));
  }

  @Override
  public void close() throws InterruptedException {
    stop();
  }
}
