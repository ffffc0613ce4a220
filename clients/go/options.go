package latchkey

import (
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// Option is an option of a [Guard].
type Option interface{ applyGuard(*Guard) }

// ClientOption is an option of a [Client].
type ClientOption interface{ applyClient(*Client) }

// ValidateOption is an option of [Client.Validate].
type ValidateOption interface {
	applyValidate(*latchkeyv1.ValidateRequest)
}

// GuardAndClientOption is an option of a [Guard] and of a [Client].
type GuardAndClientOption interface {
	Option
	ClientOption
}

// GuardAndValidateOption is an option of a [Guard] and of [Client.Validate].
type GuardAndValidateOption interface {
	Option
	ValidateOption
}

type guardOption func(*Guard)

func (o guardOption) applyGuard(g *Guard) { o(g) }

type sharedOption struct {
	guard  func(*Guard)
	client func(*Client)
}

func (o sharedOption) applyGuard(g *Guard)   { o.guard(g) }
func (o sharedOption) applyClient(c *Client) { o.client(c) }

type validateOption func(*latchkeyv1.ValidateRequest)

func (o validateOption) applyValidate(r *latchkeyv1.ValidateRequest) { o(r) }
func (o validateOption) applyGuard(g *Guard)                         { g.validations = append(g.validations, o) }

// WithTimeout sets the time limit for an answer of Latchkey. The default is one second for a guard and ten seconds for a
// client, whose calls can also have a shorter deadline.
func WithTimeout(timeout time.Duration) GuardAndClientOption {
	return sharedOption{func(g *Guard) { g.timeout = timeout }, func(c *Client) { c.timeout = timeout }}
}

// WithCallerKey sets the caller key for Latchkey. A guard and [Client.Validate] need one with
// `access.validate = "caller"`, and the methods for services always do.
func WithCallerKey(key string) GuardAndClientOption {
	return sharedOption{func(g *Guard) { g.callerKey = key }, func(c *Client) { c.callerKey = key }}
}

// WithMaxStaleness lets Latchkey answer from its near-cache, at most this old. Zero reads the store for every call.
// The default is Latchkey's `validate.max_staleness`.
func WithMaxStaleness(age time.Duration) GuardAndValidateOption {
	return validateOption(func(r *latchkeyv1.ValidateRequest) { r.MaxStaleness = durationpb.New(age) })
}

// WithPeek prevents calls from counting as a use of the session, which can then reach its idle timeout in spite of them.
func WithPeek() GuardAndValidateOption {
	return validateOption(func(r *latchkeyv1.ValidateRequest) { r.Peek = true })
}

// WithOpenMethods opens methods to everybody, by full names such as "/grpc.health.v1.Health/Check". Their handlers
// have no identity, even if a token was sent.
func WithOpenMethods(methods ...string) Option {
	return guardOption(func(g *Guard) {
		for _, method := range methods {
			g.open[method] = true
		}
	})
}

// WithOpenPaths opens paths of an HTTP server to everybody, each as a whole path such as "/healthz". It is the same as
// [WithOpenMethods].
func WithOpenPaths(paths ...string) Option { return WithOpenMethods(paths...) }

// WithRequiredRole accepts only users with this role.
func WithRequiredRole(role string) Option {
	return guardOption(func(g *Guard) { g.role = role })
}

// WithRequiredSlot accepts only sessions in this slot.
func WithRequiredSlot(slot string) Option {
	return guardOption(func(g *Guard) { g.slot = slot })
}

// WithLogger sets the logger for outages. The default is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return guardOption(func(g *Guard) { g.logger = logger })
}

// WithoutWatch lets streams continue after the session of their caller has ended.
func WithoutWatch() Option {
	return guardOption(func(g *Guard) { g.unwatched = true })
}

// WithMaxWatches sets the maximum number of watched streams. The tokens of further streams are validated every 10
// seconds. The default is 100. Keep it well below Latchkey's `server.max_streams` and the limits of proxies in between,
// because all other calls of the guard share the same connection.
func WithMaxWatches(count int) Option {
	return guardOption(func(g *Guard) { g.places = make(chan struct{}, max(count, 0)) })
}

// WithOutageGrace sets how long streams continue while Latchkey is unavailable. Then they end with UNAVAILABLE. The
// default is one minute.
func WithOutageGrace(grace time.Duration) Option {
	return guardOption(func(g *Guard) { g.outageGrace = grace })
}
