package latchkeyconnect

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
	"github.com/latchkey-auth/latchkey/clients/go/internal/sample/samplev1"
	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// These tests cover what the scenarios do not: the protocols of Connect, handlers that misbehave, and races.

type fakeLatchkey struct {
	latchkeyv1.UnimplementedAuthServiceServer
	end  chan struct{}
	down atomic.Bool
}

func (f *fakeLatchkey) Validate(context.Context, *latchkeyv1.ValidateRequest) (*latchkeyv1.ValidateResponse, error) {
	if f.down.Load() {
		return nil, status.Error(codes.Internal, "told to the guard alone")
	}
	session := &latchkeyv1.Session{Username: "anna", Roles: []string{"staff"}}
	return &latchkeyv1.ValidateResponse{Verdict: &latchkeyv1.ValidateResponse_Session{Session: session}}, nil
}

func (f *fakeLatchkey) WatchSession(
	_ *latchkeyv1.WatchSessionRequest, told grpc.ServerStreamingServer[latchkeyv1.WatchSessionResponse],
) error {
	select {
	case <-told.Context().Done():
		return nil
	case <-f.end:
		return told.Send(&latchkeyv1.WatchSessionResponse{Verdict: &latchkeyv1.WatchSessionResponse_Rejection{
			Rejection: &latchkeyv1.Rejection{
				Reason:  latchkeyv1.RejectionReason_REJECTION_REASON_REPLACED,
				Message: "You were replaced.", ByDevice: "iPhone", Terminal: true,
			},
		}})
	}
}

func newGuard(t *testing.T, fake *fakeLatchkey, options ...latchkey.Option) *latchkey.Guard {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	latchkeyv1.RegisterAuthServiceServer(server, fake)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := latchkey.Dial(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return latchkey.NewGuard(conn, options...)
}

const (
	greet = "/sample.v1.GreeterService/Greet"
	chat  = "/sample.v1.GreeterService/Chat"
)

type (
	request  = samplev1.GreetRequest
	response = samplev1.GreetResponse
	bidi     = *connect.BidiStream[request, response]
)

// Serves Greet and Chat behind the guard, over HTTP/2 without TLS and HTTP/1.1.
func serve(
	t *testing.T, guard *latchkey.Guard, handler func(context.Context, bidi) error, options ...connect.HandlerOption,
) string {
	t.Helper()
	options = append(options, connect.WithInterceptors(NewInterceptor(guard)))
	mux := http.NewServeMux()
	mux.Handle(greet, connect.NewUnaryHandler(greet,
		func(ctx context.Context, r *connect.Request[request]) (*connect.Response[response], error) {
			text := r.Msg.GetGreeting()
			if caller, ok := latchkey.FromContext(ctx); ok {
				text += ", " + caller.Username
			}
			return connect.NewResponse(&response{Text: text}), nil
		}, options...))
	mux.Handle(chat, connect.NewBidiStreamHandler(chat, handler, options...))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

func http2() *http.Client {
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

var protocols = map[string]connect.ClientOption{
	"connect": connect.WithProtoJSON(), "grpc": connect.WithGRPC(), "grpc-web": connect.WithGRPCWeb(),
}

// Checks the code and the reason of an error, and returns its metadata.
func expect(t *testing.T, err error, code connect.Code, reason string) map[string]string {
	t.Helper()
	var failed *connect.Error
	if errors.As(err, &failed) && failed.Code() == code {
		for _, detail := range failed.Details() {
			value, err := detail.Value()
			if info, ok := value.(*errdetails.ErrorInfo); err == nil && ok && info.GetReason() == reason {
				return info.GetMetadata()
			}
		}
	}
	t.Fatalf("not %v %s: %v", code, reason, err)
	return nil
}

func TestUnaryCallsAreGuardedInEveryProtocol(t *testing.T) {
	fake := &fakeLatchkey{}
	guard := newGuard(t, fake)
	url := serve(t, guard, nil)
	strict := serve(t, guard.With(latchkey.WithRequiredRole("admin")), nil)
	open := serve(t, guard.With(latchkey.WithOpenMethods(greet)), nil)
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			call := func(url, authorization string) (string, error) {
				client := connect.NewClient[request, response](http2(), url+greet, protocol)
				message := connect.NewRequest(&request{Greeting: "Hello"})
				if authorization != "" {
					message.Header().Set("authorization", authorization)
				}
				answer, err := client.CallUnary(t.Context(), message)
				if err != nil {
					return "", err
				}
				return answer.Msg.GetText(), nil
			}
			if text, err := call(url, "Bearer t"); err != nil || text != "Hello, anna" {
				t.Errorf("%s %v", text, err)
			}
			if text, err := call(open, ""); err != nil || text != "Hello" {
				t.Errorf("%s %v", text, err)
			}
			_, err := call(url, "")
			expect(t, err, connect.CodeUnauthenticated, "TOKEN_REQUIRED")
			_, err = call(url, "Basic x")
			expect(t, err, connect.CodeUnauthenticated, "MALFORMED")
			_, err = call(strict, "Bearer t")
			if about := expect(t, err, connect.CodePermissionDenied, "ROLE_REQUIRED"); about["role"] != "admin" {
				t.Errorf("%v", about)
			}
			fake.down.Store(true)
			defer fake.down.Store(false)
			_, err = call(url, "Bearer t")
			expect(t, err, connect.CodeUnavailable, "STORE_UNAVAILABLE")
			if strings.Contains(err.Error(), "alone") {
				t.Error(err)
			}
		})
	}
}

