package latchkey

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// These tests cover what Latchkey never does. clients/scenarios.json covers everything else.
type fakeLatchkey struct {
	latchkeyv1.UnimplementedAuthServiceServer
	answer  *latchkeyv1.ValidateResponse
	err     error
	hangs   bool
	outages atomic.Int32
	logins  atomic.Int32
	asked   *latchkeyv1.ValidateRequest
	headers metadata.MD
}

func (f *fakeLatchkey) Validate(
	ctx context.Context, request *latchkeyv1.ValidateRequest,
) (*latchkeyv1.ValidateResponse, error) {
	f.asked = request
	f.headers, _ = metadata.FromIncomingContext(ctx)
	if f.hangs {
		<-ctx.Done()
	}
	if f.outages.Add(-1) >= 0 {
		return nil, status.Error(codes.Unavailable, "restarting")
	}
	return f.answer, f.err
}

func (f *fakeLatchkey) Login(context.Context, *latchkeyv1.LoginRequest) (*latchkeyv1.LoginResponse, error) {
	f.logins.Add(1)
	return nil, status.Error(codes.Unavailable, "restarting")
}

func live() *latchkeyv1.ValidateResponse {
	session := &latchkeyv1.Session{
		UserId: "u1", Username: "anna", SessionId: "s1", Slot: "web", Device: "Firefox", Roles: []string{"staff"},
		IssuedAt: timestamppb.New(time.Unix(1, 0)), ExpiresAt: timestamppb.New(time.Unix(2, 0)),
		IdleExpiresAt: timestamppb.New(time.Unix(3, 0)),
	}
	return &latchkeyv1.ValidateResponse{Verdict: &latchkeyv1.ValidateResponse_Session{Session: session}}
}

func rejection(rejection *latchkeyv1.Rejection) *latchkeyv1.ValidateResponse {
	return &latchkeyv1.ValidateResponse{Verdict: &latchkeyv1.ValidateResponse_Rejection{Rejection: rejection}}
}

// Creates a guard in front of this Latchkey.
func guardOf(t *testing.T, fake *fakeLatchkey, options ...Option) *Guard {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	latchkeyv1.RegisterAuthServiceServer(server, fake)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := Dial("passthrough:///latchkey",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	quiet := WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	return NewGuard(conn, append([]Option{quiet}, options...)...)
}

// Calls a method with a token and returns the identity that its handler sees.
func call(g *Guard, method string) (*Identity, error) {
	ctx := metadata.NewIncomingContext(context.Background(),
		metadata.Pairs("authorization", "Bearer t", "x-forwarded-for", "192.0.2.1"))
	info := &grpc.UnaryServerInfo{FullMethod: method}
	answer, err := g.UnaryInterceptor(ctx, nil, info, func(ctx context.Context, _ any) (any, error) {
		identity, _ := FromContext(ctx)
		return identity, nil
	})
	if err != nil {
		return nil, err
	}
	return answer.(*Identity), nil
}

func expect(t *testing.T, err error, code codes.Code, reason string) *errdetails.ErrorInfo {
	t.Helper()
	answer := status.Convert(err)
	for _, detail := range answer.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && answer.Code() == code && info.GetReason() == reason {
			return info
		}
	}
	t.Fatalf("not %v %s: %v %v", code, reason, answer, answer.Details())
	return nil
}

