package latchkey

import (
	_ "embed"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// ServiceConfig is the service config of [Dial]: calls take turns over all addresses of the target, and calls that are
// safe to repeat are repeated if Latchkey is unavailable. It is a copy of proto/latchkey/v1/service_config.json.
//
//go:embed service_config.json
var ServiceConfig string

// Dial prepares a connection to Latchkey with keepalives, a short reconnect backoff and [ServiceConfig]. It takes the
// options of [grpc.NewClient], including the transport credentials; they override those of Dial.
func Dial(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	usual := []grpc.DialOption{
		// By default gRPC waits up to two minutes between attempts, and every call fails meanwhile.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithDefaultServiceConfig(ServiceConfig),
		// Detects a peer that has vanished without closing the connection.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	}
	return grpc.NewClient(target, append(usual, options...)...)
}
