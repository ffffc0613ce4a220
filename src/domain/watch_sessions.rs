//! `WatchSessions`: the revocation feed, from any cursor on.
//!
//! A feed catches up with the event log by its cursor and then receives the pages that all readers share
//! (`session_events`). A reader that falls out of the ring of pages gets [`Error::TooSlow`] and continues from its
//! cursor.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::error::{RecvError, TryRecvError},
    },
    time::{Instant, sleep_until},
};

use super::{
    Engine, Error,
    ports::{Cursor, Event},
    session_events::{LogPage, Subscription},
    sessions::{Ended, Epoch},
    types::{SessionId, Slot, Timestamp, UserId},
};

/// The longest time without an event.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Events that are read from the log at once.
const PAGE_SIZE: usize = 256;

/// Selects sessions. Epochs and resyncs pass every filter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only sessions of this user.
    pub user_id: Option<UserId>,
    /// Only sessions in this slot.
    pub slot: Option<Slot>,
}

/// An event of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEvent {
    /// A session has ended.
    Ended {
        /// The user.
        user_id: UserId,
        /// The session and the reason.
        ended: Ended,
    },
    /// All sessions of all users have ended.
    Everyone(Epoch),
    /// Events were missed.
    Resync,
    /// All events up to this time were sent before this one. `None` in the first event of a feed, which may have to
    /// catch up first.
    Heartbeat(Option<Timestamp>),
}

/// A reader of the feed.
pub struct Feed {
    engine: Arc<Engine>,
    filter: Filter,
    /// Events to return, each with the cursor after it.
    ready: VecDeque<(Cursor, FeedEvent)>,
    /// The cursor after the events in `ready`.
    cursor: Cursor,
    /// `None` until the feed has caught up with the log.
    subscription: Option<Subscription>,
    /// The sessions of the latest events read from the log. The first pages of the subscription may repeat them.
    seen: VecDeque<SessionId>,
    heartbeat_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Engine {
    /// Opens the feed after a cursor, or from now on.
    pub async fn watch_sessions(
        self: &Arc<Self>,
        after: Option<Cursor>,
        filter: Filter,
    ) -> Result<Feed, Error> {
        let permit = self.events.reserve_stream()?;
        let (cursor, subscription) = if let Some(cursor) = after {
            (cursor, None)
        } else {
            let subscription = self.events.subscribe().await?;
            (subscription.from.clone(), Some(subscription))
        };
        Ok(Feed {
            engine: Arc::clone(self),
            filter,
            ready: VecDeque::from([(cursor.clone(), FeedEvent::Heartbeat(None))]),
            cursor,
            subscription,
            seen: VecDeque::new(),
            heartbeat_at: Instant::now() + HEARTBEAT_INTERVAL,
            _permit: permit,
        })
    }
}

impl Feed {
    /// Waits for the next event. Returns it with the cursor after it.
    pub async fn next(&mut self) -> Result<(Cursor, FeedEvent), Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.heartbeat_at = Instant::now() + HEARTBEAT_INTERVAL;
                return Ok(event);
            }
            match &mut self.subscription {
                None => self.catch_up().await?,
                Some(subscription) => {
                    let page = tokio::select! {
                        page = subscription.pages.recv() => page.map_err(|error| receive_error(&error))?,
                        () = sleep_until(self.heartbeat_at) => {
                            self.heartbeat()?;
                            continue;
                        }
                    };
                    self.push_page(&page);
                }
            }
        }
    }

    /// Reads a page of the log, and subscribes once its end is reached.
    async fn catch_up(&mut self) -> Result<(), Error> {
        let engine = Arc::clone(&self.engine);
        if self.read_page(&engine).await? {
            return Ok(());
        }
        let subscription = engine.events.subscribe().await?;
        // Reads the events from before the subscription. They can be many if the server has just started and
        // subscribing took long.
        while self.read_page(&engine).await? {}
        self.subscription = Some(subscription);
        Ok(())
    }

    /// Reads a page of the log. Returns whether there may be more.
    async fn read_page(&mut self, engine: &Engine) -> Result<bool, Error> {
        let tail = engine.events.log().tail(Some(&self.cursor), PAGE_SIZE).await?;
        // A full page can have fewer events, because not every entry of the log is one.
        let more = tail.events.len() >= PAGE_SIZE / 2;
        self.seen.extend(tail.events.iter().filter_map(session_id));
        let surplus = self.seen.len().saturating_sub(4 * PAGE_SIZE);
        self.seen.drain(..surplus);
        self.push(tail.events, tail.next, tail.gap);
        Ok(more)
    }

    /// Queues the events of a page of the subscription, except for those that were read from the log before.
    fn push_page(&mut self, page: &LogPage) {
        let LogPage { gap, events, next } = page;
        let is_new = |event: &&Event| session_id(event).is_none_or(|id| !self.seen.contains(&id));
        let new: Vec<_> = events.iter().filter(is_new).cloned().collect();
        if new.len() == events.len() {
            self.seen.clear();
        } else if new.is_empty() && !gap {
            // Its cursor is before that of the feed.
            return;
        }
        self.push(new, next.clone(), *gap);
    }

    fn push(&mut self, events: Vec<Event>, next: Cursor, gap: bool) {
        if gap {
            self.ready.push_back((self.cursor.clone(), FeedEvent::Resync));
        }
        for event in events {
            let event = match event {
                Event::Ended { user_id, ended } if self.filter.matches(&user_id, &ended) => {
                    FeedEvent::Ended { user_id, ended }
                }
                Event::Ended { .. } | Event::Changed { .. } => continue,
                Event::Epoch(epoch) => FeedEvent::Everyone(epoch),
            };
            // Within a page the cursor is that of its beginning: events may be repeated but not skipped.
            self.ready.push_back((self.cursor.clone(), event));
        }
        if let Some((cursor, _)) = self.ready.back_mut() {
            cursor.clone_from(&next);
        }
        self.cursor = next;
    }

    /// Queues a heartbeat, unless a page has arrived meanwhile or the log does not answer.
    fn heartbeat(&mut self) -> Result<(), Error> {
        self.heartbeat_at = Instant::now() + HEARTBEAT_INTERVAL;
        // Read before the pages: events that are not there yet are later than this time.
        let as_of = self.engine.events.as_of();
        let page = match self.subscription.as_mut().map(|subscription| subscription.pages.try_recv()) {
            Some(Ok(page)) => page,
            Some(Err(TryRecvError::Lagged(_))) => return Err(Error::TooSlow),
            Some(Err(_)) | None => {
                if self.engine.clock.now().since(as_of) < HEARTBEAT_INTERVAL {
                    self.ready.push_back((self.cursor.clone(), FeedEvent::Heartbeat(Some(as_of))));
                }
                return Ok(());
            }
        };
        self.push_page(&page);
        Ok(())
    }
}

fn receive_error(error: &RecvError) -> Error {
    match error {
        RecvError::Lagged(_) => Error::TooSlow,
        RecvError::Closed => Error::Internal("the session events have stopped".into()),
    }
}

impl Filter {
    fn matches(&self, user_id: &UserId, ended: &Ended) -> bool {
        self.user_id.as_ref().is_none_or(|only| only == user_id)
            && self.slot.as_ref().is_none_or(|only| *only == ended.slot)
    }
}

fn session_id(event: &Event) -> Option<SessionId> {
    match event {
        Event::Ended { ended, .. } => Some(ended.session_id),
        Event::Changed { .. } | Event::Epoch(_) => None,
    }
}
