package latchkey

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"latchkey.internal/go/latchkeyv1"
)

const (
	// How long to wait before watching again, the first time. Then twice as long each time.
	firstPause = 100 * time.Millisecond
	// How long to wait at most: how old the news of a stream is that may not be watched.
	askEvery = 10 * time.Second
	// Watches that a guard has open at a time. A connection carries 256 calls at most, or fewer where something
	// stands between, and every call of the guard's has to find room on it.
	maxWatches = 100
	// How long to watch at a time: a connection that is dead and does not say so must not be trusted for ever.
	watchFor = time.Minute
	// How long streams go on without news of their sessions.
	outageGrace = time.Minute
)

var errNoPlace = status.Error(codes.ResourceExhausted, "the guard watches as many streams as it may")

// Waits until the session has ended: what its caller is told. Nothing, once the context is done.
//
// A watch that breaks says nothing of the session, so that Latchkey is asked; and where a session cannot be watched it
// is asked again and again.
func (g *Guard) untilEnd(ctx context.Context, method, token string) error {
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
				g.logger.WarnContext(ctx, "some streams are not watched, and asked about every 10 s", "error", err)
			})
		}
		wait := jittered(pause)
		answer, err := g.validate(ctx, token, true)
		switch {
		case answer.GetRejection() != nil:
			return rejected(answer.GetRejection())
		case answer.GetSession() != nil:
			live = time.Now()
		case ctx.Err() != nil:
			return nil
		case time.Since(live) >= g.outageGrace:
			g.logger.WarnContext(ctx, "a stream ends, because latchkey is away", "method", method, "error", err)
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

// Watches a session for as long as that goes well: whether it did for a while, and the rejection once it has ended.
func (g *Guard) watch(ctx context.Context, token string) (bool, *latchkeyv1.Rejection, error) {
	select {
	case g.places <- struct{}{}:
		defer func() { <-g.places }()
	default:
		return false, nil, errNoPlace
	}
	// It answers at once how the session stands; then it is silent until the session ends.
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
			return watched, nil, errors.New("latchkey told of neither a session nor its end")
		}
		watched = true
	}
}

// Somewhat less: not all that began at once shall end at once.
func jittered(pause time.Duration) time.Duration {
	return time.Duration(float64(pause) * (0.5 + rand.Float64()/2))
}
