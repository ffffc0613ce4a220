package latchkey.client;

import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;
import java.util.function.Supplier;
import java.util.stream.Stream;
import latchkey.v1.AuthServiceGrpc;
import latchkey.v1.ChangePasswordRequest;
import latchkey.v1.GetJwksRequest;
import latchkey.v1.IssueSessionRequest;
import latchkey.v1.IssueSessionResponse;
import latchkey.v1.ListSessionsRequest;
import latchkey.v1.ListSessionsResponse;
import latchkey.v1.LoginRequest;
import latchkey.v1.LoginResponse;
import latchkey.v1.LogoutRequest;
import latchkey.v1.LogoutResponse;
import latchkey.v1.SessionServiceGrpc;
import latchkey.v1.ValidateRequest;
import latchkey.v1.ValidateResponse;

/**
 * Calls Latchkey: logs users in and out, validates tokens and manages sessions. It is safe for any number of threads; a
 * service needs one. Methods wait for the answer and throw a {@link LatchkeyException} if Latchkey has not done what they
 * ask for. A null or blank token is a {@link RejectedException} with the reason {@code TOKEN_REQUIRED}.
 */
public final class Client implements AutoCloseable {
  /** How long a call waits for a connection after an outage. */
  private static final long RECONNECT_NANOS = TimeUnit.MILLISECONDS.toNanos(500);

  private final Channel channel;
  private final ManagedChannel own;
  private final Channel calling;
  private final String callerKey;
  private final Duration timeout;

  private Client(Builder options) {
    own = options.channel == null ? Latchkey.connect(options.address) : null;
    channel = own == null ? options.channel : own;
    callerKey = options.callerKey;
    calling = Calls.withKey(channel, callerKey);
    timeout = options.timeout;
  }

  /** Creates a client without a caller key, see {@link Latchkey#connect(String)}. */
  public static Client connect(String address) {
    return newBuilder(address).build();
  }

  /** Returns a builder for a client with a channel of its own, see {@link Latchkey#connect(String)}. */
  public static Builder newBuilder(String address) {
    return new Builder(address, null);
  }

  /** Returns a builder for a client that uses this channel, and does not close it. */
  public static Builder newBuilder(Channel latchkey) {
    return new Builder(null, latchkey);
  }

  /** Returns a channel that sends the caller key, for the generated stubs in {@code latchkey.v1}. */
  public Channel channel() {
    return calling;
  }

  Channel rawChannel() {
    return channel;
  }

  <B extends GuardOptions<B>> B share(B guard) {
    return guard.callerKey(callerKey);
  }

  /** Opens a session in the first slot. */
  public Login login(String username, String password) {
    return login(username, password, new LoginOptions());
  }

  /**
   * Checks a password and opens a session.
   *
   * @throws InvalidCredentialsException for an unknown user or a wrong password
   * @throws ThrottledException after too many failed logins, or in a kick war
   * @throws SessionLimitException if the slot is full and the server denies a second login
   * @throws AccountDisabledException if the account is disabled
   * @throws RejectedException if the session that the idempotency key names has ended
   */
  public Login login(String username, String password, LoginOptions options) {
    LoginRequest request = LoginRequest.newBuilder()
        .setUsername(username)
        .setPassword(password)
        .setSlot(options.slot())
        .setDevice(options.device())
        .setIdempotencyKey(options.idempotencyKey())
        .setTakeover(options.isTakeover())
        .build();
    AtomicReference<Metadata> told = new AtomicReference<>();
    LoginResponse answer = call(() -> auth(options.headers(), told).login(request));
    return Login.of(answer.getToken(), answer.getSession(), answer.getDisplacedList(), told.get());
  }

  /** Returns the session of a token, and counts as a use of it. */
  public Identity validate(String token) {
    return validate(ValidateRequest.newBuilder(), token);
  }

  /** Returns the session of a token without counting as a use of it, for polling in the background. */
  public Identity peek(String token) {
    return validate(ValidateRequest.newBuilder().setPeek(true), token);
  }

  /**
   * Returns the session of a token.
   *
   * @param maxStaleness how old the answer may be; zero reads the primary store
   * @throws RejectedException if the token is not good
   */
  public Identity validate(String token, Duration maxStaleness) {
    ValidateRequest.Builder request = ValidateRequest.newBuilder();
    request.getMaxStalenessBuilder().setSeconds(maxStaleness.getSeconds()).setNanos(maxStaleness.getNano());
    return validate(request, token);
  }

