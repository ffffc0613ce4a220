package latchkey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

const (
	// The default time limit of a call. A login can wait for the hash of its password.
	clientTimeout = 10 * time.Second
	// How long a call waits for a connection: a little longer than the backoff of [Dial].
	connectWait = 1500 * time.Millisecond
)

// Client calls Latchkey. Its methods are safe for concurrent use.
//
// Errors are a [*RejectedError], [*UnavailableError], [*ThrottledError], [*SessionLimitError], [*InvalidRequestError] or
// [*Error]; the last has names such as [ErrInvalidCredentials] for [errors.Is]. All of them contain the gRPC status.
type Client struct {
	conn      grpc.ClientConnInterface
	auth      latchkeyv1.AuthServiceClient
	sessions  latchkeyv1.SessionServiceClient
	callerKey string
	timeout   time.Duration
	watchFor  time.Duration
	closed    *atomic.Bool
}

// NewClient creates a client that uses this connection to Latchkey, see [Dial].
func NewClient(latchkey grpc.ClientConnInterface, options ...ClientOption) *Client {
	client := &Client{
		conn:     latchkey,
		auth:     latchkeyv1.NewAuthServiceClient(latchkey),
		sessions: latchkeyv1.NewSessionServiceClient(latchkey),
		timeout:  clientTimeout,
		watchFor: watchFor,
		closed:   &atomic.Bool{},
	}
	for _, option := range options {
		option.applyClient(client)
	}
	return client
}

// Close closes the connection, also for guards that use it. Calls that are under way, and later ones, fail with
// [ErrClosed].
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if closer, ok := c.conn.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// String does not show the caller key.
func (c *Client) String() string { return "latchkey.Client" }

// GoString does not show the caller key.
func (c *Client) GoString() string { return "latchkey.Client" }

// LoginOptions are what a login can have besides the password. The zero value is a login to the first configured slot.
type LoginOptions struct {
	// Slot is the slot to log in to. Empty: the first configured one.
	Slot string
	// Device is a name of the client that a displaced user will recognise, such as "Firefox on Linux".
	Device string
	// Takeover displaces the holder of the slot although the server's `session.on_limit` is `deny`: for a user who was
	// told of the [SessionLimitError] and chose to continue here.
	Takeover bool
	// IdempotencyKey identifies this login, such as a UUID. If it is repeated with the same key within a minute, because
	// the answer was lost, it returns the same session and displaces none.
	IdempotencyKey string
	// ForwardedFor is the IP address of the client for which this service logs in. Latchkey limits failed logins by it
	// if this service is one of `throttle.trusted_proxies`.
	ForwardedFor string
	// Cookie asks for the token as a cookie for a browser, in [LoggedIn.SetCookie]. It needs `browser.set_cookie`.
	Cookie bool
}

// LoggedIn is the result of a login.
type LoggedIn struct {
	// Token is the access token. It is a secret, and formatting a LoggedIn does not show it.
	Token string
	// Identity is the user, and the session that was opened.
	Identity *Identity
	// Displaced are the live sessions that the login has ended, the oldest first.
	Displaced []Displaced
	// SetCookie are the values of the header `set-cookie` for the browser. They contain the token.
	SetCookie []string
}

// Displaced is a session that a login has ended.
type Displaced struct {
	SessionID string
	Slot      string
	// Device can be empty.
	Device   string
	IssuedAt time.Time
}

// String describes the login without its token.
func (l LoggedIn) String() string {
	return fmt.Sprintf("{Identity:%+v Displaced:%+v}", l.Identity, l.Displaced)
}

// GoString describes the login without its token.
func (l LoggedIn) GoString() string { return "latchkey.LoggedIn" + l.String() }

// LogValue describes the login without its token.
func (l LoggedIn) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("identity", l.Identity), slog.Any("displaced", l.Displaced))
}

