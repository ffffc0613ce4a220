package latchkey

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/latchkey-auth/latchkey/clients/go/internal/sample/samplev1"
	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// A fake Latchkey whose sessions end, and whose watches break, on demand.
type watchedLatchkey struct {
	latchkeyv1.UnimplementedAuthServiceServer
	// The answer of Validate with peek, instead of a live session.
	verdict atomic.Pointer[latchkeyv1.ValidateResponse]
	failure atomic.Pointer[status.Status]
	asked   atomic.Int32
	peeked  atomic.Int32
	// How a watch ends.
	watched    atomic.Int32
	watchError *status.Status
	breaks     chan struct{}
	end        chan *latchkeyv1.Rejection
	headers    metadata.MD
}

func newWatched() *watchedLatchkey {
	return &watchedLatchkey{breaks: make(chan struct{}), end: make(chan *latchkeyv1.Rejection, 1)}
}

func (l *watchedLatchkey) Validate(
	_ context.Context, request *latchkeyv1.ValidateRequest,
) (*latchkeyv1.ValidateResponse, error) {
	l.asked.Add(1)
	if !request.GetPeek() {
		return live(), nil
	}
	l.peeked.Add(1)
	if failure := l.failure.Load(); failure != nil {
		return nil, failure.Err()
	}
	if verdict := l.verdict.Load(); verdict != nil {
		return verdict, nil
	}
	return live(), nil
}

func (l *watchedLatchkey) WatchSession(
	request *latchkeyv1.WatchSessionRequest, told grpc.ServerStreamingServer[latchkeyv1.WatchSessionResponse],
) error {
	l.headers, _ = metadata.FromIncomingContext(told.Context())
	l.watched.Add(1)
	if l.watchError != nil {
		return l.watchError.Err()
	}
	session := &latchkeyv1.WatchSessionResponse_Session{Session: live().GetSession()}
	if err := told.Send(&latchkeyv1.WatchSessionResponse{Verdict: session}); err != nil {
		return err
	}
	select {
	case <-told.Context().Done():
		return told.Context().Err()
	case <-l.breaks:
		return status.Error(codes.Unavailable, "it breaks")
	case rejection := <-l.end:
		verdict := &latchkeyv1.WatchSessionResponse_Rejection{Rejection: rejection}
		return told.Send(&latchkeyv1.WatchSessionResponse{Verdict: verdict})
	}
}

func replaced() *latchkeyv1.Rejection {
	return &latchkeyv1.Rejection{
		Reason:  latchkeyv1.RejectionReason_REJECTION_REASON_REPLACED,
		Message: "too bad", ByDevice: "iPhone", Terminal: true,
	}
}

type chatty struct {
	samplev1.UnimplementedGreeterServiceServer
	returned chan error
	cause    chan error
	panics   bool
}

// Waits for requests that never arrive.
func (c *chatty) Chat(stream grpc.BidiStreamingServer[samplev1.GreetRequest, samplev1.GreetResponse]) error {
	if c.panics {
		panic(errors.New("a fault of the handler's"))
	}
	if err := stream.Send(&samplev1.GreetResponse{}); err != nil {
		return err
	}
	_, err := stream.Recv()
	c.returned <- err
	c.cause <- context.Cause(stream.Context())
	return err
}

