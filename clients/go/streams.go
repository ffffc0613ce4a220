package latchkey

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/latchkey-auth/latchkey/clients/go/latchkeyv1"
)

// WatchSession tells the holder of a token when its session ends, and why. Watching is not a use of the session.
//
// The first element is the identity. A watch that breaks says nothing about the session: its element is an
// [*UnavailableError], and if the loop goes on, the session is watched again, after which the next element is the identity.
// Every other error is the last element: a [*RejectedError] when the session has ended, or the error of the context.
func (c *Client) WatchSession(ctx context.Context, token string) iter.Seq2[*Identity, error] {
	return func(yield func(*Identity, error) bool) {
		if denial := unusable(token); denial != nil {
			yield(nil, denial)
			return
		}
		told := false
		c.reopen(ctx, func(watch context.Context, live func()) error {
			request := &latchkeyv1.WatchSessionRequest{Token: token}
			news, err := c.auth.WatchSession(watch, request)
			for err == nil {
				var answer *latchkeyv1.WatchSessionResponse
				if answer, err = news.Recv(); err != nil {
					break
				}
				identity, rejection := verdict(answer)
				if rejection != nil {
					return rejection
				}
				live()
				if !told && !yield(identity, nil) {
					return errStop
				}
				told = true
			}
			return err
		}, func(err error) bool { told = false; return yield(nil, err) })
	}
}

// FeedOptions select the events of the revocation feed. The zero value is all events from now on.
type FeedOptions struct {
	// After is the cursor of the last event that was processed. Empty: begin now.
	After string
	// UserID selects the sessions of this user.
	UserID string
	// Slot selects the sessions in this slot.
	Slot string
}

// FeedEvent is an event of the revocation feed. One of Ended, Everyone and Resync is set, or none of them if there was no
// event.
type FeedEvent struct {
	// Cursor is the position after this event. Store it, and continue with it as [FeedOptions.After].
	Cursor string
	// Ended is a session that has ended.
	Ended *EndedSession
	// Everyone is set if all sessions of all users that were opened before have ended: discard every verdict "live".
	Everyone *RejectedError
	// Resync means that events were lost: discard everything derived from the feed.
	Resync bool
	// AsOf is the time up to which every event was reported. It is zero if that is not known.
	AsOf time.Time
}

// EndedSession is a session that has ended.
type EndedSession struct {
	UserID    string
	SessionID string
	Slot      string
	// Rejection says why and when it has ended, and the device that displaced it.
	Rejection *RejectedError
	// ExpiresAt is the deadline of its token, after which the event can be forgotten.
	ExpiresAt time.Time
}

// WatchSessions reads the revocation feed: every session that ends, for any reason and on any server. It needs a caller
// key with the role `operator`.
//
// A feed that breaks loses nothing: its element is an [*UnavailableError], and if the loop goes on, it continues after the
// last event, which can come twice. Every other error is the last element.
func (c *Client) WatchSessions(ctx context.Context, options FeedOptions) iter.Seq2[*FeedEvent, error] {
	return func(yield func(*FeedEvent, error) bool) {
		after := options.After
		c.reopen(ctx, func(watch context.Context, live func()) error {
			request := &latchkeyv1.WatchSessionsRequest{After: after, UserId: options.UserID, Slot: options.Slot}
			feed, err := c.sessions.WatchSessions(watch, request)
			for err == nil {
				var message *latchkeyv1.WatchSessionsResponse
				if message, err = feed.Recv(); err != nil {
					break
				}
				live()
				if !yield(eventOf(message), nil) {
					return errStop
				}
				after = message.GetCursor()
			}
			return err
		}, func(err error) bool { return yield(nil, err) })
	}
}

func eventOf(message *latchkeyv1.WatchSessionsResponse) *FeedEvent {
	event := &FeedEvent{Cursor: message.GetCursor()}
	switch told := message.GetEvent().(type) {
	case *latchkeyv1.WatchSessionsResponse_Ended:
		event.Ended = &EndedSession{
			told.Ended.GetUserId(), told.Ended.GetSessionId(), told.Ended.GetSlot(),
			rejected(told.Ended.GetRejection()), told.Ended.GetExpiresAt().AsTime(),
		}
	case *latchkeyv1.WatchSessionsResponse_Everyone:
		event.Everyone = rejected(told.Everyone.GetRejection())
	case *latchkeyv1.WatchSessionsResponse_Heartbeat:
		if at := told.Heartbeat.GetAsOf(); at != nil {
			event.AsOf = at.AsTime()
		}
	default:
		// An event of a newer Latchkey counts as a resync, as the protocol says.
		event.Resync = true
	}
	return event
}

// The loop over an iterator has ended.
var errStop = errors.New("stop")

// Opens a stream again and again. `open` reads it until it breaks, and calls `live` for each message. `broken` gets the
// error of each break that is worth telling, and says whether to go on.
func (c *Client) reopen(
	ctx context.Context, open func(watch context.Context, live func()) error, broken func(error) bool,
) {
	pause := firstPause
	for {
		// A connection can be dead without an error.
		watch, cancel := context.WithTimeout(c.outgoing(ctx), jittered(c.watchFor))
		heard := false
		err := open(watch, func() { heard, pause = true, firstPause })
		expired := watch.Err() != nil && ctx.Err() == nil
		cancel()
		if err == errStop {
			return
		}
		if heard && expired && status.Code(err) == codes.DeadlineExceeded {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the stream has ended")
		}
		var rejection *RejectedError
		if !errors.As(err, &rejection) {
			err = c.typed(err)
		}
		var outage *UnavailableError
		if !broken(err) || !errors.As(err, &outage) || ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
			broken(typed(status.FromContextError(ctx.Err()).Err()))
			return
		case <-time.After(max(jittered(pause), outage.RetryAfter)):
		}
		pause = min(2*pause, askEvery)
	}
}
