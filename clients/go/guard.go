package latchkey

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// Guard accepts only calls whose token has a live session.
type Guard struct {
	latchkey     latchkeyv1.AuthServiceClient
	timeout      time.Duration
	maxStaleness *durationpb.Duration
	peek         bool
	callerKey    string
	open         map[string]bool
	role         string
	slot         string
	logger       *slog.Logger
	unwatched    bool
	watchFor     time.Duration
	outageGrace  time.Duration
	places       chan struct{}
	tellOnce     sync.Once
}

// Option is an option of a guard.
type Option func(*Guard)

// WithTimeout sets the time limit for Latchkey's answer. The default is one second.
func WithTimeout(timeout time.Duration) Option {
	return func(g *Guard) { g.timeout = timeout }
}

// WithMaxStaleness lets Latchkey answer from its near-cache, at most this old. Zero reads the store for every call.
// The default is Latchkey's `validate.max_staleness`.
func WithMaxStaleness(age time.Duration) Option {
	return func(g *Guard) { g.maxStaleness = durationpb.New(age) }
}

// WithPeek prevents calls from counting as a use of the session, which can then reach its idle timeout in spite of them.
func WithPeek() Option {
	return func(g *Guard) { g.peek = true }
}

// WithCallerKey sets the caller key for Latchkey, needed with `access.validate = "caller"`.
func WithCallerKey(key string) Option {
	return func(g *Guard) { g.callerKey = key }
}

// WithOpenMethods opens methods to everybody, by full names such as "/grpc.health.v1.Health/Check". Their handlers
// have no identity, even if a token was sent.
func WithOpenMethods(methods ...string) Option {
	return func(g *Guard) {
		for _, method := range methods {
			g.open[method] = true
		}
	}
}

// WithRequiredRole accepts only users with this role.
func WithRequiredRole(role string) Option {
	return func(g *Guard) { g.role = role }
}

// WithRequiredSlot accepts only sessions in this slot.
func WithRequiredSlot(slot string) Option {
	return func(g *Guard) { g.slot = slot }
}

// WithLogger sets the logger for outages. The default is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(g *Guard) { g.logger = logger }
}

// WithoutWatch lets streams continue after the session of their caller has ended.
func WithoutWatch() Option {
	return func(g *Guard) { g.unwatched = true }
}

// WithMaxWatches sets the maximum number of watched streams. The tokens of further streams are validated every 10
// seconds. The default is 100. Keep it well below Latchkey's `server.max_streams` and the limits of proxies in between,
// because all other calls of the guard share the same connection.
func WithMaxWatches(count int) Option {
	return func(g *Guard) { g.places = make(chan struct{}, max(count, 0)) }
}

// WithOutageGrace sets how long streams continue while Latchkey is unavailable. Then they end with UNAVAILABLE. The
// default is one minute.
func WithOutageGrace(grace time.Duration) Option {
	return func(g *Guard) { g.outageGrace = grace }
}

// NewGuard creates a guard that uses this connection to Latchkey, see [Dial].
func NewGuard(latchkey grpc.ClientConnInterface, options ...Option) *Guard {
	guard := &Guard{
		latchkey: latchkeyv1.NewAuthServiceClient(latchkey),
		timeout:  time.Second,
		open:     map[string]bool{},
		logger:   slog.Default(),

		watchFor:    watchFor,
		outageGrace: outageGrace,
		places:      make(chan struct{}, maxWatches),
	}
	for _, option := range options {
		option(guard)
	}
	return guard
}

// ServerOptions returns options that guard all methods of a server, including streams.
func (g *Guard) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(g.UnaryInterceptor),
		grpc.ChainStreamInterceptor(g.StreamInterceptor),
	}
}

// UnaryInterceptor guards unary methods.
func (g *Guard) UnaryInterceptor(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	ctx, _, err := g.check(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// Returns the context of an accepted caller, and the token, which is empty if the method is open.
func (g *Guard) check(ctx context.Context, method string) (context.Context, string, error) {
	if g.open[method] {
		return ctx, "", nil
	}
	token, err := bearer(ctx)
	if err != nil {
		return nil, "", err
	}
	answer, err := g.validate(ctx, token, g.peek)
	if err != nil {
		// If the caller has disconnected, this is not an outage.
		if ctx.Err() == nil {
			g.logger.WarnContext(ctx, "got no verdict from latchkey", "method", method, "error", err)
		}
		return nil, "", unavailable()
	}
	switch verdict := answer.GetVerdict().(type) {
	case *latchkeyv1.ValidateResponse_Session:
		ctx, err = g.admit(ctx, verdict.Session)
		return ctx, token, err
	case *latchkeyv1.ValidateResponse_Rejection:
		return nil, "", rejected(verdict.Rejection)
	default:
		g.logger.WarnContext(ctx, "latchkey answered without a verdict", "method", method)
		return nil, "", unavailable()
	}
}

func (g *Guard) validate(ctx context.Context, token string, peek bool) (*latchkeyv1.ValidateResponse, error) {
	ctx, cancel := context.WithTimeout(g.outgoing(ctx), g.timeout)
	defer cancel()
	return g.latchkey.Validate(ctx, &latchkeyv1.ValidateRequest{
		Token: token, Peek: peek, MaxStaleness: g.maxStaleness,
	})
}

// Metadata of the guarded call is not forwarded to Latchkey.
func (g *Guard) outgoing(ctx context.Context) context.Context {
	about := metadata.MD{}
	if g.callerKey != "" {
		about.Set("x-latchkey-key", g.callerKey)
	}
	return metadata.NewOutgoingContext(ctx, about)
}

func (g *Guard) admit(ctx context.Context, session *latchkeyv1.Session) (context.Context, error) {
	ctx = withIdentity(ctx, session)
	identity, _ := FromContext(ctx)
	if g.slot != "" && identity.Slot != g.slot {
		return nil, slotRequired(g.slot)
	}
	if g.role != "" && !identity.HasRole(g.role) {
		return nil, roleRequired(g.role)
	}
	return ctx, nil
}

// Returns the token of exactly one `authorization: Bearer ...`, parsed as in Latchkey.
func bearer(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch len(values) {
	case 0:
		return "", tokenRequired()
	case 1:
		if value := strings.TrimSpace(values[0]); value == "" || strings.EqualFold(value, "bearer") {
			// A client without a token that sends the header anyway.
			return "", tokenRequired()
		}
		scheme, token, _ := strings.Cut(values[0], " ")
		token = strings.Trim(token, " ")
		switch {
		case !strings.EqualFold(scheme, "bearer") || token == "":
			return "", malformed("The header `authorization` is not of the form `Bearer <token>`.")
		case strings.Contains(token, ","):
			// Proxies join values with commas, and a token never contains one.
			return "", malformed("There is more than one `authorization`.")
		}
		return token, nil
	default:
		// Proxies disagree on which of them counts, so the guard does not guess.
		return "", malformed("There is more than one `authorization`.")
	}
}
