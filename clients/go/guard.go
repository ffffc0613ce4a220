package latchkey

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// Guard accepts only calls whose token has a live session. It guards gRPC servers ([Guard.ServerOptions]), HTTP handlers
// ([Guard.Handler]) and, with the package latchkeyconnect, the handlers of connect-go.
type Guard struct {
	latchkey    latchkeyv1.AuthServiceClient
	timeout     time.Duration
	validations []ValidateOption
	callerKey   string
	open        map[string]bool
	role        string
	slot        string
	logger      *slog.Logger
	unwatched   bool
	watchFor    time.Duration
	outageGrace time.Duration
	places      chan struct{}
	tellOnce    *sync.Once
}

// NewGuard creates a guard that uses this connection to Latchkey, see [Dial]. The connection stays open when the guard is
// no longer used.
func NewGuard(latchkey grpc.ClientConnInterface, options ...Option) *Guard {
	guard := &Guard{
		latchkey: latchkeyv1.NewAuthServiceClient(latchkey),
		timeout:  time.Second,
		open:     map[string]bool{},
		logger:   slog.Default(),

		watchFor:    watchFor,
		outageGrace: outageGrace,
		places:      make(chan struct{}, maxWatches),
		tellOnce:    &sync.Once{},
	}
	for _, option := range options {
		option.applyGuard(guard)
	}
	return guard
}

// With returns a guard with further options, for example with a required role for some of the routes.
func (g *Guard) With(options ...Option) *Guard {
	guard := *g
	guard.open = maps.Clone(g.open)
	guard.validations = slices.Clip(g.validations)
	for _, option := range options {
		option.applyGuard(&guard)
	}
	return &guard
}

// String does not show the caller key.
func (g *Guard) String() string { return "latchkey.Guard" }

// GoString does not show the caller key.
func (g *Guard) GoString() string { return "latchkey.Guard" }

// ServerOptions returns options that guard all methods of a gRPC server, including streams.
func (g *Guard) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(g.UnaryInterceptor),
		grpc.ChainStreamInterceptor(g.StreamInterceptor),
	}
}

// UnaryInterceptor guards unary methods of a gRPC server.
func (g *Guard) UnaryInterceptor(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	ctx, _, err := g.Check(ctx, info.FullMethod, metadata.ValueFromIncomingContext(ctx, "authorization"))
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// Check decides about a request to a path or to the full name of a method, with these values of `authorization`. It is
// for transports that have no guard in this module.
//
// It returns the context for the handler, which has the identity of the caller ([FromContext]), and the token, for
// [Guard.Watch]. If the path is open, there is no identity and the token is empty. The error is a [*RejectedError], or an
// [*UnavailableError] if there is no verdict.
func (g *Guard) Check(ctx context.Context, path string, authorization []string) (context.Context, string, error) {
	if g.open[path] {
		return ctx, "", nil
	}
	token, denial := bearer(authorization)
	if denial != nil {
		return nil, "", denial
	}
	answer, err := g.validate(ctx, token)
	if err != nil {
		// If the caller has disconnected, this is not an outage.
		if ctx.Err() == nil {
			g.logger.WarnContext(ctx, "got no verdict from latchkey", "path", path, "error", err)
		}
		return nil, "", unavailable()
	}
	switch verdict := answer.GetVerdict().(type) {
	case *latchkeyv1.ValidateResponse_Session:
		identity := identityOf(verdict.Session)
		if denial := g.admit(identity); denial != nil {
			return nil, "", denial
		}
		return context.WithValue(ctx, identityKey{}, identity), token, nil
	case *latchkeyv1.ValidateResponse_Rejection:
		return nil, "", rejected(verdict.Rejection)
	default:
		g.logger.WarnContext(ctx, "latchkey answered without a verdict", "path", path)
		return nil, "", unavailable()
	}
}

func (g *Guard) validate(ctx context.Context, token string, more ...ValidateOption) (*latchkeyv1.ValidateResponse, error) {
	ctx, cancel := context.WithTimeout(g.outgoing(ctx), g.timeout)
	defer cancel()
	request := &latchkeyv1.ValidateRequest{Token: token}
	for _, option := range g.validations {
		option.applyValidate(request)
	}
	for _, option := range more {
		option.applyValidate(request)
	}
	return g.latchkey.Validate(ctx, request)
}

// Metadata of the guarded call is not forwarded to Latchkey.
func (g *Guard) outgoing(ctx context.Context) context.Context {
	about := metadata.MD{}
	if g.callerKey != "" {
		about.Set("x-latchkey-key", g.callerKey)
	}
	return metadata.NewOutgoingContext(ctx, about)
}

func (g *Guard) admit(identity *Identity) *RejectedError {
	if g.slot != "" && identity.Slot != g.slot {
		return slotRequired(g.slot)
	}
	if g.role != "" && !identity.HasRole(g.role) {
		return roleRequired(g.role)
	}
	return nil
}
