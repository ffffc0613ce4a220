package latchkey_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
)

func dial() *grpc.ClientConn {
	conn, err := latchkey.Dial("latchkey.example:50051", grpc.WithTransportCredentials(credentials.NewTLS(nil)))
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

func ExampleGuard_Handler() {
	guard := latchkey.NewGuard(dial(), latchkey.WithOpenPaths("/healthz"))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /greet", func(w http.ResponseWriter, r *http.Request) {
		caller, _ := latchkey.FromContext(r.Context())
		_, _ = fmt.Fprintln(w, "Hello,", caller.Username)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:3000", guard.Handler(mux)))
}

func ExampleGuard_ServerOptions() {
	guard := latchkey.NewGuard(dial(), latchkey.WithOpenMethods("/grpc.health.v1.Health/Check"))
	server := grpc.NewServer(guard.ServerOptions()...)
	defer server.Stop()
}

func ExampleClient_Login() {
	client := latchkey.NewClient(dial())
	login, err := client.Login(context.Background(), "anna", "correct horse battery staple",
		latchkey.LoginOptions{Device: "Firefox on Linux"})
	var limit *latchkey.SessionLimitError
	switch {
	case errors.Is(err, latchkey.ErrInvalidCredentials):
		fmt.Println("Unknown user or wrong password.")
	case errors.As(err, &limit):
		fmt.Println("You are logged in on", limit.Device)
	case err != nil:
		log.Print(err)
	default:
		fmt.Println("Hello,", login.Identity.Username)
	}
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
