// Command connect is a guarded service with connect-go, which serves Connect, gRPC and gRPC-Web.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
	"github.com/latchkey-auth/latchkey/clients/go/latchkeyconnect"
	"github.com/latchkey-auth/latchkey/examples/go/samplev1/samplev1connect"
)

func main() {
	address := cmp.Or(os.Getenv("LATCHKEY_ADDRESS"), "127.0.0.1:50051")
	key := os.Getenv("LATCHKEY_CALLER_KEY")
	role, slot := os.Getenv("LATCHKEY_REQUIRED_ROLE"), os.Getenv("LATCHKEY_REQUIRED_SLOT")

	// guarded from here
	conn, err := latchkey.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	guard := latchkey.NewGuard(conn, latchkey.WithCallerKey(key),
		latchkey.WithOpenMethods("/sample.v1.GreeterService/Begun"))
	guarded := connect.WithInterceptors(latchkeyconnect.NewInterceptor(guard))
	path, handler := samplev1connect.NewGreeterServiceHandler(&greeter{}, guarded)
	// to here

	if role+slot != "" {
		guard = guard.With(latchkey.WithRequiredRole(role), latchkey.WithRequiredSlot(slot))
		guarded = connect.WithInterceptors(latchkeyconnect.NewInterceptor(guard))
		path, handler = samplev1connect.NewGreeterServiceHandler(&greeter{}, guarded)
	}
	mux := http.NewServeMux()
	mux.Handle(path, handler)
	// HTTP/2 without TLS, for gRPC.
	server := &http.Server{Handler: mux, Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listens on %s\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}
