package main

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
	pb "github.com/latchkey-auth/latchkey/examples/go/samplev1"
)

type greeter struct{ begun, running atomic.Int32 }

// Counts a running stream handler. The returned function ends it.
func (g *greeter) begin() func() {
	g.begun.Add(1)
	g.running.Add(1)
	return func() { g.running.Add(-1) }
}

func (g *greeter) Greet(
	ctx context.Context, request *connect.Request[pb.GreetRequest],
) (*connect.Response[pb.GreetResponse], error) {
	g.begun.Add(1)
	return connect.NewResponse(answer(ctx, request.Msg)), nil
}

func (g *greeter) GreetAll(
	ctx context.Context, stream *connect.ClientStream[pb.GreetRequest],
) (*connect.Response[pb.GreetResponse], error) {
	defer g.begin()()
	last := &pb.GreetRequest{}
	for stream.Receive() {
		last.Greeting = stream.Msg().Greeting
	}
	return connect.NewResponse(answer(ctx, last)), stream.Err()
}

func (g *greeter) GreetOften(
	ctx context.Context, request *connect.Request[pb.GreetRequest], stream *connect.ServerStream[pb.GreetResponse],
) error {
	g.begun.Add(1)
	for range 3 {
		if err := stream.Send(answer(ctx, request.Msg)); err != nil {
			return err
		}
	}
	return nil
}

func (g *greeter) Chat(ctx context.Context, stream *connect.BidiStream[pb.GreetRequest, pb.GreetResponse]) error {
	defer g.begin()()
	for {
		request, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(answer(ctx, request)); err != nil {
			return err
		}
	}
}

func (g *greeter) GreetOn(
	ctx context.Context, request *connect.Request[pb.GreetRequest], stream *connect.ServerStream[pb.GreetResponse],
) error {
	defer g.begin()()
	for {
		if err := stream.Send(answer(ctx, request.Msg)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (g *greeter) Begun(
	context.Context, *connect.Request[pb.BegunRequest],
) (*connect.Response[pb.BegunResponse], error) {
	return connect.NewResponse(&pb.BegunResponse{Count: uint32(g.begun.Load()), Running: uint32(g.running.Load())}), nil
}

func answer(ctx context.Context, request *pb.GreetRequest) *pb.GreetResponse {
	caller, ok := latchkey.FromContext(ctx)
	if !ok {
		return &pb.GreetResponse{}
	}
	return &pb.GreetResponse{Text: request.GetGreeting() + ", " + caller.Username, Identity: &pb.Identity{
		UserId: caller.UserID, Username: caller.Username, SessionId: caller.SessionID,
		Slot: caller.Slot, Device: caller.Device, Roles: caller.Roles,
		IssuedAtUnix: caller.IssuedAt.Unix(), ExpiresAtUnix: caller.ExpiresAt.Unix(),
	}}
}