func TestTheServiceConfigRepeatsValidateAndNotLogin(t *testing.T) {
	fake := &fakeLatchkey{answer: live()}
	fake.outages.Store(3)
	guard := guardOf(t, fake)
	if _, err := call(guard, "/a.B/C"); err != nil {
		t.Fatal(err)
	}
	fake.outages.Store(4)
	_, err := call(guard, "/a.B/C")
	expect(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
	_, err = guard.latchkey.Login(context.Background(), &latchkeyv1.LoginRequest{})
	if logins := fake.logins.Load(); status.Code(err) != codes.Unavailable || logins != 1 {
		t.Fatalf("%v after %d logins", err, logins)
	}
}

func TestTheGuardAsksAsItIsTold(t *testing.T) {
	fake := &fakeLatchkey{answer: live()}
	guard := guardOf(t, fake, WithMaxStaleness(1500*time.Millisecond), WithPeek(), WithCallerKey("secret"))
	identity, err := call(guard, "/a.B/C")
	if err != nil {
		t.Fatal(err)
	}
	if identity.UserID != "u1" || !identity.HasRole("staff") || identity.HasRole("sta") ||
		identity.IdleExpiresAt.Unix() != 3 {
		t.Errorf("%+v", identity)
	}
	if fake.asked.GetToken() != "t" || !fake.asked.GetPeek() ||
		fake.asked.GetMaxStaleness().AsDuration() != 1500*time.Millisecond {
		t.Errorf("%+v", fake.asked)
	}
	if key := fake.headers.Get("x-latchkey-key"); len(key) != 1 || key[0] != "secret" {
		t.Errorf("%v", key)
	}
	for _, header := range []string{"authorization", "x-forwarded-for"} {
		if sent := fake.headers.Get(header); len(sent) != 0 {
			t.Errorf("%s went to Latchkey, too: %v", header, sent)
		}
	}
}

func TestWithoutOptionsTheDefaultsOfLatchkeyCount(t *testing.T) {
	fake := &fakeLatchkey{answer: live()}
	if _, err := call(guardOf(t, fake), "/a.B/C"); err != nil {
		t.Fatal(err)
	}
	if fake.asked.GetPeek() || fake.asked.MaxStaleness != nil || len(fake.headers.Get("x-latchkey-key")) != 0 {
		t.Errorf("%+v %v", fake.asked, fake.headers)
	}
}

func TestNoStatusOfLatchkeyIsAVerdict(t *testing.T) {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		fake := &fakeLatchkey{err: status.Error(code, "told to the guard alone")}
		_, err := call(guardOf(t, fake), "/a.B/C")
		expect(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
		if message := status.Convert(err).Message(); message != "the session cannot be checked at the moment: try again" {
			t.Errorf("%v: %s", code, message)
		}
	}
}

func TestAnAnswerWithoutAVerdictLetsNobodyIn(t *testing.T) {
	_, err := call(guardOf(t, &fakeLatchkey{answer: &latchkeyv1.ValidateResponse{}}), "/a.B/C")
	expect(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
}

func TestLatchkeyMayTakeSoLongAndNoLonger(t *testing.T) {
	begun := time.Now()
	_, err := call(guardOf(t, &fakeLatchkey{hangs: true}, WithTimeout(50*time.Millisecond)), "/a.B/C")
	expect(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
	if took := time.Since(begun); took > 900*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

func TestAReasonOfTomorrowIsAnUnknownSession(t *testing.T) {
	for _, reason := range []latchkeyv1.RejectionReason{0, 99} {
		fake := &fakeLatchkey{answer: rejection(&latchkeyv1.Rejection{Reason: reason, Terminal: true})}
		_, err := call(guardOf(t, fake), "/a.B/C")
		if info := expect(t, err, codes.Unauthenticated, "UNKNOWN_SESSION"); info.Metadata["terminal"] != "true" {
			t.Errorf("%v", info)
		}
	}
}

func TestARoleOrASlotCanBeRequired(t *testing.T) {
	fake := &fakeLatchkey{answer: live()}
	if _, err := call(guardOf(t, fake, WithRequiredRole("staff"), WithRequiredSlot("web")), "/a.B/C"); err != nil {
		t.Error(err)
	}
	_, err := call(guardOf(t, fake, WithRequiredRole("admin")), "/a.B/C")
	if info := expect(t, err, codes.PermissionDenied, "ROLE_REQUIRED"); info.Metadata["role"] != "admin" {
		t.Errorf("%v", info)
	}
	_, err = call(guardOf(t, fake, WithRequiredSlot("mobile")), "/a.B/C")
	if info := expect(t, err, codes.PermissionDenied, "SLOT_REQUIRED"); info.Metadata["slot"] != "mobile" {
		t.Errorf("%v", info)
	}
}

func TestOnlyTheMethodsThatAreNamedAreOpen(t *testing.T) {
	guard := guardOf(t, &fakeLatchkey{err: status.Error(codes.Internal, "")}, WithOpenMethods("/a.B/C"))
	if identity, err := call(guard, "/a.B/C"); err != nil || identity != nil {
		t.Errorf("%v %v", identity, err)
	}
	for _, method := range []string{"/a.B/CC", "/a.B/c", "/a.B/", "a.B/C"} {
		_, err := call(guard, method)
		expect(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
	}
}
