package latchkey_test

import (
	"context"
	"fmt"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
)

func Example() {
	conn, err := latchkey.Dial("latchkey.example:50051",
		grpc.WithTransportCredentials(credentials.NewTLS(nil)))
	if err != nil {
		log.Fatal(err)
	}
	guard := latchkey.NewGuard(conn, latchkey.WithOpenMethods("/grpc.health.v1.Health/Check"))
	server := grpc.NewServer(guard.ServerOptions()...)
	defer server.Stop()
}

func ExampleFromContext() {
	greet := func(ctx context.Context) string {
		caller, ok := latchkey.FromContext(ctx)
		if !ok {
			return "Hello"
		}
		return "Hello, " + caller.Username
	}
	fmt.Println(greet(context.Background()))
	// Output: Hello
}
