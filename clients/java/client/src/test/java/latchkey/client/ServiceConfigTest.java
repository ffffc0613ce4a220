package latchkey.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.google.gson.Gson;
import io.grpc.InsecureChannelCredentials;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;

class ServiceConfigTest {
  @Test
  void itIsThatOfTheProtocol() throws Exception {
    String json = Files.readString(Path.of("../../../proto/latchkey/v1/service_config.json"));
    assertEquals(new Gson().fromJson(json, Map.class), ServiceConfig.VALUE);
  }

  @Test
  void grpcAcceptsIt() {
    // It throws for an invalid one.
    Latchkey.connect("127.0.0.1:1", InsecureChannelCredentials.create()).shutdownNow();
  }
}