// Login checks a password and opens a session.
//
// Errors: [ErrInvalidCredentials]; [ErrAccountDisabled]; a [*ThrottledError]; a [*SessionLimitError]; and a
// [*RejectedError] if the session that IdempotencyKey names has ended. After an [*UnavailableError] the login may have
// taken effect.
func (c *Client) Login(ctx context.Context, username, password string, options LoginOptions) (*LoggedIn, error) {
	request := &latchkeyv1.LoginRequest{
		Username: username, Password: password, Slot: options.Slot, Device: options.Device,
		IdempotencyKey: options.IdempotencyKey, Takeover: options.Takeover,
	}
	var header metadata.MD
	answer, err := invoke(options.outgoing(ctx), c, c.auth.Login, request, grpc.Header(&header))
	if err != nil {
		return nil, err
	}
	return loggedIn(answer, header)
}

func (o LoginOptions) outgoing(ctx context.Context) context.Context {
	return withCookie(withForwardedFor(ctx, o.ForwardedFor), o.Cookie)
}

func withForwardedFor(ctx context.Context, address string) context.Context {
	if address == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "x-forwarded-for", address)
}

func withCookie(ctx context.Context, cookie bool) context.Context {
	if !cookie {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "x-latchkey-cookie", "true")
}

// The response of Login and of IssueSession.
type loginResponse interface {
	GetToken() string
	GetSession() *latchkeyv1.Session
	GetDisplaced() []*latchkeyv1.DisplacedSession
}

func loggedIn(answer loginResponse, header metadata.MD) (*LoggedIn, error) {
	if answer.GetSession() == nil {
		return nil, typed(status.Error(codes.DataLoss, "the response has no session"))
	}
	login := &LoggedIn{
		Token: answer.GetToken(), Identity: identityOf(answer.GetSession()), SetCookie: header.Get("set-cookie"),
	}
	for _, session := range answer.GetDisplaced() {
		login.Displaced = append(login.Displaced, Displaced{
			session.GetSessionId(), session.GetSlot(), session.GetDevice(), session.GetIssuedAt().AsTime(),
		})
	}
	return login, nil
}

// Validate returns the user and the session of a token, or a [*RejectedError] if the token is not, or no longer, good.
// Unless [WithPeek] is given, it is a use of the session.
func (c *Client) Validate(ctx context.Context, token string, options ...ValidateOption) (*Identity, error) {
	if denial := unusable(token); denial != nil {
		return nil, denial
	}
	request := &latchkeyv1.ValidateRequest{Token: token}
	for _, option := range options {
		option.applyValidate(request)
	}
	answer, err := invoke(ctx, c, c.auth.Validate, request)
	if err != nil {
		return nil, err
	}
	return verdict(answer)
}

func verdict(answer interface {
	GetSession() *latchkeyv1.Session
	GetRejection() *latchkeyv1.Rejection
}) (*Identity, error) {
	switch {
	case answer.GetSession() != nil:
		return identityOf(answer.GetSession()), nil
	case answer.GetRejection() != nil:
		return nil, rejected(answer.GetRejection())
	}
	return nil, typed(status.Error(codes.Unavailable, "the response has neither a session nor a rejection"))
}

// Rejects a token that need not, or cannot, be sent.
func unusable(token string) *RejectedError {
	if token == "" {
		return tokenRequired()
	}
	return tooLong(token)
}

// Scope is the sessions that a logout ends.
type Scope = latchkeyv1.LogoutScope

// The scopes.
const (
	// ScopeThis is the session of the token. It is the default.
	ScopeThis = latchkeyv1.LogoutScope_LOGOUT_SCOPE_THIS
	// ScopeOthers is every session of the user except that of the token.
	ScopeOthers = latchkeyv1.LogoutScope_LOGOUT_SCOPE_OTHERS
	// ScopeAll is every session of the user.
	ScopeAll = latchkeyv1.LogoutScope_LOGOUT_SCOPE_ALL
)

// LogoutOptions are the options of a logout. The zero value ends the session of the token.
type LogoutOptions struct {
	// Scope is the sessions to end.
	Scope Scope
	// Cookie asks for a header that clears the cookie of a browser, in [LoggedOut.SetCookie].
	Cookie bool
}

