package latchkey

import (
	"context"
	"slices"
	"time"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// Identity is the identity of the caller: a live session.
type Identity struct {
	// UserID is the account's stable, opaque id.
	UserID string
	// Username is the username.
	Username string
	// SessionID is the token's `jti`.
	SessionID string
	// Slot is the slot: the kind of client in which only the latest login lives.
	Slot string
	// Device is the name that the client gave itself at login.
	Device string
	// Roles are the current roles of the account, which can be newer than those in the token.
	Roles []string
	// IssuedAt is when the login was committed.
	IssuedAt time.Time
	// ExpiresAt is the absolute deadline.
	ExpiresAt time.Time
	// IdleExpiresAt is the idle deadline.
	IdleExpiresAt time.Time
}

// HasRole reports whether the user has this role.
func (i *Identity) HasRole(role string) bool {
	return slices.Contains(i.Roles, role)
}

// FromContext returns the identity of the caller. There is none in an open method or path.
func FromContext(ctx context.Context) (*Identity, bool) {
	identity, ok := ctx.Value(identityKey{}).(*Identity)
	return identity, ok
}

type identityKey struct{}

func identityOf(session *latchkeyv1.Session) *Identity {
	return &Identity{
		UserID:        session.GetUserId(),
		Username:      session.GetUsername(),
		SessionID:     session.GetSessionId(),
		Slot:          session.GetSlot(),
		Device:        session.GetDevice(),
		Roles:         session.GetRoles(),
		IssuedAt:      session.GetIssuedAt().AsTime(),
		ExpiresAt:     session.GetExpiresAt().AsTime(),
		IdleExpiresAt: session.GetIdleExpiresAt().AsTime(),
	}
}