func openChat(t *testing.T, url string, protocol connect.ClientOption) *connect.BidiStreamForClient[request, response] {
	t.Helper()
	stream := connect.NewClient[request, response](http2(), url+chat, protocol).CallBidiStream(t.Context())
	stream.RequestHeader().Set("authorization", "Bearer t")
	// A handler that has ended already is reported as io.EOF; Receive returns its error.
	if err := stream.Send(&request{}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return stream
}

func TestAStreamEndsAlthoughItsHandlerGoesOn(t *testing.T) {
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			fake := &fakeLatchkey{end: make(chan struct{})}
			var sent atomic.Int64
			returned, cause := make(chan error, 1), make(chan error, 1)
			url := serve(t, newGuard(t, fake), func(ctx context.Context, stream bidi) error {
				go func() {
					_, err := stream.Receive()
					for err == nil {
						_, err = stream.Receive()
					}
					cause <- context.Cause(ctx)
				}()
				// It sends and sets headers for as long as it can, and ignores its context.
				for {
					stream.ResponseHeader().Add("x-count", "1")
					stream.ResponseTrailer().Add("x-count", "1")
					if err := stream.Send(&response{}); err != nil {
						for range 1000 {
							stream.ResponseTrailer().Add("x-late", "1")
						}
						returned <- err
						return err
					}
					sent.Add(1)
				}
			})
			stream := openChat(t, url, protocol)
			for range 3 {
				if _, err := stream.Receive(); err != nil {
					t.Fatal(err)
				}
			}
			close(fake.end)
			var err error
			for err == nil {
				_, err = stream.Receive()
			}
			about := expect(t, err, connect.CodeUnauthenticated, "REPLACED")
			if about["by_device"] != "iPhone" || about["terminal"] != "true" {
				t.Errorf("%v", about)
			}
			expect(t, <-returned, connect.CodeUnauthenticated, "REPLACED")
			expect(t, <-cause, connect.CodeUnauthenticated, "REPLACED")
		})
	}
}

func TestASilentStreamEndsAtOnce(t *testing.T) {
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			fake := &fakeLatchkey{end: make(chan struct{})}
			running := make(chan struct{})
			url := serve(t, newGuard(t, fake), func(_ context.Context, stream bidi) error {
				_, _ = stream.Receive()
				close(running)
				_, err := stream.Receive()
				return err
			})
			stream := openChat(t, url, protocol)
			<-running
			close(fake.end)
			_, err := stream.Receive()
			expect(t, err, connect.CodeUnauthenticated, "REPLACED")
		})
	}
}

func TestAStreamKeepsItsHeadersAndItsError(t *testing.T) {
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			url := serve(t, newGuard(t, &fakeLatchkey{}), func(_ context.Context, stream bidi) error {
				stream.ResponseHeader().Set("x-header", "a")
				if err := stream.Send(&response{Text: "Hello"}); err != nil {
					return err
				}
				stream.ResponseTrailer().Set("x-trailer", "b")
				return connect.NewError(connect.CodeAborted, errors.New("enough"))
			})
			stream := openChat(t, url, protocol)
			answer, err := stream.Receive()
			if err != nil || answer.GetText() != "Hello" || stream.ResponseHeader().Get("x-header") != "a" {
				t.Errorf("%v %v %v", answer, err, stream.ResponseHeader())
			}
			_, err = stream.Receive()
			if connect.CodeOf(err) != connect.CodeAborted || stream.ResponseTrailer().Get("x-trailer") != "b" {
				t.Errorf("%v %v", err, stream.ResponseTrailer())
			}
		})
	}
}

func TestAPanicOfAHandlerReachesTheRecovery(t *testing.T) {
	fault := errors.New("a fault of the handler's")
	recovered := connect.WithRecover(func(_ context.Context, _ connect.Spec, _ http.Header, value any) error {
		if err, ok := value.(error); ok && errors.Is(err, fault) {
			return connect.NewError(connect.CodeDataLoss, fault)
		}
		return errors.New("another fault")
	})
	url := serve(t, newGuard(t, &fakeLatchkey{}), func(context.Context, bidi) error { panic(fault) }, recovered)
	_, err := openChat(t, url, connect.WithGRPC()).Receive()
	if connect.CodeOf(err) != connect.CodeDataLoss {
		t.Errorf("%v", err)
	}
}
