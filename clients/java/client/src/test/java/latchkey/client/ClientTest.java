package latchkey.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import latchkey.v1.AccountServiceGrpc;
import latchkey.v1.CreateAccountRequest;
import latchkey.v1.UpdateAccountRequest;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.NullSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Tests the client against a real Latchkey. */
@Timeout(120)
class ClientTest {
  private static final String PASSWORD = "correct horse battery staple";

  @TempDir static Path data;
  private static RealLatchkey latchkey;
  private static Client client;
  private static Client admin;

  @BeforeAll
  static void start() throws Exception {
    latchkey = RealLatchkey.start(data, Map.of(
        "LATCHKEY_SESSION__SLOTS", "default,single",
        "LATCHKEY_SLOT__SINGLE__ON_LIMIT", "deny",
        "LATCHKEY_GATEWAY__COOKIE", "__Host-latchkey",
        "LATCHKEY_BROWSER__ORIGINS", "https://app.example.com",
        "LATCHKEY_BROWSER__SET_COOKIE", "true"));
    client = Client.connect(latchkey.address());
    admin = Client.newBuilder(latchkey.address()).callerKey(latchkey.adminKey()).build();
  }

  @AfterAll
  static void stop() throws Exception {
    if (latchkey != null) {
      client.close();
      admin.close();
      latchkey.close();
    }
  }

  /** Creates a user for the test, and returns the id. */
  private static String user(String name) {
    var request = CreateAccountRequest.newBuilder().setUsername(name).setPassword(PASSWORD).addRoles("staff").build();
    return AccountServiceGrpc.newBlockingStub(admin.channel()).createAccount(request).getAccount().getUserId();
  }

  private static LoginOptions on(String device) {
    return new LoginOptions().device(device);
  }

  @Test
  void theLatestLoginWins() {
    String id = user("latest");
    Login one = client.login("latest", PASSWORD, on("Android"));
    assertEquals(id, one.identity().userId());
    assertEquals(one.identity().sessionId(), client.validate(one.token()).sessionId());
    assertEquals(List.of("staff"), client.validate(one.token(), Duration.ZERO).roles());
    Login two = client.login("latest", PASSWORD, on("iPhone"));
    assertEquals("Android", two.displaced().get(0).device());
    var why = assertThrows(RejectedException.class, () -> client.peek(one.token()));
    assertEquals("REPLACED", why.reason());
    assertEquals("You were logged out because of a newer login on iPhone.", why.getMessage());
    assertEquals("iPhone", why.byDevice());
    assertTrue(why.isTerminal());
    assertEquals(two.identity().issuedAt(), why.at());
    Logout stale = client.logout(one.token(), new LogoutOptions().everySession());
    assertEquals(0, stale.ended());
    assertEquals("REPLACED", stale.rejection().reason());
    Logout live = client.logout(two.token(), new LogoutOptions().everySession());
    assertEquals(1, live.ended());
    assertNull(live.rejection());
  }

  @ParameterizedTest
  @NullSource
  @ValueSource(strings = {"", " "})
  void aMissingTokenIsARejection(String token) {
    List<Consumer<String>> calls = List.of(
        client::validate,
        client::peek,
        client::logout,
        client::watchSession,
        missing -> client.changePassword(missing, PASSWORD, PASSWORD));
    for (Consumer<String> call : calls) {
      var why = assertThrows(RejectedException.class, () -> call.accept(token));
      assertEquals("TOKEN_REQUIRED", why.reason());
      assertFalse(why.isTerminal());
    }
  }

  @Test
  void errorsHaveTypes() {
    String id = user("typed");
    assertThrows(InvalidCredentialsException.class, () -> client.login("typed", "wrong"));
    var slot = assertThrows(
        InvalidRequestException.class, () -> client.login("typed", PASSWORD, new LoginOptions().slot("no such")));
    assertEquals("slot", slot.field());
    var caller = assertThrows(NotAllowedException.class, () -> client.listSessions(id));
    assertEquals("CALLER_UNAUTHENTICATED", caller.reason());
    var unknown = assertThrows(LatchkeyException.class, () -> admin.issueSession("nobody", new LoginOptions()));
    assertEquals("ACCOUNT_NOT_FOUND", unknown.reason());
    var disable = UpdateAccountRequest.newBuilder().setUserId(id).setDisabled(true).build();
    AccountServiceGrpc.newBlockingStub(admin.channel()).updateAccount(disable);
    assertThrows(AccountDisabledException.class, () -> client.login("typed", PASSWORD));
  }

