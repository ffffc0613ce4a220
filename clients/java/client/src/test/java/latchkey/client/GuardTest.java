package latchkey.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.ErrorInfo;
import io.grpc.Channel;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.ServerInterceptors;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.inprocess.InProcessChannelBuilder;
import io.grpc.inprocess.InProcessServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;
import latchkey.sample.v1.GreetRequest;
import latchkey.sample.v1.GreetResponse;
import latchkey.sample.v1.GreeterServiceGrpc;
import latchkey.v1.AuthServiceGrpc;
import latchkey.v1.Rejection;
import latchkey.v1.Session;
import latchkey.v1.ValidateRequest;
import latchkey.v1.ValidateResponse;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Tests what Latchkey never does. clients/scenarios.json covers everything else. */
class GuardTest {
  private static final String GREET = "/sample.v1.GreeterService/Greet";
  private static final ValidateResponse LIVE =
      ValidateResponse.newBuilder()
          .setSession(
              Session.newBuilder().setUserId("u1").setUsername("anna").setSlot("web").addRoles("staff"))
          .build();

  private final FakeLatchkey fake = new FakeLatchkey();
  private final Greeter greeter = new Greeter();
  private Server latchkey;
  private ManagedChannel channel;

  @BeforeEach
  void start() throws IOException {
    String name = InProcessServerBuilder.generateName();
    latchkey = InProcessServerBuilder.forName(name).addService(ServerInterceptors.intercept(fake, fake)).build().start();
    channel = InProcessChannelBuilder.forName(name).build();
  }

  @AfterEach
  void stop() {
    channel.shutdownNow();
    latchkey.shutdownNow();
  }

  @Test
  void theGuardAsksAsItIsTold() throws Exception {
    fake.answer = LIVE;
    call(guard -> guard.maxStaleness(Duration.ofMillis(1500)).peek().callerKey("secret"));
    assertEquals("u1", greeter.caller.userId());
    assertEquals(List.of("staff"), greeter.caller.roles());
    assertEquals(Instant.EPOCH, greeter.caller.expiresAt());
    assertEquals("t", fake.asked.getToken());
    assertTrue(fake.asked.getPeek());
    assertEquals(1, fake.asked.getMaxStaleness().getSeconds());
    assertEquals(500_000_000, fake.asked.getMaxStaleness().getNanos());
    assertEquals("secret", fake.headers.get(key("x-latchkey-key")));
    assertFalse(fake.headers.containsKey(key("authorization")));
    assertFalse(fake.headers.containsKey(key("x-forwarded-for")));
  }

  @Test
  void withoutOptionsTheDefaultsOfLatchkeyCount() throws Exception {
    fake.answer = LIVE;
    call(guard -> guard);
    assertEquals(ValidateRequest.newBuilder().setToken("t").build(), fake.asked);
    assertFalse(fake.headers.containsKey(key("x-latchkey-key")));
  }

  @ParameterizedTest
  @EnumSource(value = Status.Code.class, names = "OK", mode = EnumSource.Mode.EXCLUDE)
  void noStatusOfLatchkeyIsAVerdict(Status.Code code) {
    fake.failure = code.toStatus().withDescription("told to the guard alone");
    assertEquals(Map.of(), denied(Status.Code.UNAVAILABLE, "STORE_UNAVAILABLE", guard -> guard));
  }

  @Test
  void anAnswerWithoutAVerdictLetsNobodyIn() {
    fake.answer = ValidateResponse.getDefaultInstance();
    denied(Status.Code.UNAVAILABLE, "STORE_UNAVAILABLE", guard -> guard);
  }

