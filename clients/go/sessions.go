package latchkey

import (
	"context"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// User names a user by its id or, for accounts in another system that are found by username only, by its username.
type User struct {
	ID       string
	Username string
}

// IssueSession opens a session for a user whom this service has authenticated itself, for example by single sign-on. It
// needs a caller key with the role `issuer`.
//
// Errors: [ErrAccountNotFound], and those of [Client.Login] except [ErrInvalidCredentials].
func (c *Client) IssueSession(ctx context.Context, user User, options LoginOptions) (*LoggedIn, error) {
	request := &latchkeyv1.IssueSessionRequest{
		UserId: user.ID, Username: user.Username, Slot: options.Slot, Device: options.Device,
		IdempotencyKey: options.IdempotencyKey, Takeover: options.Takeover,
	}
	var header metadata.MD
	answer, err := invoke(options.outgoing(ctx), c, c.sessions.IssueSession, request, grpc.Header(&header))
	if err != nil {
		return nil, err
	}
	return loggedIn(answer, header)
}

// Session is a live session in a list.
type Session struct {
	Identity
	// LastSeenAt is the latest recorded use.
	LastSeenAt time.Time
}

func sessionsOf(answer *latchkeyv1.ListSessionsResponse) []Session {
	var sessions []Session
	for _, session := range answer.GetSessions() {
		sessions = append(sessions, Session{*identityOf(session), session.GetLastSeenAt().AsTime()})
	}
	return sessions
}

// ListSessions returns the live sessions of a user, the oldest login first. An unknown user has none. It needs a caller
// key with the role `operator`.
func (c *Client) ListSessions(ctx context.Context, userID string) ([]Session, error) {
	answer, err := invoke(ctx, c, c.sessions.ListSessions, &latchkeyv1.ListSessionsRequest{UserId: userID})
	return sessionsOf(answer), err
}

// ListAllSessions returns the live sessions of all users, page by page, in the order of their usernames. An error ends
// the iteration. It needs a caller key with the role `operator`.
func (c *Client) ListAllSessions(ctx context.Context) iter.Seq2[Session, error] {
	return func(yield func(Session, error) bool) {
		request := &latchkeyv1.ListSessionsRequest{Everyone: true}
		for {
			answer, err := invoke(ctx, c, c.sessions.ListSessions, request)
			if err != nil {
				yield(Session{}, err)
				return
			}
			for _, session := range sessionsOf(answer) {
				if !yield(session, nil) {
					return
				}
			}
			if request.PageToken = answer.GetNextPageToken(); request.PageToken == "" {
				return
			}
		}
	}
}

// EndOptions select among the sessions of a user. The zero value selects all of them.
type EndOptions struct {
	// Slot selects the sessions in this slot.
	Slot string
	// SessionID selects this session.
	SessionID string
	// Message is what the user is told, instead of the default sentence.
	Message string
}

// EndSessions ends sessions of a user as KICKED, and returns how many it has ended. It needs a caller key with the role
// `operator`.
func (c *Client) EndSessions(ctx context.Context, userID string, options EndOptions) (int, error) {
	answer, err := invoke(ctx, c, c.sessions.EndSessions, &latchkeyv1.EndSessionsRequest{
		UserId: userID, Slot: options.Slot, SessionId: options.SessionID, Message: options.Message,
	})
	return int(answer.GetEnded()), err
}

// EndAllSessions ends all sessions of all users as KICKED, for example after a signing key has leaked. Message is what
// the users are told; empty is the default sentence. It needs a caller key with the role `operator`.
func (c *Client) EndAllSessions(ctx context.Context, message string) error {
	_, err := invoke(ctx, c, c.sessions.EndSessions, &latchkeyv1.EndSessionsRequest{Everyone: true, Message: message})
	return err
}
