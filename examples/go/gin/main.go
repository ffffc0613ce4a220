// Command gin is a guarded service with gin.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/gin-gonic/gin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
)

func main() {
	address := cmp.Or(os.Getenv("LATCHKEY_ADDRESS"), "127.0.0.1:50051")
	conn, err := latchkey.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	guard := latchkey.NewGuard(conn, latchkey.WithCallerKey(os.Getenv("LATCHKEY_CALLER_KEY")),
		latchkey.WithRequiredRole(os.Getenv("LATCHKEY_REQUIRED_ROLE")),
		latchkey.WithRequiredSlot(os.Getenv("LATCHKEY_REQUIRED_SLOT")))

	var begun atomic.Int64
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.GET("/begun", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"count": begun.Load()}) })
	router.GET("/greet", guarded(guard), func(c *gin.Context) {
		begun.Add(1)
		caller, _ := latchkey.FromContext(c.Request.Context())
		c.JSON(http.StatusOK, gin.H{"text": "Hello, " + caller.Username, "identity": gin.H{
			"user_id": caller.UserID, "username": caller.Username, "session_id": caller.SessionID,
			"slot": caller.Slot, "device": caller.Device, "roles": caller.Roles,
			"issued_at_unix": caller.IssuedAt.Unix(), "expires_at_unix": caller.ExpiresAt.Unix()}})
	})
	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listens on %s\n", listener.Addr())
	log.Fatal(router.RunListener(listener))
}

func guarded(guard *latchkey.Guard) gin.HandlerFunc {
	return func(c *gin.Context) {
		if request, err := guard.CheckRequest(c.Request); err != nil {
			latchkey.WriteError(c.Writer, err)
			c.Abort()
		} else {
			c.Request = request
		}
	}
}
