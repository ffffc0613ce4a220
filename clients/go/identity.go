package latchkey

import (
	"context"
	"slices"
	"time"

	"latchkey.internal/go/latchkeyv1"
)

// Identity is who calls: the session that Latchkey found live.
type Identity struct {
	// UserID is the account's stable, opaque id.
	UserID string
	// Username is what a person types.
	Username string
	// SessionID is the token's `jti`.
	SessionID string
	// Slot is the kind of client in which only the latest login lives.
	Slot string
	// Device is what the client called itself when it logged in.
	Device string
	// Roles are those of the account now, which can be newer than the token's.
	Roles []string
	// IssuedAt is the moment of the login.
	IssuedAt time.Time
	// ExpiresAt is when the session ends at the latest.
	ExpiresAt time.Time
	// IdleExpiresAt is when the session ends if it is not used before.
	IdleExpiresAt time.Time
}

// HasRole says whether the user has this role.
func (i *Identity) HasRole(role string) bool {
	return slices.Contains(i.Roles, role)
}

// FromContext is the identity of the caller. There is none in a method that is open.
func FromContext(ctx context.Context) (*Identity, bool) {
	identity, ok := ctx.Value(identityKey{}).(*Identity)
	return identity, ok
}

type identityKey struct{}

func withIdentity(ctx context.Context, session *latchkeyv1.Session) context.Context {
	identity := &Identity{
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
	return context.WithValue(ctx, identityKey{}, identity)
}
