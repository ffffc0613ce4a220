// A peer of `make peers`: the Validate of Latchkey as a Go service with grpc-go, golang-jwt and go-redis. The newest
// token of a user is in Redis under the user's id, and each use slides its time to live.
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	latchkey "github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

const idleTimeout = time.Hour

type claims struct {
	jwt.RegisteredClaims
	Name   string   `json:"name"`
	Device string   `json:"device"`
	Slot   string   `json:"slot"`
	Roles  []string `json:"roles"`
}

type server struct {
	latchkey.UnimplementedAuthServiceServer
	redis  *redis.Client
	parser *jwt.Parser
	key    any
}

func (s *server) Validate(ctx context.Context, request *latchkey.ValidateRequest) (*latchkey.ValidateResponse, error) {
	var claims claims
	if _, err := s.parser.ParseWithClaims(request.Token, &claims, s.keyOf); err != nil {
		return rejection(latchkey.RejectionReason_REJECTION_REASON_BAD_SIGNATURE), nil
	}
	newest, err := s.redis.GetEx(ctx, "peer:"+claims.Subject, idleTimeout).Result()
	if errors.Is(err, redis.Nil) {
		return rejection(latchkey.RejectionReason_REJECTION_REASON_IDLE_TIMEOUT), nil
	}
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	if newest != request.Token {
		return rejection(latchkey.RejectionReason_REJECTION_REASON_REPLACED), nil
	}
	return &latchkey.ValidateResponse{Verdict: &latchkey.ValidateResponse_Session{Session: &latchkey.Session{
		SessionId:     claims.ID,
		UserId:        claims.Subject,
		Username:      claims.Name,
		Slot:          claims.Slot,
		Device:        claims.Device,
		Roles:         claims.Roles,
		IssuedAt:      timestamppb.New(claims.IssuedAt.Time),
		ExpiresAt:     timestamppb.New(claims.ExpiresAt.Time),
		IdleExpiresAt: timestamppb.New(time.Now().Add(idleTimeout)),
	}}}, nil
}

func (s *server) keyOf(*jwt.Token) (any, error) { return s.key, nil }

func rejection(reason latchkey.RejectionReason) *latchkey.ValidateResponse {
	return &latchkey.ValidateResponse{
		Verdict: &latchkey.ValidateResponse_Rejection{Rejection: &latchkey.Rejection{Reason: reason}},
	}
}

func run() error {
	algorithm := os.Getenv("PEER_ALGORITHM")
	bytes, err := base64.StdEncoding.DecodeString(os.Getenv("PEER_KEY"))
	if err != nil {
		return err
	}
	var key any = bytes
	if algorithm == "EdDSA" {
		key = ed25519.PublicKey(bytes)
	}
	options, err := redis.ParseURL(os.Getenv("PEER_REDIS_URL"))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	grpcServer := grpc.NewServer()
	latchkey.RegisterAuthServiceServer(grpcServer, &server{
		redis: redis.NewClient(options),
		key:   key,
		parser: jwt.NewParser(jwt.WithValidMethods([]string{algorithm}), jwt.WithExpirationRequired(),
			jwt.WithIssuer("latchkey"), jwt.WithAudience("latchkey")),
	})
	fmt.Println("the Go twin listens on", listener.Addr())
	return grpcServer.Serve(listener)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