  @Test
  void tooManyFailedLoginsAreThrottled() {
    ThrottledException why = null;
    for (int attempts = 0; why == null && attempts < 30; attempts++) {
      try {
        client.login("nobody", "wrong");
      } catch (InvalidCredentialsException e) {
        continue;
      } catch (ThrottledException e) {
        why = e;
      }
    }
    assertNotNull(why, "logins are not throttled");
    assertTrue(why.retryAfter().compareTo(Duration.ZERO) > 0, why.retryAfter().toString());
  }

  @Test
  void aFullSlotNamesItsHolderUntilTheUserTakesOver() {
    user("full");
    client.login("full", PASSWORD, on("Android").slot("single"));
    var full = assertThrows(
        SessionLimitException.class, () -> client.login("full", PASSWORD, on("iPhone").slot("single")));
    assertEquals("single", full.holder().slot());
    assertEquals("Android", full.holder().device());
    assertTrue(full.holder().issuedAt().getEpochSecond() > 1_700_000_000);
    assertEquals(1, client.login("full", PASSWORD, on("iPhone").slot("single").takeover()).displaced().size());
  }

  @Test
  void aLoginWithAKeyCanBeRepeated() {
    user("twice");
    LoginOptions options = new LoginOptions().idempotencyKey("a-key");
    Login first = client.login("twice", PASSWORD, options);
    assertEquals(first.identity().sessionId(), client.login("twice", PASSWORD, options).identity().sessionId());
    client.logout(first.token());
    var over = assertThrows(RejectedException.class, () -> client.login("twice", PASSWORD, options));
    assertEquals("LOGGED_OUT", over.reason());
  }

  @Test
  void aLoginServiceGetsCookiesAndForwardsAddresses() {
    user("cookie");
    Login login = client.login("cookie", PASSWORD, new LoginOptions().cookie().clientAddress("203.0.113.5"));
    String cookie = login.setCookies().get(0);
    assertTrue(cookie.startsWith("__Host-latchkey=" + login.token() + ";"), "another cookie");
    assertFalse(login.toString().contains(login.token()));
    Logout logout = client.logout(login.token(), new LogoutOptions().cookie());
    assertTrue(logout.setCookies().get(0).startsWith("__Host-latchkey=;"), logout.setCookies().toString());
    // The limits of the address count for every user who comes from it.
    LoginOptions from = new LoginOptions().clientAddress("203.0.113.6");
    assertThrows(ThrottledException.class, () -> {
      for (int attempts = 0; attempts < 200; attempts++) {
        try {
          client.login("user-" + attempts, "wrong", from);
        } catch (InvalidCredentialsException e) {
          continue;
        }
      }
    });
  }

  @Test
  void anOperatorListsAndEndsSessions() {
    String id = user("listed");
    Login login = admin.issueSession(id, on("Kiosk"));
    assertEquals("Kiosk", admin.listSessions(id).get(0).identity().device());
    assertTrue(admin.listAllSessions().anyMatch(one -> one.identity().sessionId().equals(login.identity().sessionId())));
    assertEquals(0, admin.endSessions(SessionsToEnd.ofUser(id).inSlot("single")));
    assertEquals(1, admin.endSessions(SessionsToEnd.ofUser(id).message("Please update.")));
    var kicked = assertThrows(RejectedException.class, () -> client.validate(login.token()));
    assertEquals("KICKED", kicked.reason());
    assertEquals("Please update.", kicked.getMessage());
  }

  @Test
  void aPasswordIsChanged() {
    user("changing");
    Login login = client.login("changing", PASSWORD);
    String next = "another horse battery staple";
    assertThrows(InvalidCredentialsException.class, () -> client.changePassword(login.token(), "wrong", next));
    assertEquals(0, client.changePassword(login.token(), PASSWORD, next));
    assertEquals("changing", client.validate(login.token()).username());
    assertTrue(client.jwks().contains("\"keys\""));
  }

