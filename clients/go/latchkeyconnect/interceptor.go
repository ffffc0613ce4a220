// Package latchkeyconnect guards the handlers of connect-go with Latchkey, the authentication service in which the latest
// login wins.
//
// Handlers serve the protocols Connect, gRPC and gRPC-Web, and all of them get the same answers as from a guarded gRPC
// server. It is a module of its own, so that services without Connect do not depend on connect-go.
package latchkeyconnect

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
	"github.com/latchkey-auth/latchkey/clients/go/internal/detached"
)

// NewInterceptor returns an interceptor for handlers that accepts only calls whose token has a live session. The handler
// gets the identity of the caller from its context ([latchkey.FromContext]). Put it before other interceptors, so that
// they do not run for denied calls. It does not change the calls of clients.
//
// When the session of a stream ends, the context of its handler is cancelled with the denial as [context.Cause], its
// stream fails, and the client gets the denial at once, whether the handler has returned or not. Over HTTP/1.1, a stream
// of a client that is silent ends with the next message of the client.
func NewInterceptor(guard *latchkey.Guard) connect.Interceptor { return interceptor{guard} }

type interceptor struct{ guard *latchkey.Guard }

func (i interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (i interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		if request.Spec().IsClient {
			return next(ctx, request)
		}
		ctx, _, err := i.guard.Check(ctx, request.Spec().Procedure, request.Header().Values("authorization"))
		if err != nil {
			return nil, Error(err)
		}
		return next(ctx, request)
	}
}

func (i interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, stream connect.StreamingHandlerConn) error {
		procedure := stream.Spec().Procedure
		ctx, token, err := i.guard.Check(ctx, procedure, stream.RequestHeader().Values("authorization"))
		if err != nil {
			return Error(err)
		}
		if token == "" {
			return next(ctx, stream)
		}

		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watched := &watchedStream{
			StreamingHandlerConn: stream,
			header:               stream.ResponseHeader().Clone(),
			trailer:              stream.ResponseTrailer().Clone(),
		}
		ended := make(chan error, 1)
		go func() {
			if why := i.guard.Watch(ctx, procedure, token); why != nil {
				ended <- Error(why)
			}
		}()
		// In a goroutine of its own, because operations on the stream block.
		returned := detached.Run(func() error { return next(ctx, watched) })

		select {
		case why := <-ended:
			cancel(why)
			watched.end(why)
			return why
		case outcome := <-returned:
			if outcome.Panicked != nil {
				panic(outcome.Panicked)
			}
			watched.end(nil)
			return outcome.Err
		}
	}
}

// Error returns the error of a guard as one of Connect, with the same code, message and details.
func Error(err error) *connect.Error {
	answer := status.Convert(err)
	failed := connect.NewError(connect.Code(answer.Code()), errors.New(answer.Message()))
	for _, detail := range answer.Details() {
		if message, ok := detail.(proto.Message); ok {
			if detail, err := connect.NewErrorDetail(message); err == nil {
				failed.AddDetail(detail)
			}
		}
	}
	return failed
}

// A stream that fails once the session has ended. Then connect-go uses the connection itself, so the handler, which may
// still run, must no longer touch it: messages are sent under a lock, and headers are its own until then.
type watchedStream struct {
	connect.StreamingHandlerConn
	header, trailer http.Header

	mutex sync.Mutex
	over  bool
	why   error
}

func (s *watchedStream) ResponseHeader() http.Header  { return s.header }
func (s *watchedStream) ResponseTrailer() http.Header { return s.trailer }

// Ends the use of the stream. Without a reason, the handler has returned, and what it has set is passed on.
func (s *watchedStream) end(why error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if why == nil {
		s.passOn()
	}
	s.over, s.why = true, why
}

func (s *watchedStream) passOn() {
	replace(s.StreamingHandlerConn.ResponseHeader(), s.header)
	replace(s.StreamingHandlerConn.ResponseTrailer(), s.trailer)
}

func replace(values, by http.Header) {
	clear(values)
	maps.Copy(values, by)
}

func (s *watchedStream) Send(message any) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err := s.ended(); err != nil {
		return err
	}
	s.passOn()
	return s.StreamingHandlerConn.Send(message)
}

// Messages are received without the lock, because a silent client would hold it.
func (s *watchedStream) Receive(message any) error {
	if err := s.locked(); err != nil {
		return err
	}
	err := s.StreamingHandlerConn.Receive(message)
	if why := s.locked(); why != nil && err != nil {
		return why
	}
	return err
}

func (s *watchedStream) locked() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.ended()
}

func (s *watchedStream) ended() error {
	switch {
	case s.why != nil:
		return s.why
	case s.over:
		return connect.NewError(connect.CodeCanceled, errors.New("the call has ended"))
	}
	return nil
}
