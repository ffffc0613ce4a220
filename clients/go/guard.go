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

	"latchkey.internal/go/latchkeyv1"
)

// Guard lets calls through whose token Latchkey finds good.
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

// Option changes what a guard does.
type Option func(*Guard)

// WithTimeout bounds how long Latchkey may take. One second, unless it is set.
func WithTimeout(timeout time.Duration) Option {
	return func(g *Guard) { g.timeout = timeout }
}

// WithMaxStaleness lets Latchkey answer from memory, never with anything older than this. Zero always asks the
// store; unset leaves it to Latchkey's `validate.max_staleness`.
func WithMaxStaleness(age time.Duration) Option {
	return func(g *Guard) { g.maxStaleness = durationpb.New(age) }
}

// WithPeek keeps calls from counting as a use of the session: it can then time out under them.
func WithPeek() Option {
	return func(g *Guard) { g.peek = true }
}

// WithCallerKey says who asks, for a Latchkey with `access.validate = "caller"`.
func WithCallerKey(key string) Option {
	return func(g *Guard) { g.callerKey = key }
}

// WithOpenMethods lets everybody call these methods, by full names such as "/grpc.health.v1.Health/Check". Their
// handlers have no identity, whatever token was sent.
func WithOpenMethods(methods ...string) Option {
	return func(g *Guard) {
		for _, method := range methods {
			g.open[method] = true
		}
	}
}

// WithRequiredRole lets only users with this role in.
func WithRequiredRole(role string) Option {
	return func(g *Guard) { g.role = role }
}

// WithRequiredSlot lets only sessions of this slot in.
func WithRequiredSlot(slot string) Option {
	return func(g *Guard) { g.slot = slot }
}

// WithLogger says where to log why there was no verdict. [slog.Default], unless it is set.
func WithLogger(logger *slog.Logger) Option {
	return func(g *Guard) { g.logger = logger }
}

// WithoutWatch lets streams run to their own end, whatever becomes of the caller's session.
func WithoutWatch() Option {
	return func(g *Guard) { g.unwatched = true }
}

// WithMaxWatches bounds how many streams are watched at a time over the connection to Latchkey; of the others it is
// asked every 10 seconds. 100, unless it is set. It has to stay well below Latchkey's `server.max_streams` and what
// proxies between allow, because every other call of the guard's needs room on the same connection.
func WithMaxWatches(count int) Option {
	return func(g *Guard) { g.places = make(chan struct{}, max(count, 0)) }
}

// WithOutageGrace bounds how long streams go on while Latchkey is away; then they end with UNAVAILABLE. One minute,
// unless it is set.
func WithOutageGrace(grace time.Duration) Option {
	return func(g *Guard) { g.outageGrace = grace }
}

// NewGuard makes a guard that asks over this connection; [Dial] makes one.
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

// ServerOptions guards all methods of a server, streams included.
func (g *Guard) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(g.UnaryInterceptor),
		grpc.ChainStreamInterceptor(g.StreamInterceptor),
	}
}

// UnaryInterceptor guards methods that do not stream.
func (g *Guard) UnaryInterceptor(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	ctx, _, err := g.check(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// The context of a caller who may come in, and the token, which is empty where the method is open.
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
		// Where the caller has gone, nothing is wrong.
		if ctx.Err() == nil {
			g.logger.WarnContext(ctx, "latchkey gave no verdict", "method", method, "error", err)
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

// Of the call's own metadata nothing goes to Latchkey.
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

// The token of exactly one `authorization: Bearer ...`, as Latchkey itself reads it.
func bearer(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch len(values) {
	case 0:
		return "", tokenRequired()
	case 1:
		if value := strings.TrimSpace(values[0]); value == "" || strings.EqualFold(value, "bearer") {
			// A client that has no token, and sends the header all the same.
			return "", tokenRequired()
		}
		scheme, token, _ := strings.Cut(values[0], " ")
		token = strings.Trim(token, " ")
		switch {
		case !strings.EqualFold(scheme, "bearer") || token == "":
			return "", malformed("The header `authorization` is not of the form `Bearer <token>`.")
		case strings.Contains(token, ","):
			// Proxies join values with commas, and no token has one.
			return "", malformed("There is more than one `authorization`.")
		}
		return token, nil
	default:
		// Which of them did the caller mean? Proxies disagree, so nobody guesses.
		return "", malformed("There is more than one `authorization`.")
	}
}
