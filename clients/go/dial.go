package latchkey

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// Dial prepares a connection to Latchkey that finds out soon that Latchkey is gone, and soon that it is back. It
// takes the options of [grpc.NewClient], the transport's credentials among them, and what they say counts.
func Dial(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	usual := []grpc.DialOption{
		// gRPC would wait up to two minutes between attempts, and every call fails meanwhile.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		// A peer that has vanished without a word is otherwise asked again and again.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	}
	return grpc.NewClient(target, append(usual, options...)...)
}
