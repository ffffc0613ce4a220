package latchkey.sample;

import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.atomic.AtomicInteger;
import latchkey.client.Guard;
import latchkey.client.Identity;
import latchkey.sample.v1.BegunRequest;
import latchkey.sample.v1.BegunResponse;
import latchkey.sample.v1.GreetRequest;
import latchkey.sample.v1.GreetResponse;
import latchkey.sample.v1.GreeterServiceGrpc;

/** A guarded server: the sample of README.md, which the scenarios of all clients call. */
public final class Sample {
  public static void main(String[] args) throws Exception {
    String address = System.getenv("LATCHKEY_ADDRESS");
    String key = System.getenv("LATCHKEY_CALLER_KEY");

    // guarded from here
    Guard guard = Guard.newBuilder(address)
        .callerKey(key)
        .openMethods("/sample.v1.GreeterService/Begun")
        .build();
    Server server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
        .addService(new Greeter())
        .intercept(guard)
        .build();
    // to here

    String role = System.getenv("LATCHKEY_REQUIRED_ROLE");
    String slot = System.getenv("LATCHKEY_REQUIRED_SLOT");
    if (role != null || slot != null) {
      Guard requiring = Guard.newBuilder(address)
          .callerKey(key)
          .openMethods("/sample.v1.GreeterService/Begun")
          .requiredRole(role)
          .requiredSlot(slot)
          .build();
      server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
          .addService(new Greeter())
          .intercept(requiring)
          .build();
    }

    server.start();
    System.out.println("listens on 127.0.0.1:" + server.getPort());
    server.awaitTermination();
  }

  private static final class Greeter extends GreeterServiceGrpc.GreeterServiceImplBase {
    private final AtomicInteger begun = new AtomicInteger();
    private final AtomicInteger running = new AtomicInteger();

    /** Counts a running stream handler. */
    private void begin() {
      begun.incrementAndGet();
      running.incrementAndGet();
    }

    @Override
    public void greet(GreetRequest request, StreamObserver<GreetResponse> answers) {
      begun.incrementAndGet();
      answers.onNext(answer(request));
      answers.onCompleted();
    }

    @Override
    public StreamObserver<GreetRequest> greetAll(StreamObserver<GreetResponse> answers) {
      begin();
      return new Requests(answers, running) {
        private GreetResponse last;

        @Override
        public void onNext(GreetRequest request) {
          last = answer(request);
        }

        @Override
        public void onCompleted() {
          answers.onNext(last);
          super.onCompleted();
        }
      };
    }

    @Override
    public void greetOften(GreetRequest request, StreamObserver<GreetResponse> answers) {
      begun.incrementAndGet();
      for (int times = 0; times < 3; times++) {
        answers.onNext(answer(request));
      }
      answers.onCompleted();
    }

    @Override
    public StreamObserver<GreetRequest> chat(StreamObserver<GreetResponse> answers) {
      begin();
      return new Requests(answers, running);
    }

    @Override
    public void greetOn(GreetRequest request, StreamObserver<GreetResponse> answers) {
      begin();
      try {
        while (!Context.current().isCancelled()) {
          answers.onNext(answer(request));
          Thread.sleep(50);
        }
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      } finally {
        running.decrementAndGet();
      }
    }

    @Override
    public void begun(BegunRequest request, StreamObserver<BegunResponse> answers) {
      answers.onNext(BegunResponse.newBuilder().setCount(begun.get()).setRunning(running.get()).build());
      answers.onCompleted();
    }

    private static GreetResponse answer(GreetRequest request) {
      Identity caller = Identity.current();
      return GreetResponse.newBuilder()
          .setText(request.getGreeting() + ", " + caller.username())
          .setIdentity(
              latchkey.sample.v1.Identity.newBuilder()
                  .setUserId(caller.userId())
                  .setUsername(caller.username())
                  .setSessionId(caller.sessionId())
                  .setSlot(caller.slot())
                  .setDevice(caller.device())
                  .addAllRoles(caller.roles())
                  .setIssuedAtUnix(caller.issuedAt().getEpochSecond())
                  .setExpiresAtUnix(caller.expiresAt().getEpochSecond()))
          .build();
    }
  }

  /** Answers each request. */
  private static class Requests implements StreamObserver<GreetRequest> {
    private final StreamObserver<GreetResponse> answers;
    private final AtomicInteger running;

    Requests(StreamObserver<GreetResponse> answers, AtomicInteger running) {
      this.answers = answers;
      this.running = running;
    }

    @Override
    public void onNext(GreetRequest request) {
      answers.onNext(Greeter.answer(request));
    }

    @Override
    public void onError(Throwable why) {
      // The caller has disconnected.
      running.decrementAndGet();
    }

    @Override
    public void onCompleted() {
      answers.onCompleted();
      running.decrementAndGet();
    }
  }
}
