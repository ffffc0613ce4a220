package latchkey.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.ErrorInfo;
import io.grpc.BindableService;
import io.grpc.ClientInterceptors;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.inprocess.InProcessChannelBuilder;
import io.grpc.inprocess.InProcessServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import java.util.function.UnaryOperator;
import latchkey.sample.v1.GreetRequest;
import latchkey.sample.v1.GreetResponse;
import latchkey.sample.v1.GreeterServiceGrpc;
import latchkey.v1.AuthServiceGrpc;
import latchkey.v1.Rejection;
import latchkey.v1.RejectionReason;
import latchkey.v1.Session;
import latchkey.v1.ValidateRequest;
import latchkey.v1.ValidateResponse;
import latchkey.v1.WatchSessionRequest;
import latchkey.v1.WatchSessionResponse;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Tests of streams that clients/scenarios.json does not cover. */
class WatchTest {
  private static final Session SESSION = Session.newBuilder().setUserId("u1").build();
  private static final Rejection REPLACED =
      Rejection.newBuilder()
          .setReason(RejectionReason.REJECTION_REASON_REPLACED)
          .setMessage("too bad")
          .setByDevice("iPhone")
          .setTerminal(true)
          .build();

  private final FakeLatchkey fake = new FakeLatchkey();
  private final Greeter greeter = new Greeter();
  private final List<Server> servers = new ArrayList<>();
  private final List<ManagedChannel> channels = new ArrayList<>();
  private ManagedChannel latchkey;

  @BeforeEach
  void start() throws IOException {
    latchkey = serve(fake, null);
  }

  @AfterEach
  void stop() {
    greeter.mayReturn.countDown();
    channels.forEach(ManagedChannel::shutdownNow);
    servers.forEach(Server::shutdownNow);
  }

  @Test
  void aStreamEndsWithTheSessionAndItsHandlerIsTold() throws Exception {
    Running chat = chat(guard -> guard);
    fake.end();
    replaced(chat);
    assertEquals("onError CANCELLED", greeter.told.poll(5, TimeUnit.SECONDS));
    assertTrue(greeter.context.isCancelled());
    var cause = assertInstanceOf(StatusRuntimeException.class, greeter.context.cancellationCause());
    assertEquals(Status.Code.UNAUTHENTICATED, cause.getStatus().getCode());
    eventually(() -> fake.watches.isEmpty());
  }

  @Test
  void aClientIsToldWhileTheHandlerStillRuns() throws Exception {
    Running blocking = greetOn(guard -> guard);
    fake.end();
    replaced(blocking);
    assertTrue(greeter.answers.isCancelled());
    assertTrue(greeter.context.isCancelled());
  }

