//! Tells of sessions as they end: one reader of the event log a process, and everybody who wants to know.
//!
//! The log is read once, whoever reads along: those who wait for the end of one session (`waiting`) are
//! found by its id, and the readers of the feed share one ring of pages. Nobody holds up the reader: who does
//! not keep up with the ring is told so.

mod waiters;
mod watch_limits;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use crate::domain::{
    Error,
    epoch::CurrentEpoch,
    ports::{Clock, Cursor, Event, EventLog, StoreError, Tail},
    types::{Claims, Timestamp},
};

use self::watch_limits::WatchCounts;
pub use self::watch_limits::WatchLimits;
pub(in crate::domain) use self::{
    waiters::{Signal, Wait, Waiters},
    watch_limits::WatchPermit,
};

/// Events that are read at once.
const PAGE: usize = 256;
/// How long to wait for events before looking whether the log is still the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait before trying a log again that does not answer.
const PAUSE: Duration = Duration::from_millis(100);
/// Pages that a reader of the feed may be behind.
const RING: usize = 1024;
/// How often it is looked whose time is up.
const TICK: Duration = Duration::from_millis(10);
/// How many of those who wait ask the store at a time, where all of them have to.
const LOOKS: usize = 64;

/// Tells of sessions as they end.
pub struct SessionEvents {
    log: Arc<dyn EventLog>,
    waiting: Arc<Waiters>,
    ring: broadcast::Sender<Arc<Page>>,
    /// Where the reader of the log is; `None` before it has begun. Held while a page is passed on, so that
    /// who subscribes knows from where on.
    place: Mutex<Option<Cursor>>,
    /// What had ended by then has been told, in microseconds.
    as_of: AtomicU64,
    streams: Arc<Semaphore>,
    places: Arc<WatchCounts>,
    looks: Semaphore,
}

/// What was read of the log at once.
#[derive(Debug)]
pub(in crate::domain) struct Page {
    /// Events were missed before these.
    pub(in crate::domain) gap: bool,
    /// In the order of the log.
    pub(in crate::domain) events: Vec<Event>,
    /// Where the page ends.
    pub(in crate::domain) to: Cursor,
}

/// One who reads the pages that come from now on.
pub(in crate::domain) struct Subscription {
    pub(in crate::domain) pages: broadcast::Receiver<Arc<Page>>,
    /// Where they begin.
    pub(in crate::domain) from: Cursor,
}

impl SessionEvents {
    /// Over this log. At most so many streams are open at a time.
    pub fn new(log: Arc<dyn EventLog>, limits: WatchLimits) -> Self {
        Self {
            log,
            waiting: Arc::default(),
            ring: broadcast::Sender::new(RING),
            place: Mutex::default(),
            as_of: AtomicU64::default(),
            streams: Arc::new(Semaphore::new(limits.streams)),
            places: WatchCounts::new(limits),
            looks: Semaphore::new(LOOKS),
        }
    }

    /// How many wait for the end of a session.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many read the feed.
    pub fn readers(&self) -> usize {
        self.ring.receiver_count()
    }

