package latchkey

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

const (
	// The first delay before watching again. It doubles each time.
	firstPause = 100 * time.Millisecond
	// The maximum delay, and so the polling interval of streams that cannot be watched.
	askEvery = 10 * time.Second
	// The default limit of watches. A connection carries at most 256 calls, or fewer behind a proxy, and all other
	// calls of the guard need room on it.
	maxWatches = 100
	// The maximum time of one watch, because a connection can be dead without an error.
	watchFor = time.Minute
	// How long streams continue without a verdict on their sessions.
	outageGrace = time.Minute
)

var errNoPlace = status.Error(codes.ResourceExhausted, "the guard has reached its limit of watched streams")

// Watch waits until the session of a token that [Guard.Check] has accepted has ended, and returns the denial for its
// caller: a [*RejectedError], or an [*UnavailableError] after a long outage. It returns nil once the context is done.
//
// A handler that goes on for as long as its client, such as one for WebSockets, calls it in a goroutine.
func (g *Guard) Watch(ctx context.Context, path, token string) error {
	if token == "" || g.unwatched {
		<-ctx.Done()
		return nil
	}
	// A watch that breaks says nothing about the session, so its token is validated. A session that cannot be watched is
	// validated periodically.
	live := time.Now()
	pause := firstPause
	for {
		watched, rejection, err := g.watch(ctx, token)
		if rejection != nil {
			return rejected(rejection)
		}
		if watched {
			live, pause = time.Now(), firstPause
		}
		if status.Code(err) == codes.ResourceExhausted {
			g.tellOnce.Do(func() {
				g.logger.WarnContext(ctx, "some streams are not watched and are validated every 10 s instead", "error", err)
			})
		}
		wait := jittered(pause)
		answer, err := g.validate(ctx, token, WithPeek())
		switch {
		case answer.GetRejection() != nil:
			return rejected(answer.GetRejection())
		case answer.GetSession() != nil:
			live = time.Now()
		case ctx.Err() != nil:
			return nil
		case time.Since(live) >= g.outageGrace:
			g.logger.WarnContext(ctx, "ended a stream because latchkey is unavailable", "path", path, "error", err)
			return unavailable()
		default:
			wait = min(wait, time.Until(live.Add(g.outageGrace)))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		pause = min(2*pause, askEvery)
	}
}

// Watches a session until the watch breaks. Returns whether it received a session, and the rejection if it has ended.
func (g *Guard) watch(ctx context.Context, token string) (bool, *latchkeyv1.Rejection, error) {
	select {
	case g.places <- struct{}{}:
		defer func() { <-g.places }()
	default:
		return false, nil, errNoPlace
	}
	// The first message comes at once, the next one when the session ends.
	ctx, cancel := context.WithTimeout(g.outgoing(ctx), jittered(g.watchFor))
	defer cancel()
	news, err := g.latchkey.WatchSession(ctx, &latchkeyv1.WatchSessionRequest{Token: token})
	if err != nil {
		return false, nil, err
	}
	watched := false
	for {
		told, err := news.Recv()
		switch {
		case err != nil:
			return watched, nil, err
		case told.GetRejection() != nil:
			return watched, told.GetRejection(), nil
		case told.GetSession() == nil:
			return watched, nil, errors.New("latchkey sent neither a session nor a rejection")
		}
		watched = true
	}
}

// Shortens a pause at random, so that streams that began together do not reconnect together.
func jittered(pause time.Duration) time.Duration {
	return time.Duration(float64(pause) * (0.5 + rand.Float64()/2))
}