  @Test
  void aWatchThatBreaksSaysNothingOfTheSession() throws Exception {
    Running chat = chat(guard -> guard);
    for (int times = 0; times < 3; times++) {
      var watch = fake.watch();
      fake.watches.remove(watch);
      watch.onError(Status.UNAVAILABLE.asRuntimeException());
    }
    fake.end();
    replaced(chat);
    assertEquals(4, fake.watched.get());
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 100})
  void aSessionThatCannotBeWatchedIsAskedAbout(int places) throws Exception {
    fake.watchError = Status.RESOURCE_EXHAUSTED;
    Running chat = chat(guard -> guard.maxWatches(places));
    eventually(() -> fake.peeked.get() >= 2);
    fake.rejection = REPLACED;
    replaced(chat);
    assertEquals(places == 0, fake.watched.get() == 0);
  }

  @Test
  void aStreamOutlivesAnOutageForAWhile() throws Exception {
    fake.watchError = Status.UNAVAILABLE;
    fake.failure = Status.PERMISSION_DENIED;
    long begun = System.nanoTime();
    Running chat = chat(guard -> guard.outageGrace(Duration.ofMillis(500)));
    denied(chat, Status.Code.UNAVAILABLE, "STORE_UNAVAILABLE");
    Duration took = Duration.ofNanos(System.nanoTime() - begun);
    assertTrue(took.toMillis() >= 500 && took.toMillis() < 3000, took.toString());
  }

  @Test
  void streamsNeedNotBeWatched() throws Exception {
    Running chat = chat(guard -> guard.watchStreams(false));
    chat.says.onNext(GreetRequest.getDefaultInstance());
    assertNotNull(chat.answers.poll(5, TimeUnit.SECONDS));
    assertEquals(0, fake.watched.get() + fake.peeked.get());
  }

  @Test
  void nobodyWatchesOnceTheStreamHasEnded() throws Exception {
    Running chat = chat(guard -> guard);
    fake.watch();
    chat.says.onCompleted();
    assertEquals("OK", chat.ended.poll(5, TimeUnit.SECONDS).getCode().name());
    eventually(() -> fake.watches.isEmpty());
    assertFalse(greeter.told.contains("onError CANCELLED"));
  }

  @Test
  void nobodyWatchesOnceTheClientHasGone() throws Exception {
    Running chat = chat(guard -> guard);
    fake.watch();
    chat.says.onError(Status.CANCELLED.asRuntimeException());
    assertEquals("onError CANCELLED", greeter.told.poll(5, TimeUnit.SECONDS));
    eventually(() -> fake.watches.isEmpty());
  }

  /** A running call. */
  private static final class Running implements StreamObserver<GreetResponse> {
    private final BlockingQueue<GreetResponse> answers = new LinkedBlockingQueue<>();
    private final BlockingQueue<Status> ended = new LinkedBlockingQueue<>();
    private volatile Throwable why;
    private StreamObserver<GreetRequest> says;

    @Override
    public void onNext(GreetResponse answer) {
      answers.add(answer);
    }

    @Override
    public void onError(Throwable why) {
      this.why = why;
      ended.add(Status.fromThrowable(why));
    }

    @Override
    public void onCompleted() {
      ended.add(Status.OK);
    }
  }

  private Running chat(UnaryOperator<Guard.Builder> options) throws Exception {
    Running running = new Running();
    running.says = guarded(options).chat(running);
    running.says.onNext(GreetRequest.getDefaultInstance());
    assertNotNull(running.answers.poll(5, TimeUnit.SECONDS));
    return running;
  }

  private Running greetOn(UnaryOperator<Guard.Builder> options) throws Exception {
    Running running = new Running();
    guarded(options).greetOn(GreetRequest.getDefaultInstance(), running);
    assertNotNull(running.answers.poll(5, TimeUnit.SECONDS));
    return running;
  }

  private GreeterServiceGrpc.GreeterServiceStub guarded(UnaryOperator<Guard.Builder> options) throws IOException {
    Guard guard = options.apply(Guard.newBuilder(latchkey)).build();
    ManagedChannel to = serve(greeter, guard);
    Metadata headers = new Metadata();
    headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer t");
    var with = ClientInterceptors.intercept(to, MetadataUtils.newAttachHeadersInterceptor(headers));
    return GreeterServiceGrpc.newStub(with).withDeadlineAfter(10, TimeUnit.SECONDS);
  }

  private ManagedChannel serve(BindableService service, Guard guard) throws IOException {
    String name = InProcessServerBuilder.generateName();
    InProcessServerBuilder builder = InProcessServerBuilder.forName(name).addService(service);
    if (guard != null) {
      builder.intercept(guard);
    }
    servers.add(builder.build().start());
    ManagedChannel channel = InProcessChannelBuilder.forName(name).build();
    channels.add(channel);
    return channel;
  }

  private static void replaced(Running call) throws Exception {
    assertEquals(
        Map.of("terminal", "true", "by_device", "iPhone"),
        denied(call, Status.Code.UNAUTHENTICATED, "REPLACED"));
  }

  private static Map<String, String> denied(Running call, Status.Code code, String reason) throws Exception {
    Status status = call.ended.poll(5, TimeUnit.SECONDS);
    assertNotNull(status, "it goes on");
    assertEquals(code, status.getCode());
    ErrorInfo info = StatusProto.fromThrowable(call.why).getDetails(0).unpack(ErrorInfo.class);
    assertEquals("latchkey", info.getDomain());
    assertEquals(reason, info.getReason());
    return info.getMetadataMap();
  }

  private static void eventually(BooleanSupplier so) throws InterruptedException {
    long begun = System.nanoTime();
    while (!so.getAsBoolean()) {
      assertTrue(System.nanoTime() - begun < TimeUnit.SECONDS.toNanos(5), "it does not happen");
      Thread.sleep(2);
    }
  }

  /** A fake Latchkey whose sessions end, and whose watches break, on demand. */
  private static final class FakeLatchkey extends AuthServiceGrpc.AuthServiceImplBase {
    private final AtomicInteger peeked = new AtomicInteger();
    private final AtomicInteger watched = new AtomicInteger();
    private final Set<StreamObserver<WatchSessionResponse>> watches = ConcurrentHashMap.newKeySet();
    private volatile Rejection rejection;
    private volatile Status failure;
    private volatile Status watchError;

    @Override
    public void validate(ValidateRequest request, StreamObserver<ValidateResponse> answers) {
      if (request.getPeek()) {
        peeked.incrementAndGet();
        if (failure != null) {
          answers.onError(failure.asRuntimeException());
          return;
        }
      }
      boolean over = request.getPeek() && rejection != null;
      var answer = ValidateResponse.newBuilder();
      answers.onNext((over ? answer.setRejection(rejection) : answer.setSession(SESSION)).build());
      answers.onCompleted();
    }

    @Override
    public void watchSession(WatchSessionRequest request, StreamObserver<WatchSessionResponse> told) {
      watched.incrementAndGet();
      if (watchError != null) {
        told.onError(watchError.asRuntimeException());
        return;
      }
      ((ServerCallStreamObserver<WatchSessionResponse>) told).setOnCancelHandler(() -> watches.remove(told));
      told.onNext(WatchSessionResponse.newBuilder().setSession(SESSION).build());
      watches.add(told);
    }

    private StreamObserver<WatchSessionResponse> watch() throws InterruptedException {
      eventually(() -> watches.size() == 1);
      return watches.iterator().next();
    }

    private void end() throws InterruptedException {
      var watch = watch();
      watches.remove(watch);
      watch.onNext(WatchSessionResponse.newBuilder().setRejection(REPLACED).build());
      watch.onCompleted();
    }
  }

  private static final class Greeter extends GreeterServiceGrpc.GreeterServiceImplBase {
    private final BlockingQueue<String> told = new LinkedBlockingQueue<>();
    private final CountDownLatch mayReturn = new CountDownLatch(1);
    private volatile Context context;
    private volatile ServerCallStreamObserver<GreetResponse> answers;

    @Override
    public void greetOn(GreetRequest request, StreamObserver<GreetResponse> answers) {
      context = Context.current();
      this.answers = (ServerCallStreamObserver<GreetResponse>) answers;
      answers.onNext(GreetResponse.getDefaultInstance());
      try {
        mayReturn.await();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }

    @Override
    public StreamObserver<GreetRequest> chat(StreamObserver<GreetResponse> answers) {
      context = Context.current();
      return new StreamObserver<>() {
        @Override
        public void onNext(GreetRequest request) {
          answers.onNext(GreetResponse.getDefaultInstance());
        }

        @Override
        public void onError(Throwable why) {
          told.add("onError " + Status.fromThrowable(why).getCode());
        }

        @Override
        public void onCompleted() {
          answers.onCompleted();
        }
      };
    }
  }
}