  @Test
  void latchkeyMayTakeSoLongAndNoLonger() {
    long begun = System.nanoTime();
    denied(Status.Code.UNAVAILABLE, "STORE_UNAVAILABLE", guard -> guard.timeout(Duration.ofMillis(50)));
    assertTrue(System.nanoTime() - begun < Duration.ofMillis(900).toNanos());
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 99})
  void aReasonOfTomorrowIsAnUnknownSession(int reason) {
    Rejection rejection = Rejection.newBuilder().setReasonValue(reason).setTerminal(true).build();
    fake.answer = ValidateResponse.newBuilder().setRejection(rejection).build();
    var about = denied(Status.Code.UNAUTHENTICATED, "UNKNOWN_SESSION", guard -> guard);
    assertEquals(Map.of("terminal", "true"), about);
  }

  @Test
  void aRoleOrASlotCanBeRequired() throws Exception {
    fake.answer = LIVE;
    call(guard -> guard.requiredRole("staff").requiredSlot("web"));
    assertEquals("anna", greeter.caller.username());
    Status.Code code = Status.Code.PERMISSION_DENIED;
    var role = denied(code, "ROLE_REQUIRED", guard -> guard.requiredRole("sta"));
    assertEquals(Map.of("terminal", "false", "role", "sta"), role);
    var slot = denied(code, "SLOT_REQUIRED", guard -> guard.requiredSlot("mobile"));
    assertEquals(Map.of("terminal", "false", "slot", "mobile"), slot);
  }

  @Test
  void onlyTheMethodsThatAreNamedAreOpen() throws Exception {
    fake.failure = Status.INTERNAL;
    call(guard -> guard.openMethods(GREET));
    assertEquals(null, greeter.caller);
    for (String method : List.of(GREET + "s", GREET.toLowerCase(), "/sample.v1.GreeterService/")) {
      denied(Status.Code.UNAVAILABLE, "STORE_UNAVAILABLE", guard -> guard.openMethods(method));
    }
  }

  @Test
  void whatAHandlerThrowsEndsTheCallAsWithoutAGuard() {
    fake.answer = LIVE;
    greeter.throwing = true;
    var thrown = assertThrows(StatusRuntimeException.class, () -> call(guard -> guard));
    assertEquals(Status.Code.UNKNOWN, thrown.getStatus().getCode());
  }

  /** Calls a guarded method. */
  private void call(UnaryOperator<Guard.Builder> options) throws Exception {
    String name = InProcessServerBuilder.generateName();
    Guard guard = options.apply(Guard.newBuilder(channel)).build();
    Server server = InProcessServerBuilder.forName(name).addService(greeter).intercept(guard).build().start();
    ManagedChannel to = InProcessChannelBuilder.forName(name).build();
    Metadata headers = new Metadata();
    headers.put(key("authorization"), "Bearer t");
    headers.put(key("x-forwarded-for"), "192.0.2.1");
    Channel with = io.grpc.ClientInterceptors.intercept(to, MetadataUtils.newAttachHeadersInterceptor(headers));
    try {
      GreeterServiceGrpc.newBlockingStub(with)
          .withDeadlineAfter(10, TimeUnit.SECONDS)
          .greet(GreetRequest.getDefaultInstance());
    } finally {
      to.shutdownNow();
      server.shutdownNow();
    }
  }

  /** Asserts that the call is denied and returns the metadata of the ErrorInfo. */
  private Map<String, String> denied(Status.Code code, String reason, UnaryOperator<Guard.Builder> options) {
    var thrown = assertThrows(StatusRuntimeException.class, () -> call(options));
    assertEquals(code, thrown.getStatus().getCode());
    try {
      ErrorInfo info = StatusProto.fromThrowable(thrown).getDetails(0).unpack(ErrorInfo.class);
      assertEquals("latchkey", info.getDomain());
      assertEquals(reason, info.getReason());
      return info.getMetadataMap();
    } catch (com.google.protobuf.InvalidProtocolBufferException e) {
      throw new AssertionError(e);
    }
  }

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  /** A fake Latchkey with configurable answers. */
  private static final class FakeLatchkey extends AuthServiceGrpc.AuthServiceImplBase implements ServerInterceptor {
    private volatile ValidateResponse answer;
    private volatile Status failure;
    private volatile ValidateRequest asked;
    private volatile Metadata headers;

    @Override
    public void validate(ValidateRequest request, StreamObserver<ValidateResponse> answers) {
      asked = request;
      if (failure != null) {
        answers.onError(failure.asRuntimeException());
      } else if (answer != null) {
        answers.onNext(answer);
        answers.onCompleted();
      }
    }

    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
      this.headers = headers;
      return next.startCall(call, headers);
    }
  }

  private static final class Greeter extends GreeterServiceGrpc.GreeterServiceImplBase {
    private volatile Identity caller;
    private volatile boolean throwing;

    @Override
    public void greet(GreetRequest request, StreamObserver<GreetResponse> answers) {
      caller = Identity.KEY.get();
      if (throwing) {
        throw new IllegalArgumentException("a fault of the handler's");
      }
      answers.onNext(GreetResponse.getDefaultInstance());
      answers.onCompleted();
    }
  }
}
