package latchkey

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/latchkey-auth/latchkey/clients/go/internal/detached"
)

// StreamInterceptor guards streaming methods of a gRPC server. A stream is validated when it begins, and ends when the
// session of the caller ends: the context of the handler is cancelled, its stream fails, and the client gets the status
// at once, whether the handler has returned or not.
func (g *Guard) StreamInterceptor(
	service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
) error {
	ctx, token, err := g.Check(stream.Context(), info.FullMethod,
		metadata.ValueFromIncomingContext(stream.Context(), "authorization"))
	if err != nil {
		return err
	}
	if token == "" || g.unwatched {
		return handler(service, &identified{stream, ctx})
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := &watchedStream{identified: identified{stream, ctx}}
	ended := make(chan error, 1)
	go func() {
		if why := g.Watch(ctx, info.FullMethod, token); why != nil {
			watched.why.Store(&why)
			ended <- why
			cancel(why)
		}
	}()
	// In a goroutine of its own: operations on the stream block until the call ends, and the call ends when this
	// function returns.
	returned := detached.Run(func() error { return handler(service, watched) })

	select {
	case why := <-ended:
		return why
	case outcome := <-returned:
		if outcome.Panicked != nil {
			panic(outcome.Panicked)
		}
		if why := watched.ended(); why != nil {
			return why
		}
		return outcome.Err
	}
}

// A stream whose context has the identity of the caller.
type identified struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *identified) Context() context.Context { return s.ctx }

// A stream that fails once the session has ended.
type watchedStream struct {
	identified
	why atomic.Pointer[error]
}

// Returns why the session has ended, or nil.
func (s *watchedStream) ended() error {
	if why := s.why.Load(); why != nil {
		return *why
	}
	return nil
}

func (s *watchedStream) RecvMsg(message any) error {
	return s.unlessEnded(func() error { return s.ServerStream.RecvMsg(message) })
}

func (s *watchedStream) SendMsg(message any) error {
	return s.unlessEnded(func() error { return s.ServerStream.SendMsg(message) })
}

// The end of the session makes operations on the stream fail. Returns the denial instead of the error of the stream.
func (s *watchedStream) unlessEnded(do func() error) error {
	if why := s.ended(); why != nil {
		return why
	}
	err := do()
	if why := s.ended(); why != nil && err != nil {
		return why
	}
	return err
}
