package latchkey

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// These tests call a real Latchkey, the program that LATCHKEY_TEST_BINARY names.

const password = "correct horse battery staple"

// A running Latchkey with an account for anna.
type real struct {
	address, folder, key, annaID string
	process                      *exec.Cmd
}

func startReal(t *testing.T) *real {
	t.Helper()
	if os.Getenv("LATCHKEY_TEST_BINARY") == "" {
		t.Skip("LATCHKEY_TEST_BINARY does not name the program of Latchkey")
	}
	server := &real{address: "127.0.0.1:0", folder: t.TempDir()}
	server.start(t)
	t.Cleanup(server.kill)
	key, err := os.ReadFile(filepath.Join(server.folder, "latchkey-data", "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	server.key = strings.TrimSpace(string(key))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-latchkey-key", server.key)
	accounts := latchkeyv1.NewAccountServiceClient(server.dial(t))
	answer, err := accounts.CreateAccount(ctx, &latchkeyv1.CreateAccountRequest{
		Username: "anna", Password: password, Roles: []string{"staff"},
	}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	server.annaID = answer.GetAccount().GetUserId()
	return server
}

// Starts the program, again on the same address, and waits until it listens.
func (r *real) start(t *testing.T) {
	t.Helper()
	r.process = exec.Command(os.Getenv("LATCHKEY_TEST_BINARY"), "serve")
	r.process.Dir = r.folder
	r.process.Env = []string{
		"LATCHKEY_LISTEN__GRPC=" + r.address, "LATCHKEY_LISTEN__HTTP=127.0.0.1:0",
		"LATCHKEY_SESSION__SLOTS=default,kiosk", "LATCHKEY_SLOT__KIOSK__ON_LIMIT=deny",
		"LATCHKEY_GATEWAY__COOKIE=__Host-latchkey", "LATCHKEY_BROWSER__SET_COOKIE=true",
		"LATCHKEY_BROWSER__ORIGINS=https://app.example.com",
		"LATCHKEY_PASSWORD__MEMORY_KIB=64", "LATCHKEY_PASSWORD__ITERATIONS=1", "LATCHKEY_PASSWORD__ALLOW_WEAK=true",
		"LATCHKEY_LOG__LEVEL=error", "LATCHKEY_THROTTLE__ADDRESS_FAILURES=10",
	}
	r.process.Stderr = os.Stderr
	output, err := r.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.process.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(output)
	line, err := lines.ReadString('\n')
	_, rest, found := strings.Cut(line, "listens on ")
	if err != nil || !found {
		t.Fatalf("latchkey does not listen: %q %v", line, err)
	}
	r.address, _, _ = strings.Cut(rest, " ")
	go func() { _, _ = lines.WriteTo(io.Discard) }()
}

func (r *real) kill() {
	_ = r.process.Process.Kill()
	_ = r.process.Wait()
}

func (r *real) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := Dial(r.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *real) client(t *testing.T) *Client {
	t.Helper()
	return NewClient(r.dial(t), WithCallerKey(r.key))
}

// Logs anna in, or fails.
func login(t *testing.T, client *Client, options LoginOptions) *LoggedIn {
	t.Helper()
	answer, err := client.Login(t.Context(), "anna", password, options)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// Returns the error as this type, or fails.
func as[E error](t *testing.T, err error) E {
	t.Helper()
	var typed E
	if !errors.As(err, &typed) {
		t.Fatalf("not a %T: %T %v", typed, err, err)
	}
	if status.Code(err) == codes.Unknown || status.Code(err) == codes.OK {
		t.Errorf("without the status: %v", err)
	}
	return typed
}

func TestTheLatestLoginWins(t *testing.T) {
	client := startReal(t).client(t)
	one := login(t, client, LoginOptions{Device: "Android"})
	identity, err := client.Validate(t.Context(), one.Token, WithMaxStaleness(0))
	if err != nil || identity.Username != "anna" || identity.Device != "Android" || !identity.HasRole("staff") ||
		identity.SessionID != one.Identity.SessionID || identity.ExpiresAt.Before(time.Now()) {
		t.Fatalf("%+v %v", identity, err)
	}
	two := login(t, client, LoginOptions{Device: "iPhone"})
	if len(two.Displaced) != 1 || two.Displaced[0].SessionID != identity.SessionID || two.Displaced[0].Device != "Android" {
		t.Errorf("%+v", two)
	}
	_, err = client.Validate(t.Context(), one.Token)
	rejection := as[*RejectedError](t, err)
	if rejection.Reason != "REPLACED" || rejection.ByDevice != "iPhone" || !rejection.Terminal ||
		time.Since(rejection.At) > time.Minute || !strings.Contains(rejection.Message, "iPhone") {
		t.Errorf("%+v", rejection)
	}
	// A stale token logs nobody out.
	logout, err := client.Logout(t.Context(), one.Token, LogoutOptions{Scope: ScopeAll})
	if err != nil || logout.Ended != 0 || logout.Rejected == nil || logout.Rejected.Reason != "REPLACED" {
		t.Errorf("%+v %v", logout, err)
	}
	logout, err = client.Logout(t.Context(), two.Token, LogoutOptions{})
	if err != nil || logout.Ended != 1 || logout.Rejected != nil {
		t.Errorf("%+v %v", logout, err)
	}
	if jwks, err := client.GetJWKS(t.Context()); err != nil || !strings.Contains(jwks, `"keys"`) {
		t.Errorf("%s %v", jwks, err)
	}
}

func TestLoginOptionsReachLatchkey(t *testing.T) {
	client := startReal(t).client(t)
	once := LoginOptions{Device: "Android", Slot: "kiosk", IdempotencyKey: "f3b1"}
	one := login(t, client, once)
	if again := login(t, client, once); again.Identity.SessionID != one.Identity.SessionID || one.Identity.Slot != "kiosk" {
		t.Errorf("%+v %+v", one, again)
	}
	_, err := client.Login(t.Context(), "anna", password, LoginOptions{Slot: "kiosk"})
	limit := as[*SessionLimitError](t, err)
	if limit.Slot != "kiosk" || limit.Device != "Android" || time.Since(limit.IssuedAt) > time.Minute {
		t.Errorf("%+v", limit)
	}
	taken := login(t, client, LoginOptions{Slot: "kiosk", Takeover: true})
	if len(taken.Displaced) != 1 || len(taken.SetCookie) != 0 {
		t.Errorf("%+v", taken)
	}
	// The session that the key names has ended.
	_, err = client.Login(t.Context(), "anna", password, once)
	if rejection := as[*RejectedError](t, err); rejection.Reason != "REPLACED" || rejection.At.IsZero() {
		t.Errorf("%+v", rejection)
	}
	browser := login(t, client, LoginOptions{Cookie: true})
	if len(browser.SetCookie) != 1 || !strings.HasPrefix(browser.SetCookie[0], "__Host-latchkey=ey") {
		t.Errorf("%d cookies", len(browser.SetCookie))
	}
	for _, shown := range []string{fmt.Sprint(browser), fmt.Sprintf("%+v", *browser), fmt.Sprintf("%#v", *browser)} {
		if strings.Contains(shown, "eyJ") || !strings.Contains(shown, "anna") {
			t.Errorf("shows the token, or nothing: %s", shown)
		}
	}
	logout, err := client.Logout(t.Context(), browser.Token, LogoutOptions{Cookie: true})
	if err != nil || len(logout.SetCookie) != 1 || !strings.Contains(logout.SetCookie[0], "Max-Age=0") {
		t.Errorf("%+v %v", logout, err)
	}
}

func TestErrorsAreTyped(t *testing.T) {
	server := startReal(t)
	client := server.client(t)
	ctx := t.Context()
	// Each from its own network, so that the others are not throttled.
	from := func(address string) LoginOptions { return LoginOptions{ForwardedFor: address} }
	if _, err := client.Login(ctx, "anna", "wrong", from("192.0.2.1")); !errors.Is(err, ErrInvalidCredentials) ||
		status.Code(err) != codes.Unauthenticated {
		t.Errorf("%v", err)
	}
	_, err := client.Login(ctx, "", password, from("192.0.2.1"))
	if invalid := as[*InvalidRequestError](t, err); invalid.Field != "username" || invalid.Description == "" {
		t.Errorf("%+v", invalid)
	}
	_, err = client.Login(ctx, "anna", password, LoginOptions{Device: "a\nb"})
	if invalid := as[*InvalidRequestError](t, err); invalid.Field != "device" {
		t.Errorf("%+v", invalid)
	}

	// Failed logins are counted for the address of the client.
	for number := range 20 {
		_, err = client.Login(ctx, fmt.Sprintf("nobody-%d", number/4), "wrong", from("198.51.100.7"))
		if !errors.Is(err, ErrInvalidCredentials) {
			break
		}
	}
	if throttled := as[*ThrottledError](t, err); throttled.RetryAfter <= 0 {
		t.Errorf("%+v", throttled)
	}
	if _, err := client.Login(ctx, "anna", password, from("203.0.113.9")); err != nil {
		t.Errorf("another address is throttled, too: %v", err)
	}

	stranger := NewClient(server.dial(t), WithCallerKey("wrong"))
	for _, other := range []*Client{stranger, NewClient(server.dial(t))} {
		if _, err := other.ListSessions(ctx, server.annaID); !errors.Is(err, ErrNotAllowed) {
			t.Errorf("%v", err)
		}
	}
	if _, err := client.IssueSession(ctx, User{ID: "nobody"}, LoginOptions{}); !errors.Is(err, ErrAccountNotFound) {
		t.Errorf("%v", err)
	}

	admin := metadata.AppendToOutgoingContext(ctx, "x-latchkey-key", server.key)
	disabled := true
	update := &latchkeyv1.UpdateAccountRequest{UserId: server.annaID, Disabled: &disabled}
	token := login(t, client, LoginOptions{}).Token
	if _, err := latchkeyv1.NewAccountServiceClient(server.dial(t)).UpdateAccount(admin, update); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Login(ctx, "anna", password, LoginOptions{}); !errors.Is(err, ErrAccountDisabled) {
		t.Errorf("%v", err)
	}
	_, err = client.Validate(ctx, token)
	if rejection := as[*RejectedError](t, err); rejection.Reason != "ACCOUNT_DISABLED" || !errors.Is(err, ErrAccountDisabled) {
		t.Errorf("%+v", rejection)
	}
}

func TestAMissingTokenIsARejection(t *testing.T) {
	client := startReal(t).client(t)
	_, validated := client.Validate(t.Context(), "")
	_, loggedOut := client.Logout(t.Context(), "", LogoutOptions{})
	_, changed := client.ChangePassword(t.Context(), "", password, "another good password", ChangePasswordOptions{})
	errs := []error{validated, loggedOut, changed}
	for _, err := range client.WatchSession(t.Context(), "") {
		errs = append(errs, err)
	}
	if len(errs) != 4 {
		t.Errorf("%v", errs)
	}
	for _, err := range errs {
		if rejection := as[*RejectedError](t, err); rejection.Reason != "TOKEN_REQUIRED" || rejection.Terminal {
			t.Errorf("%+v", rejection)
		}
	}
	for _, token := range []string{"rubbish", strings.Repeat("x", 5000), strings.Repeat("x", 100_000)} {
		_, err := client.Validate(t.Context(), token)
		if rejection := as[*RejectedError](t, err); rejection.Reason != "MALFORMED" {
			t.Errorf("%+v", rejection)
		}
	}
}

func TestServicesManageSessions(t *testing.T) {
	server := startReal(t)
	client := server.client(t)
	ctx := t.Context()
	issued, err := client.IssueSession(ctx, User{ID: server.annaID}, LoginOptions{Device: "SSO"})
	if err != nil || issued.Identity.Username != "anna" || issued.Token == "" {
		t.Fatalf("%+v %v", issued, err)
	}
	login(t, client, LoginOptions{Slot: "kiosk"})
	sessions, err := client.ListSessions(ctx, server.annaID)
	if err != nil || len(sessions) != 2 || sessions[0].Device != "SSO" || sessions[0].LastSeenAt.IsZero() {
		t.Errorf("%+v %v", sessions, err)
	}
	var all []string
	for session, err := range client.ListAllSessions(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, session.Slot)
	}
	if len(all) != 2 {
		t.Errorf("%v", all)
	}
	ended, err := client.EndSessions(ctx, server.annaID, EndOptions{Slot: "default", Message: "Bye."})
	if err != nil || ended != 1 {
		t.Errorf("%d %v", ended, err)
	}
	_, err = client.Validate(ctx, issued.Token)
	if rejection := as[*RejectedError](t, err); rejection.Reason != "KICKED" || rejection.Message != "Bye." {
		t.Errorf("%+v", rejection)
	}
	_, err = client.EndSessions(ctx, "", EndOptions{})
	as[*InvalidRequestError](t, err)

	token := login(t, client, LoginOptions{}).Token
	_, err = client.ChangePassword(ctx, token, "wrong", "another good password", ChangePasswordOptions{})
	if !errors.Is(err, ErrInvalidCredentials) {
		t.Errorf("%v", err)
	}
	_, err = client.ChangePassword(ctx, token, password, "short", ChangePasswordOptions{})
	if invalid := as[*InvalidRequestError](t, err); invalid.Field != "new_password" {
		t.Errorf("%+v", invalid)
	}
	ended, err = client.ChangePassword(ctx, token, password, "another good password", ChangePasswordOptions{})
	if err != nil || ended != 1 {
		t.Errorf("%d %v", ended, err)
	}
	if err := client.EndAllSessions(ctx, ""); err != nil {
		t.Error(err)
	}
	_, err = client.Validate(ctx, token)
	if rejection := as[*RejectedError](t, err); rejection.Reason != "KICKED" {
		t.Errorf("%+v", rejection)
	}
}

func TestAWatchOutlivesARestartAndEndsWithTheSession(t *testing.T) {
	server := startReal(t)
	client := server.client(t)
	token := login(t, client, LoginOptions{}).Token
	told := make(chan any, 100)
	go func() {
		defer close(told)
		for identity, err := range client.WatchSession(context.Background(), token) {
			if err != nil {
				told <- err
			} else {
				told <- identity.Username
			}
		}
	}()
	if first := <-told; first != "anna" {
		t.Fatal(first)
	}
	server.kill()
	as[*UnavailableError](t, (<-told).(error))
	server.start(t)
	for next := range told {
		if next == "anna" {
			break
		}
		as[*UnavailableError](t, next.(error))
	}
	login(t, client, LoginOptions{Device: "iPhone"})
	if rejection := as[*RejectedError](t, (<-told).(error)); rejection.Reason != "REPLACED" || rejection.ByDevice != "iPhone" {
		t.Errorf("%+v", rejection)
	}
	if more, ok := <-told; ok {
		t.Error(more)
	}
}

func TestTheFeedContinuesAfterARestart(t *testing.T) {
	server := startReal(t)
	client := server.client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var ended []*EndedSession
	restarted := false
	for event, err := range client.WatchSessions(ctx, FeedOptions{UserID: server.annaID}) {
		switch {
		case err != nil:
			as[*UnavailableError](t, err)
			if ctx.Err() != nil {
				t.Fatal("it does not go on")
			}
		case event.Ended != nil:
			ended = append(ended, event.Ended)
		case len(ended) == 0:
			login(t, client, LoginOptions{})
			login(t, client, LoginOptions{Device: "iPhone"})
		}
		if len(ended) == 1 && !restarted {
			restarted = true
			server.kill()
			server.start(t)
			login(t, client, LoginOptions{Device: "Tablet"})
		}
		if len(ended) > 0 && ended[len(ended)-1].Rejection.ByDevice == "Tablet" {
			break
		}
	}
	if first := ended[0]; first.UserID != server.annaID || first.Slot != "default" || first.ExpiresAt.IsZero() ||
		first.Rejection.Reason != "REPLACED" || first.Rejection.ByDevice != "iPhone" {
		t.Errorf("%+v", first)
	}
}

func TestTheFirstCallAfterARestartSucceeds(t *testing.T) {
	server := startReal(t)
	client := server.client(t)
	token := login(t, client, LoginOptions{}).Token
	calls := map[string]func() error{
		"Validate": func() error { _, err := client.Validate(t.Context(), token); return err },
		// It is not safe to repeat.
		"Login": func() error {
			_, err := client.Login(t.Context(), "anna", password, LoginOptions{Slot: "kiosk", Takeover: true})
			return err
		},
	}
	for name, call := range calls {
		server.kill()
		// While Latchkey is down, calls fail soon, and the delay between attempts to connect grows.
		for range 2 {
			begun := time.Now()
			as[*UnavailableError](t, call())
			if took := time.Since(begun); took > 3*time.Second {
				t.Errorf("%s took %v while Latchkey was down", name, took)
			}
		}
		server.start(t)
		begun := time.Now()
		if err := call(); err != nil {
			t.Errorf("the first %s fails: %v", name, err)
		}
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

func TestACallEndsWithItsContextAndItsTimeLimit(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	client := NewClient((&real{address: silent.Addr().String()}).dial(t), WithTimeout(200*time.Millisecond))
	_, err = client.Validate(t.Context(), "t")
	as[*UnavailableError](t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = client.Validate(ctx, "t"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	as[*UnavailableError](t, err)
}

func TestAClosedClientSaysSo(t *testing.T) {
	latchkey := newWatched()
	client := NewClient(serve(t, func(server *grpc.Server) { latchkeyv1.RegisterAuthServiceServer(server, latchkey) }))
	if _, err := client.Validate(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	for identity, err := range client.WatchSession(t.Context(), "t") {
		if identity != nil {
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
	}
	if _, err := client.Validate(t.Context(), "t"); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}
