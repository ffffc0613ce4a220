package latchkey

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"google.golang.org/grpc"
)

// StreamInterceptor guards methods that stream. They are checked when they begin, and end when the caller's session
// does: the context of the handler is cancelled, its stream fails, and the client is told why at once, whether the
// handler has returned or not.
func (g *Guard) StreamInterceptor(
	service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
) error {
	ctx, token, err := g.check(stream.Context(), info.FullMethod)
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
		if why := g.untilEnd(ctx, info.FullMethod, token); why != nil {
			watched.why.Store(&why)
			ended <- why
			cancel(why)
		}
	}()
	// In a goroutine of its own: what it waits for on the stream ends only when the call does, and the call ends
	// when this function returns.
	returned := make(chan outcome, 1)
	go func() { returned <- run(func() error { return handler(service, watched) }) }()

	select {
	case why := <-ended:
		return why
	case outcome := <-returned:
		if outcome.panicked != nil {
			panic(outcome.panicked)
		}
		if why := watched.ended(); why != nil {
			return why
		}
		return outcome.err
	}
}

// A stream whose context knows the caller.
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

// Why the session has ended, if it has.
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

// The end of the session, too, reaches who waits on the stream as an error of the stream: say which it is.
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

// How a handler returned.
type outcome struct {
	err      error
	panicked *panicked
}

// A panic of a handler, for interceptors around the guard that recover from panics.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

func (p *panicked) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

func run(handler func() error) (result outcome) {
	defer func() {
		if value := recover(); value != nil {
			result.panicked = &panicked{value, debug.Stack()}
		}
	}()
	result.err = handler()
	return result
}