  private Identity validate(ValidateRequest.Builder builder, String token) {
    ValidateRequest request = builder.setToken(required(token)).build();
    ValidateResponse answer = call(() -> auth().validate(request));
    return switch (answer.getVerdictCase()) {
      case SESSION -> Identity.of(answer.getSession());
      case REJECTION -> throw new RejectedException(Rejection.of(answer.getRejection()), null);
      default -> throw new LatchkeyException("INTERNAL", "the answer has no verdict", null);
    };
  }

  /** Ends the session of a token. */
  public Logout logout(String token) {
    return logout(token, new LogoutOptions());
  }

  /** Ends the session of a token or other sessions of its user. A dead token ends nothing, and is no error. */
  public Logout logout(String token, LogoutOptions options) {
    LogoutRequest request = LogoutRequest.newBuilder().setToken(required(token)).setScope(options.scope()).build();
    AtomicReference<Metadata> told = new AtomicReference<>();
    LogoutResponse answer = call(() -> auth(options.headers(), told).logout(request));
    Rejection rejection = answer.hasRejection() ? Rejection.of(answer.getRejection()) : null;
    return new Logout(answer.getEnded(), rejection, Login.cookies(told.get()));
  }

  /**
   * Watches the session of a token, and tells at once when it ends. Close the watch if you no longer need it.
   *
   * @throws RejectedException if the token is not good
   */
  public SessionWatch watchSession(String token) {
    String watched = required(token);
    awaitConnection();
    SessionWatch watch = new SessionWatch(AuthServiceGrpc.newStub(calling), this::reconnect, watched);
    try {
      watch.begun().orTimeout(timeout.toNanos(), TimeUnit.NANOSECONDS).join();
      return watch;
    } catch (CompletionException e) {
      watch.close();
      if (e.getCause() instanceof LatchkeyException why) {
        throw why;
      }
      String message = "Latchkey did not answer within " + timeout;
      throw new UnavailableException("DEADLINE_EXCEEDED", message, Duration.ofSeconds(1), e);
    }
  }

  /** Changes the password, see {@link #changePassword(String, String, String, String)}. */
  public int changePassword(String token, String currentPassword, String newPassword) {
    return changePassword(token, currentPassword, newPassword, null);
  }

  /**
   * Sets a new password for the user of a live session, and ends every other session of the user.
   *
   * @param clientAddress the address of the client, as in {@link LoginOptions#clientAddress}, or {@code null}
   * @return the number of other sessions that it has ended
   * @throws InvalidCredentialsException if the current password is wrong
   * @throws InvalidRequestException if the new password is too short or too common
   */
  public int changePassword(String token, String currentPassword, String newPassword, String clientAddress) {
    ChangePasswordRequest request = ChangePasswordRequest.newBuilder()
        .setToken(required(token))
        .setCurrentPassword(currentPassword)
        .setNewPassword(newPassword)
        .build();
    RequestHeaders headers = new RequestHeaders();
    headers.clientAddress(clientAddress);
    return call(() -> auth(headers.metadata(), new AtomicReference<>()).changePassword(request)).getEnded();
  }

  /** Returns the public keys that verify tokens, as a JSON Web Key Set. Only {@code validate} knows live sessions. */
  public String jwks() {
    return call(() -> auth().getJwks(GetJwksRequest.getDefaultInstance())).getJwks();
  }

  /** Opens a session for a user that your service has authenticated. For callers with the role {@code issuer}. */
  public Login issueSession(String userId, LoginOptions options) {
    return issue(IssueSessionRequest.newBuilder().setUserId(userId), options);
  }

  /** Does the same by username, for accounts in another system that are found by username only. */
  public Login issueSessionByUsername(String username, LoginOptions options) {
    return issue(IssueSessionRequest.newBuilder().setUsername(username), options);
  }

  private Login issue(IssueSessionRequest.Builder builder, LoginOptions options) {
    IssueSessionRequest request = builder
        .setSlot(options.slot())
        .setDevice(options.device())
        .setIdempotencyKey(options.idempotencyKey())
        .setTakeover(options.isTakeover())
        .build();
    AtomicReference<Metadata> told = new AtomicReference<>();
    var stub = SessionServiceGrpc.newBlockingStub(with(options.headers(), told));
    IssueSessionResponse answer = call(() -> limited(stub).issueSession(request));
    return Login.of(answer.getToken(), answer.getSession(), answer.getDisplacedList(), told.get());
  }

