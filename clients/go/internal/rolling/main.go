// Command rolling validates tokens over all replicas of Latchkey until it is interrupted, and prints what failed. A test
// of Latchkey restarts the replicas meanwhile.
//
//	rolling retry|once HOST:PORT,HOST:PORT < TOKENS
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	latchkey "github.com/latchkey-auth/latchkey/clients/go"
	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

const (
	workers = 16
	pause   = 4 * time.Millisecond
	timeout = 5 * time.Second
	// Balances like the usual service config, but repeats nothing.
	once = `{"loadBalancingConfig": [{"round_robin": {}}]}`
)

type tally struct {
	sync.Mutex
	Validates int            `json:"validates"`
	SlowestMs int64          `json:"slowest_ms"`
	Failures  map[string]int `json:"failures"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	mode, addresses := os.Args[1], strings.Split(os.Args[2], ",")
	var tokens []string
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		tokens = append(tokens, lines.Text())
	}

	// As a DNS name with an address for each replica.
	replicas := manual.NewBuilderWithScheme("replicas")
	var state resolver.State
	for _, address := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	replicas.InitialState(state)
	options := []grpc.DialOption{grpc.WithResolvers(replicas), grpc.WithTransportCredentials(insecure.NewCredentials())}
	if mode == "once" {
		options = append(options, grpc.WithDefaultServiceConfig(once))
	}
	conn, err := latchkey.Dial("replicas:///latchkey", options...)
	if err != nil {
		log.Fatal(err)
	}
	auth := latchkeyv1.NewAuthServiceClient(conn)

	result := tally{Failures: map[string]int{}}
	var running sync.WaitGroup
	for worker := range workers {
		running.Add(1)
		go func() {
			defer running.Done()
			for number := worker; ctx.Err() == nil; number++ {
				result.validate(auth, tokens[number%len(tokens)])
				time.Sleep(pause)
			}
		}()
	}
	fmt.Println("ready")
	running.Wait()
	line, err := json.Marshal(&result)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

func (t *tally) validate(auth latchkeyv1.AuthServiceClient, token string) {
	// Not the context of the program: calls in progress finish.
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	begun := time.Now()
	answer, err := auth.Validate(ctx, &latchkeyv1.ValidateRequest{Token: token})
	took := time.Since(begun).Milliseconds()
	t.Lock()
	defer t.Unlock()
	t.Validates++
	t.SlowestMs = max(t.SlowestMs, took)
	switch {
	case err != nil:
		t.Failures[status.Code(err).String()+": "+status.Convert(err).Message()]++
	case answer.GetSession() == nil:
		t.Failures["rejected: "+answer.GetRejection().GetReason().String()]++
	}
}