  @Test
  void aWatchTellsTheEndOfItsSession() throws Exception {
    user("watched");
    Login login = client.login("watched", PASSWORD);
    try (SessionWatch watch = client.watchSession(login.token())) {
      assertEquals("watched", watch.identity().username());
      client.login("watched", PASSWORD, on("iPhone"));
      Rejection why = watch.ended().get(10, TimeUnit.SECONDS);
      assertEquals("REPLACED", why.reason());
      assertEquals("iPhone", why.byDevice());
      assertEquals(why, watch.awaitEnd());
    }
    var dead = assertThrows(RejectedException.class, () -> client.watchSession(login.token()));
    assertEquals("REPLACED", dead.reason());
  }

  @Test
  void aClosedWatchTellsNothing() {
    user("closing");
    SessionWatch watch = client.watchSession(client.login("closing", PASSWORD).token());
    watch.close();
    assertTrue(watch.ended().isCompletedExceptionally());
  }

  @Test
  void aClosedClientFailsAtOnce() {
    Client closed = Client.connect(latchkey.address());
    assertTrue(closed.jwks().contains("keys"));
    closed.close();
    assertThrows(UnavailableException.class, closed::jwks);
    // The guard does not close what it did not make.
    HttpGuard.newBuilder(client).build().close();
    assertTrue(client.jwks().contains("keys"));
  }

  @Test
  void callsSucceedSoonAfterARestart(@TempDir Path own) throws Exception {
    try (RealLatchkey restarted = RealLatchkey.start(own, Map.of());
        Client caller = Client.connect(restarted.address());
        Client creator = Client.newBuilder(restarted.address()).callerKey(restarted.adminKey()).build();
        HttpGuard guard = HttpGuard.newBuilder(restarted.address()).timeout(Duration.ofSeconds(5)).build()) {
      AccountServiceGrpc.newBlockingStub(creator.channel()).createAccount(
          CreateAccountRequest.newBuilder().setUsername("anna").setPassword(PASSWORD).build());
      Login login = caller.login("anna", PASSWORD);
      List<String> header = List.of("Bearer " + login.token());
      assertEquals("anna", guard.check(header, "a test").username());
      SessionWatch watch = caller.watchSession(login.token());
      restarted.stop();
      long begun = System.nanoTime();
      for (int attempts = 0; attempts < 3; attempts++) {
        assertThrows(UnavailableException.class, () -> caller.login("anna", PASSWORD));
        assertTrue(assertThrows(DeniedException.class, () -> guard.check(header, "a test")).isOutage());
      }
      assertTrue(System.nanoTime() - begun < TimeUnit.SECONDS.toNanos(20), "calls hang during an outage");
      restarted.start();
      // A guard does not wait for a connection, and tries to connect every 100 ms at most.
      long restart = System.nanoTime();
      Identity who = null;
      while (who == null) {
        try {
          who = guard.check(header, "a test");
        } catch (DeniedException why) {
          assertTrue(why.isOutage() && System.nanoTime() - restart < TimeUnit.SECONDS.toNanos(2), "still no verdict");
        }
      }
      assertEquals("anna", who.username());
      // A login is not repeated, but waits for the connection.
      assertEquals("anna", caller.login("anna", PASSWORD, on("iPhone")).identity().username());
      assertEquals("REPLACED", watch.ended().get(30, TimeUnit.SECONDS).reason());
    }
  }

  @Test
  void anAddressOrAKeyThatCannotBeRightIsRefused() {
    for (String address : List.of("", "ftp://latchkey:1", "latch key:1")) {
      var why = assertThrows(IllegalArgumentException.class, () -> Client.connect(address));
      assertTrue(why.getMessage().contains("latchkey:50051"), why.getMessage());
    }
    var key = Client.newBuilder("127.0.0.1:1").callerKey("a b");
    assertThrows(IllegalArgumentException.class, key::build);
  }
}
