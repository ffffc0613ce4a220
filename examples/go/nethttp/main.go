// Command nethttp is a guarded service with net/http.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
)

func main() {
	address, key := cmp.Or(os.Getenv("LATCHKEY_ADDRESS"), "127.0.0.1:50051"), os.Getenv("LATCHKEY_CALLER_KEY")

	// guarded from here
	conn, err := latchkey.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	guard := latchkey.NewGuard(conn, latchkey.WithCallerKey(key), latchkey.WithOpenPaths("/begun"))
	mux := http.NewServeMux()
	server := &http.Server{Handler: guard.Handler(mux)}
	// to here

	role, slot := os.Getenv("LATCHKEY_REQUIRED_ROLE"), os.Getenv("LATCHKEY_REQUIRED_SLOT")
	server.Handler = guard.With(latchkey.WithRequiredRole(role), latchkey.WithRequiredSlot(slot)).Handler(mux)
	var begun atomic.Int64
	mux.HandleFunc("GET /greet", func(w http.ResponseWriter, r *http.Request) {
		begun.Add(1)
		caller, _ := latchkey.FromContext(r.Context())
		answer(w, map[string]any{"text": "Hello, " + caller.Username, "identity": map[string]any{
			"user_id": caller.UserID, "username": caller.Username, "session_id": caller.SessionID,
			"slot": caller.Slot, "device": caller.Device, "roles": caller.Roles,
			"issued_at_unix": caller.IssuedAt.Unix(), "expires_at_unix": caller.ExpiresAt.Unix(),
		}})
	})
	mux.HandleFunc("GET /begun", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"count": begun.Load()})
	})
	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listens on %s\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}