func serve(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(options...)
	register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := Dial("passthrough:///server",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Starts a stream that is guarded with this Latchkey.
func chat(
	t *testing.T, latchkey *watchedLatchkey, options ...Option,
) (*chatty, grpc.BidiStreamingClient[samplev1.GreetRequest, samplev1.GreetResponse]) {
	t.Helper()
	guard := NewGuard(serve(t, func(server *grpc.Server) {
		latchkeyv1.RegisterAuthServiceServer(server, latchkey)
	}), options...)
	handler := &chatty{returned: make(chan error, 1), cause: make(chan error, 1)}
	conn := serve(t, func(server *grpc.Server) {
		samplev1.RegisterGreeterServiceServer(server, handler)
	}, guard.ServerOptions()...)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer t", "x-forwarded-for", "192.0.2.1")
	stream, err := samplev1.NewGreeterServiceClient(conn).Chat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	return handler, stream
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begun := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 5*time.Second {
			t.Fatalf("not %s", what)
		}
	}
}

func TestAStreamEndsWithTheSessionAndItsHandlerIsTold(t *testing.T) {
	latchkey := newWatched()
	handler, stream := chat(t, latchkey)
	latchkey.end <- replaced()
	_, err := stream.Recv()
	info := expect(t, err, codes.Unauthenticated, "REPLACED")
	if info.Metadata["by_device"] != "iPhone" || info.Metadata["terminal"] != "true" {
		t.Errorf("%v", info)
	}
	expect(t, <-handler.returned, codes.Unauthenticated, "REPLACED")
	expect(t, <-handler.cause, codes.Unauthenticated, "REPLACED")
	if sent := latchkey.headers.Get("x-forwarded-for"); len(sent) != 0 {
		t.Errorf("went to Latchkey, too: %v", sent)
	}
}

func TestAWatchThatBreaksSaysNothingOfTheSession(t *testing.T) {
	latchkey := newWatched()
	_, stream := chat(t, latchkey)
	for range 3 {
		latchkey.breaks <- struct{}{}
	}
	latchkey.end <- replaced()
	_, err := stream.Recv()
	expect(t, err, codes.Unauthenticated, "REPLACED")
	if watched := latchkey.watched.Load(); watched != 4 {
		t.Errorf("watched %d times", watched)
	}
}

func TestASessionThatCannotBeWatchedIsAskedAbout(t *testing.T) {
	for name, options := range map[string][]Option{"by latchkey": nil, "by the guard": {WithMaxWatches(0)}} {
		t.Run(name, func(t *testing.T) {
			latchkey := newWatched()
			latchkey.watchError = status.New(codes.ResourceExhausted, "too many")
			_, stream := chat(t, latchkey, options...)
			eventually(t, "asked twice", func() bool { return latchkey.peeked.Load() >= 2 })
			latchkey.verdict.Store(rejection(replaced()))
			_, err := stream.Recv()
			expect(t, err, codes.Unauthenticated, "REPLACED")
			if watched := latchkey.watched.Load(); (watched == 0) != (options != nil) {
				t.Errorf("watched %d times", watched)
			}
		})
	}
}

func TestAStreamOutlivesAnOutageForAWhile(t *testing.T) {
	latchkey := newWatched()
	latchkey.watchError = status.New(codes.Unavailable, "away")
	latchkey.failure.Store(status.New(codes.PermissionDenied, "no verdict either"))
	begun := time.Now()
	_, stream := chat(t, latchkey, WithOutageGrace(500*time.Millisecond))
	_, err := stream.Recv()
	expect(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
	if took := time.Since(begun); took < 500*time.Millisecond || took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAWatchIsNotTrustedForEver(t *testing.T) {
	hangs := &fakeLatchkey{answer: live()}
	hold := make(chan struct{})
	defer close(hold)
	guard := NewGuard(serve(t, func(server *grpc.Server) {
		latchkeyv1.RegisterAuthServiceServer(server, hangs)
	}, grpc.StreamInterceptor(func(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error {
		<-hold
		return nil
	})))
	guard.watchFor = 50 * time.Millisecond
	watched, rejection, err := guard.watch(context.Background(), "t")
	if watched || rejection != nil || status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v %v %v", watched, rejection, err)
	}
}

func TestStreamsNeedNotBeWatched(t *testing.T) {
	latchkey := newWatched()
	_, stream := chat(t, latchkey, WithoutWatch())
	latchkey.verdict.Store(rejection(replaced()))
	if err := stream.Send(&samplev1.GreetRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || status.Code(err) == codes.Unauthenticated {
		t.Errorf("%v", err)
	}
	if latchkey.watched.Load() != 0 || latchkey.peeked.Load() != 0 {
		t.Error("it is watched")
	}
}

func TestNobodyWatchesOnceTheStreamHasEnded(t *testing.T) {
	latchkey := newWatched()
	guard := NewGuard(serve(t, func(server *grpc.Server) {
		latchkeyv1.RegisterAuthServiceServer(server, latchkey)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- guard.Watch(ctx, "/a.B/C", "t") }()
	eventually(t, "watched", func() bool { return latchkey.watched.Load() == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if open := len(guard.places); open != 0 {
		t.Errorf("%d places are taken", open)
	}
}

func TestAPanicOfAHandlerReachesTheInterceptorsAroundTheGuard(t *testing.T) {
	latchkey := newWatched()
	guard := NewGuard(serve(t, func(server *grpc.Server) {
		latchkeyv1.RegisterAuthServiceServer(server, latchkey)
	}))
	recovers := func(
		service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
	) (err error) {
		defer func() {
			if fault, ok := recover().(error); ok {
				err = status.Error(codes.Internal, errors.Unwrap(fault).Error())
			}
		}()
		return guard.StreamInterceptor(service, stream, info, handler)
	}
	conn := serve(t, func(server *grpc.Server) {
		samplev1.RegisterGreeterServiceServer(server, &chatty{panics: true})
	}, grpc.StreamInterceptor(recovers))
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer t")
	stream, err := samplev1.NewGreeterServiceClient(conn).Chat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if status.Code(err) != codes.Internal || status.Convert(err).Message() != "a fault of the handler's" {
		t.Errorf("%v", err)
	}
}