// LoggedOut is the result of a logout.
type LoggedOut struct {
	// Ended is the number of live sessions that the call has ended.
	Ended int
	// Rejected is why the token was dead already, or nil. No session was ended then.
	Rejected *RejectedError
	// SetCookie are the values of the header `set-cookie` for the browser.
	SetCookie []string
}

// Logout ends the session of a token. That the token is dead already is not an error, see [LoggedOut.Rejected].
func (c *Client) Logout(ctx context.Context, token string, options LogoutOptions) (*LoggedOut, error) {
	if denial := unusable(token); denial != nil {
		return nil, denial
	}
	request := &latchkeyv1.LogoutRequest{Token: token, Scope: options.Scope}
	var header metadata.MD
	answer, err := invoke(withCookie(ctx, options.Cookie), c, c.auth.Logout, request, grpc.Header(&header))
	if err != nil {
		return nil, err
	}
	logout := &LoggedOut{Ended: int(answer.GetEnded()), SetCookie: header.Get("set-cookie")}
	if answer.GetRejection() != nil {
		logout.Rejected = rejected(answer.GetRejection())
	}
	return logout, nil
}

// ChangePasswordOptions are the options of a change of a password.
type ChangePasswordOptions struct {
	// ForwardedFor is the IP address of the client, as in [LoginOptions].
	ForwardedFor string
}

// ChangePassword sets a new password for the user of a token and ends all other sessions of the user. It returns how many
// it has ended.
//
// Errors: a [*RejectedError]; [ErrInvalidCredentials] if the current password is wrong; a [*ThrottledError]; and an
// [*InvalidRequestError] for a new password that is too short or too common.
func (c *Client) ChangePassword(
	ctx context.Context, token, current, next string, options ChangePasswordOptions,
) (int, error) {
	if denial := unusable(token); denial != nil {
		return 0, denial
	}
	request := &latchkeyv1.ChangePasswordRequest{Token: token, CurrentPassword: current, NewPassword: next}
	answer, err := invoke(withForwardedFor(ctx, options.ForwardedFor), c, c.auth.ChangePassword, request)
	return int(answer.GetEnded()), err
}

// GetJWKS returns the public keys that verify tokens, as a JSON Web Key Set. A token that verifies is authentic; only
// Validate knows whether its session is live.
func (c *Client) GetJWKS(ctx context.Context) (string, error) {
	answer, err := invoke(ctx, c, c.auth.GetJwks, &latchkeyv1.GetJwksRequest{})
	return answer.GetJwks(), err
}

// Makes a unary call with the caller key and the time limit of the client.
func invoke[Request, Response any](
	ctx context.Context, c *Client, method func(context.Context, *Request, ...grpc.CallOption) (*Response, error),
	request *Request, options ...grpc.CallOption,
) (*Response, error) {
	ctx, cancel := context.WithTimeout(c.outgoing(ctx), c.timeout)
	defer cancel()
	c.awaitConnection(ctx)
	answer, err := method(ctx, request, options...)
	if err != nil {
		return nil, c.typed(err)
	}
	return answer, nil
}

// Waits for a connection, but not for long. Otherwise the first call after a restart of Latchkey would fail because of the
// backoff between attempts to connect, and most calls are not safe to repeat.
func (c *Client) awaitConnection(ctx context.Context) {
	conn, ok := c.conn.(*grpc.ClientConn)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	for {
		state := conn.GetState()
		if state == connectivity.Ready || state == connectivity.Shutdown {
			return
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (c *Client) outgoing(ctx context.Context) context.Context {
	if c.callerKey == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "x-latchkey-key", c.callerKey)
}

func (c *Client) typed(err error) error {
	err = typed(err)
	if c.closed.Load() && errors.Is(err, context.Canceled) {
		return &Error{rpcStatus{status.Convert(err)}, reasonClosed}
	}
	return err
}