  /** Returns the live sessions of a user, the oldest login first. For callers with the role {@code operator}. */
  public List<ListedSession> listSessions(String userId) {
    ListSessionsRequest request = ListSessionsRequest.newBuilder().setUserId(userId).build();
    return call(() -> sessions().listSessions(request)).getSessionsList().stream().map(ListedSession::of).toList();
  }

  /** Returns the live sessions of all users, in the order of their usernames. Each page is read when it is needed. */
  public Stream<ListedSession> listAllSessions() {
    Function<String, ListSessionsResponse> page = token ->
        call(() -> sessions().listSessions(
            ListSessionsRequest.newBuilder().setEveryone(true).setPageToken(token).build()));
    return Stream.iterate(
            page.apply(""),
            answer -> answer != null,
            answer -> answer.getNextPageToken().isEmpty() ? null : page.apply(answer.getNextPageToken()))
        .flatMap(answer -> answer.getSessionsList().stream().map(ListedSession::of));
  }

  /** Ends sessions, and returns how many were live. For callers with the role {@code operator}. */
  public int endSessions(SessionsToEnd which) {
    return call(() -> sessions().endSessions(which.request())).getEnded();
  }

  /** Closes the channel if the client has made it. Running calls fail. */
  @Override
  public void close() {
    if (own != null) {
      own.shutdownNow();
    }
  }

  private AuthServiceGrpc.AuthServiceBlockingStub auth() {
    return limited(AuthServiceGrpc.newBlockingStub(calling));
  }

  private AuthServiceGrpc.AuthServiceBlockingStub auth(Metadata headers, AtomicReference<Metadata> told) {
    return limited(AuthServiceGrpc.newBlockingStub(with(headers, told)));
  }

  private SessionServiceGrpc.SessionServiceBlockingStub sessions() {
    return limited(SessionServiceGrpc.newBlockingStub(calling));
  }

  private <S extends io.grpc.stub.AbstractStub<S>> S limited(S stub) {
    return stub.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS);
  }

  /** Returns a channel that sends these headers and keeps those of the answer. */
  private Channel with(Metadata headers, AtomicReference<Metadata> told) {
    return ClientInterceptors.intercept(
        calling,
        MetadataUtils.newAttachHeadersInterceptor(headers),
        MetadataUtils.newCaptureMetadataInterceptor(told, new AtomicReference<>()));
  }

  private static String required(String token) {
    if (token == null || token.isBlank()) {
      throw new RejectedException(Rejection.TOKEN_REQUIRED, null);
    }
    return token;
  }

  private <T> T call(Supplier<T> call) {
    awaitConnection();
    try {
      return call.get();
    } catch (StatusRuntimeException e) {
      throw Errors.of(e);
    }
  }

  private void reconnect() {
    if (channel instanceof ManagedChannel managed) {
      managed.resetConnectBackoff();
    }
  }

  /**
   * Connects at once after an outage that ended while nobody called. Otherwise gRPC waits for up to two minutes between
   * attempts, and every call fails meanwhile.
   */
  private void awaitConnection() {
    if (!Calls.isBroken(channel)) {
      return;
    }
    ManagedChannel managed = (ManagedChannel) channel;
    CountDownLatch changed = new CountDownLatch(1);
    managed.notifyWhenStateChanged(ConnectivityState.TRANSIENT_FAILURE, changed::countDown);
    managed.resetConnectBackoff();
    try {
      changed.await(Math.min(RECONNECT_NANOS, timeout.toNanos()), TimeUnit.NANOSECONDS);
    } catch (InterruptedException e) {
      // The call fails because of it.
      Thread.currentThread().interrupt();
    }
  }

  /** The options of a client. */
  public static final class Builder {
    private final String address;
    private final Channel channel;
    private String callerKey = "";
    private Duration timeout = Duration.ofSeconds(10);

    private Builder(String address, Channel channel) {
      this.address = address;
      this.channel = channel;
    }

    /** Sets the caller key, needed for methods of {@code SessionService}. */
    public Builder callerKey(String key) {
      callerKey = key;
      return this;
    }

    /** Sets the time limit of each call. Default: 10 s, because logins wait for their turn when there are many. */
    public Builder timeout(Duration timeout) {
      this.timeout = timeout;
      return this;
    }

    /** Creates the client. It connects with its first call. */
    public Client build() {
      return new Client(this);
    }
  }
}
