// Command sample is a guarded server: the sample of README.md, which the scenarios of all clients call.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
	"github.com/latchkey-auth/latchkey/clients/go/internal/sample/samplev1"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	address, key := os.Getenv("LATCHKEY_ADDRESS"), os.Getenv("LATCHKEY_CALLER_KEY")

	// guarded from here
	plaintext := grpc.WithTransportCredentials(insecure.NewCredentials())
	conn, err := latchkey.Dial(address, plaintext)
	if err != nil {
		log.Fatal(err)
	}
	guard := latchkey.NewGuard(conn, latchkey.WithCallerKey(key),
		latchkey.WithOpenMethods("/sample.v1.GreeterService/Begun"))
	server := grpc.NewServer(guard.ServerOptions()...)
	// to here

	if role, slot := os.Getenv("LATCHKEY_REQUIRED_ROLE"), os.Getenv("LATCHKEY_REQUIRED_SLOT"); role+slot != "" {
		required := latchkey.NewGuard(conn, latchkey.WithCallerKey(key), latchkey.WithRequiredRole(role),
			latchkey.WithRequiredSlot(slot), latchkey.WithOpenMethods("/sample.v1.GreeterService/Begun"))
		server = grpc.NewServer(required.ServerOptions()...)
	}

	samplev1.RegisterGreeterServiceServer(server, &greeter{})
	fmt.Printf("listens on %s\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}

type greeter struct {
	samplev1.UnimplementedGreeterServiceServer
	begun   atomic.Uint32
	running atomic.Int32
}

// Counts a running stream handler. The returned function ends it.
func (g *greeter) begin() func() {
	g.begun.Add(1)
	g.running.Add(1)
	return func() { g.running.Add(-1) }
}

func (g *greeter) Greet(ctx context.Context, request *samplev1.GreetRequest) (*samplev1.GreetResponse, error) {
	g.begun.Add(1)
	return answer(ctx, request), nil
}

func (g *greeter) GreetAll(stream grpc.ClientStreamingServer[samplev1.GreetRequest, samplev1.GreetResponse]) error {
	defer g.begin()()
	var last *samplev1.GreetRequest
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(answer(stream.Context(), last))
		}
		if err != nil {
			return err
		}
		last = request
	}
}

func (g *greeter) GreetOften(
	request *samplev1.GreetRequest, stream grpc.ServerStreamingServer[samplev1.GreetResponse],
) error {
	g.begun.Add(1)
	for range 3 {
		if err := stream.Send(answer(stream.Context(), request)); err != nil {
			return err
		}
	}
	return nil
}

func (g *greeter) Chat(stream grpc.BidiStreamingServer[samplev1.GreetRequest, samplev1.GreetResponse]) error {
	defer g.begin()()
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(answer(stream.Context(), request)); err != nil {
			return err
		}
	}
}

func (g *greeter) GreetOn(
	request *samplev1.GreetRequest, stream grpc.ServerStreamingServer[samplev1.GreetResponse],
) error {
	defer g.begin()()
	for {
		if err := stream.Send(answer(stream.Context(), request)); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (g *greeter) Begun(context.Context, *samplev1.BegunRequest) (*samplev1.BegunResponse, error) {
	return &samplev1.BegunResponse{Count: g.begun.Load(), Running: uint32(g.running.Load())}, nil
}

func answer(ctx context.Context, request *samplev1.GreetRequest) *samplev1.GreetResponse {
	caller, ok := latchkey.FromContext(ctx)
	if !ok {
		return &samplev1.GreetResponse{}
	}
	return &samplev1.GreetResponse{
		Text: fmt.Sprintf("%s, %s", request.GetGreeting(), caller.Username),
		Identity: &samplev1.Identity{
			UserId: caller.UserID, Username: caller.Username, SessionId: caller.SessionID,
			Slot: caller.Slot, Device: caller.Device, Roles: caller.Roles,
			IssuedAtUnix: caller.IssuedAt.Unix(), ExpiresAtUnix: caller.ExpiresAt.Unix(),
		},
	}
}