    /// A place for one more stream.
    pub(in crate::domain) fn stream(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Error::Overloaded {
            what: "too many open streams",
            retry_after: Duration::from_secs(5),
        })
    }

    /// A place for one more who watches the session of these claims: no session and no user takes all.
    pub(in crate::domain) fn watch(
        &self,
        claims: &Claims,
    ) -> Result<(OwnedSemaphorePermit, WatchPermit), Error> {
        let place = self.places.take(claims)?;
        Ok((self.stream()?, place))
    }

    /// Those who wait for the end of one session.
    pub(in crate::domain) fn those_waiting(&self) -> &Arc<Waiters> {
        &self.waiting
    }

    /// Leave to ask the store although nothing is known to have happened.
    pub(in crate::domain) async fn look(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.looks.acquire().await.ok()
    }

    /// The log itself, for what has happened before.
    pub(in crate::domain) fn log(&self) -> &dyn EventLog {
        &*self.log
    }

    /// What had ended by then has been told.
    pub(in crate::domain) fn as_of(&self) -> Timestamp {
        Timestamp::from_micros(self.as_of.load(Ordering::Acquire))
    }

    /// Everything from now on.
    pub(in crate::domain) async fn subscribe(&self) -> Result<Subscription, Error> {
        let begun = Instant::now();
        loop {
            {
                let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(from) = place.clone() {
                    return Ok(Subscription { pages: self.ring.subscribe(), from });
                }
            }
            // The server has only just begun, or its store does not answer.
            if begun.elapsed() > PATIENCE {
                let cause = "the event log has not answered yet".to_owned();
                return Err(StoreError::Unavailable { store: "events", cause }.into());
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn publish(&self, tail: Tail, as_of: Timestamp) {
        let Tail { events, next, gap } = tail;
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(next.clone());
        if gap || !events.is_empty() {
            // An error says that nobody reads.
            let _ = self.ring.send(Arc::new(Page { gap, events, to: next }));
        }
        drop(place);
        self.as_of.store(as_of.as_micros(), Ordering::Release);
    }
}

/// The background task that reads the log and notifies.
impl SessionEvents {
    /// Follows the log, the clock and the epoch for as long as it is polled.
    pub async fn run(&self, epoch: &CurrentEpoch, clock: &dyn Clock) {
        tokio::join!(self.follow_log(epoch, clock), self.notify_lapses(clock), self.notify_epochs(epoch));
    }

    async fn follow_log(&self, current: &CurrentEpoch, clock: &dyn Clock) {
        let mut place = None;
        let mut reported = false;
        let mut failing = false;
        loop {
            let as_of = clock.now();
            let read = match &place {
                None => self.log.tail(None, 1).await,
                Some(place) => self.log.follow(place, PAGE, PATIENCE).await,
            };
            let mut tail = match read {
                Ok(tail) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("following the event log again");
                    }
                    reported = false;
                    tail
                }
                Err(StoreError::Unavailable { cause, .. }) => {
                    // Health does not tell of it where only the log is unavailable, as by a missing permission.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            error.message = cause,
                            "cannot follow the event log: watches and feeds learn of nothing until it answers"
                        );
                    }
                    // The place stays: what happens meanwhile is not missed.
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(StoreError::Corrupt { cause, .. }) => {
                    if !std::mem::replace(&mut reported, true) {
                        tracing::error!(
                            error.message = cause,
                            "the event log holds something unreadable; its readers are told to begin anew"
                        );
                    }
                    // What cannot be read is as good as lost.
                    place = None;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // Whoever came before the reader had a place, or while it had lost it, may have missed something.
            tail.gap |= place.is_none();
            for event in &tail.events {
                match event {
                    Event::Ended { ended, .. } => self.waiting.tell(ended),
                    Event::Changed { .. } => {}
                    Event::Epoch(epoch) => {
                        current.learn(epoch);
                        self.waiting.tell_everyone(epoch);
                    }
                }
            }
            if tail.gap {
                self.waiting.tell_all_to_look();
            }
            place = Some(tail.next.clone());
            self.publish(tail, as_of);
        }
    }

    /// A session whose time is up ends without an event.
    async fn notify_lapses(&self, clock: &dyn Clock) {
        loop {
            tokio::time::sleep(TICK).await;
            self.waiting.tell_due(clock.now());
        }
    }

    /// A new epoch is told by the log; and where the log has lost it, by the register.
    async fn notify_epochs(&self, current: &CurrentEpoch) {
        let tell = async {
            let mut told = 0;
            loop {
                let epoch = current.after(told).await;
                self.waiting.tell_everyone(&epoch);
                told = epoch.number;
            }
        };
        tokio::join!(current.keep(), tell);
    }
}
