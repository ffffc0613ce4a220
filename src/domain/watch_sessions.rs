//! `WatchSessions`: the revocation feed, from any place in the log on.

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
    ports::{Cursor, Event, Tail},
    session_events::{Page, Subscription},
    sessions::{Ended, Epoch},
    types::{SessionId, Slot, Timestamp, UserId},
};

/// How long nothing is said, at most.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Events that are read at once to catch up.
const PAGE: usize = 256;

/// Which sessions are wanted; what is `None` is not asked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of this user.
    pub user_id: Option<UserId>,
    /// Those in this slot.
    pub slot: Option<Slot>,
}

/// Something that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A session has ended.
    Ended {
        /// Whose.
        user_id: UserId,
        /// Which, and why.
        ended: Ended,
    },
    /// Everybody's sessions have ended.
    Everyone(Epoch),
    /// Events were missed.
    Resync,
    /// Nothing has happened: what had ended by then has been told. `None` at the beginning, where something
    /// may still have to be.
    Heartbeat(Option<Timestamp>),
}

/// One who reads the feed.
pub struct Feed {
    engine: Arc<Engine>,
    filter: Filter,
    /// What is yet to be told, each with where to go on after it.
    ready: VecDeque<(Cursor, News)>,
    /// Where to go on after all of that.
    cursor: Cursor,
    /// `None` until it has caught up with the log.
    live: Option<Subscription>,
    /// The latest that were read of the log: what is told live begins with some of them.
    seen: VecDeque<SessionId>,
    heartbeat_at: Instant,
    _place: OwnedSemaphorePermit,
}

impl Engine {
    /// The feed, after this place or from now on.
    pub async fn watch_sessions(
        self: &Arc<Self>,
        after: Option<Cursor>,
        filter: Filter,
    ) -> Result<Feed, Error> {
        let place = self.events.stream()?;
        let (cursor, live) = if let Some(cursor) = after {
            (cursor, None)
        } else {
            let live = self.events.subscribe().await?;
            (live.from.clone(), Some(live))
        };
        Ok(Feed {
            engine: Arc::clone(self),
            filter,
            ready: VecDeque::from([(cursor.clone(), News::Heartbeat(None))]),
            cursor,
            live,
            seen: VecDeque::new(),
            heartbeat_at: Instant::now() + HEARTBEAT,
            _place: place,
        })
    }
}

impl Feed {
    /// What is told next, once there is something, with where to go on after it.
    pub async fn next(&mut self) -> Result<(Cursor, News), Error> {
        loop {
            if let Some(news) = self.ready.pop_front() {
                self.heartbeat_at = Instant::now() + HEARTBEAT;
                return Ok(news);
            }
            match &mut self.live {
                None => self.catch_up().await?,
                Some(live) => {
                    let page = tokio::select! {
                        page = live.pages.recv() => page.map_err(|error| missed(&error))?,
                        () = sleep_until(self.heartbeat_at) => {
                            self.beat()?;
                            continue;
                        }
                    };
                    self.take_live(&page);
                }
            }
        }
    }

    /// Reads on in the log, and at its end goes over to what is told live.
    async fn catch_up(&mut self) -> Result<(), Error> {
        let engine = Arc::clone(&self.engine);
        if self.read_on(&engine).await? {
            return Ok(());
        }
        let live = engine.events.subscribe().await?;
        // On to the end, for what has come between: more than a page, where the server has only just begun and
        // the subscription took long.
        while self.read_on(&engine).await? {}
        self.live = Some(live);
        Ok(())
    }

    /// Reads a page of the log; whether there may be more.
    async fn read_on(&mut self, engine: &Engine) -> Result<bool, Error> {
        let tail = engine.events.log().tail(Some(&self.cursor), PAGE).await?;
        // A full page can be short of a few: of what is in the log not all are events.
        let more = tail.events.len() >= PAGE / 2;
        self.take_read(tail);
        Ok(more)
    }

    fn take_read(&mut self, tail: Tail) {
        self.seen.extend(tail.events.iter().filter_map(session_id));
        let surplus = self.seen.len().saturating_sub(4 * PAGE);
        self.seen.drain(..surplus);
        self.take(tail);
    }

    /// What is told live can lie a little behind what was read of the log.
    fn take_live(&mut self, page: &Page) {
        let Page { gap, events, to } = page;
        let new = |event: &&Event| session_id(event).is_none_or(|id| !self.seen.contains(&id));
        let new: Vec<_> = events.iter().filter(new).cloned().collect();
        if new.len() == events.len() {
            self.seen.clear();
        } else if new.is_empty() && !gap {
            // Its end would lead back.
            return;
        }
        self.take(Tail { events: new, next: to.clone(), gap: *gap });
    }

    fn take(&mut self, tail: Tail) {
        let Tail { events, next, gap } = tail;
        if gap {
            self.ready.push_back((self.cursor.clone(), News::Resync));
        }
        for event in events {
            let news = match event {
                Event::Ended { user_id, ended } if self.filter.wants(&user_id, &ended) => {
                    News::Ended { user_id, ended }
                }
                Event::Ended { .. } | Event::Changed { .. } => continue,
                Event::Epoch(epoch) => News::Everyone(epoch),
            };
            // In the middle of a page one goes on at its beginning: rather twice than not at all.
            self.ready.push_back((self.cursor.clone(), news));
        }
        if let Some((cursor, _)) = self.ready.back_mut() {
            cursor.clone_from(&next);
        }
        self.cursor = next;
    }

    /// Nothing has come for long. While the log does not answer, nothing is known, and nothing said.
    fn beat(&mut self) -> Result<(), Error> {
        self.heartbeat_at = Instant::now() + HEARTBEAT;
        // Read before it is looked whether there is something: what is not there by then is not part of it.
        let as_of = self.engine.events.as_of();
        let page = match self.live.as_mut().map(|live| live.pages.try_recv()) {
            Some(Ok(page)) => page,
            Some(Err(TryRecvError::Lagged(_))) => return Err(Error::TooSlow),
            Some(Err(_)) | None => {
                if self.engine.clock.now().since(as_of) < HEARTBEAT {
                    self.ready.push_back((self.cursor.clone(), News::Heartbeat(Some(as_of))));
                }
                return Ok(());
            }
        };
        self.take_live(&page);
        Ok(())
    }
}

fn missed(error: &RecvError) -> Error {
    match error {
        RecvError::Lagged(_) => Error::TooSlow,
        RecvError::Closed => Error::Internal("the hub is gone".into()),
    }
}

impl Filter {
    fn wants(&self, user_id: &UserId, ended: &Ended) -> bool {
        self.user_id.as_ref().is_none_or(|wanted| wanted == user_id)
            && self.slot.as_ref().is_none_or(|wanted| *wanted == ended.slot)
    }
}

fn session_id(event: &Event) -> Option<SessionId> {
    match event {
        Event::Ended { ended, .. } => Some(ended.session_id),
        Event::Changed { .. } | Event::Epoch(_) => None,
    }
}
