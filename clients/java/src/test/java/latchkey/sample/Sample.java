package latchkey.sample;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.atomic.AtomicInteger;
import latchkey.client.Guard;
import latchkey.client.Identity;
import latchkey.client.Latchkey;
import latchkey.sample.v1.BegunRequest;
import latchkey.sample.v1.BegunResponse;
import latchkey.sample.v1.GreetRequest;
import latchkey.sample.v1.GreetResponse;
import latchkey.sample.v1.GreeterServiceGrpc;

/** A guarded server: what README.md shows, and what the scenarios of all clients call. */
public final class Sample {
  public static void main(String[] args) throws Exception {
    String address = System.getenv("LATCHKEY_ADDRESS");
    String key = System.getenv("LATCHKEY_CALLER_KEY");

    // guarded from here
    Guard guard = Guard.newBuilder(Latchkey.connect(address, InsecureChannelCredentials.create()))
        .callerKey(key)
        .openMethods("/sample.v1.GreeterService/Begun")
        .build();
    Server server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
        .addService(new Greeter())
        .intercept(guard)
        .build();
    // to here

    server.start();
    System.out.println("listens on 127.0.0.1:" + server.getPort());
    server.awaitTermination();
  }

  private static final class Greeter extends GreeterServiceGrpc.GreeterServiceImplBase {
    private final AtomicInteger begun = new AtomicInteger();

    @Override
    public void greet(GreetRequest request, StreamObserver<GreetResponse> answers) {
      begun.incrementAndGet();
      answers.onNext(answer(request));
      answers.onCompleted();
    }

    @Override
    public StreamObserver<GreetRequest> greetAll(StreamObserver<GreetResponse> answers) {
      begun.incrementAndGet();
      return new Requests(answers) {
        private GreetResponse last;

        @Override
        public void onNext(GreetRequest request) {
          last = answer(request);
        }

        @Override
        public void onCompleted() {
          answers.onNext(last);
          answers.onCompleted();
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
      begun.incrementAndGet();
      return new Requests(answers);
    }

    @Override
    public void begun(BegunRequest request, StreamObserver<BegunResponse> answers) {
      answers.onNext(BegunResponse.newBuilder().setCount(begun.get()).build());
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

    Requests(StreamObserver<GreetResponse> answers) {
      this.answers = answers;
    }

    @Override
    public void onNext(GreetRequest request) {
      answers.onNext(Greeter.answer(request));
    }

    @Override
    public void onError(Throwable why) {
      // The caller has gone.
    }

    @Override
    public void onCompleted() {
      answers.onCompleted();
    }
  }
}
