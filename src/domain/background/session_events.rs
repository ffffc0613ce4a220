//! Session events: follows the event log and notifies watches and readers of the revocation feed.
//!
//! Every commit that ends sessions appends their events to the log in the same atomic step. One task per process
//! follows the log. It passes each event to the waiters of that session ([`waiters`]) and each page to a ring that all
//! readers of the feed share, so a stream costs an entry in a table and no connection. A slow reader does not delay the
//! task: it falls out of the ring and gets an error.
//!
//! No event is missed between reading and waiting, because readers subscribe first: a watch registers before it loads
//! the sessions; a feed catches up with the log, subscribes, and reads once more. Ends without an event are found by
//! rechecks: a session is checked when it lapses, and after a gap in the log every watched session is checked,
//! [`MAX_RECHECKS`] at a time.

mod waiters;
mod watch_limits;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, broadcast};

use crate::{
    domain::{
        Error,
        epoch::CurrentEpoch,
        ports::{Clock, Cursor, Event, EventLog, StoreError, Tail},
        types::{Claims, Timestamp},
    },
    trace::Root,
};

use self::watch_limits::WatchCounts;
pub use self::watch_limits::WatchLimits;
pub(in crate::domain) use self::{
    waiters::{Signal, Waiter, Waiters},
    watch_limits::WatchPermit,
};

/// Events that are read at once.
const PAGE_SIZE: usize = 256;
/// How long one call to follow the log waits for events.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after an error of the log.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Pages that a reader of the feed may be behind.
const RING_SIZE: usize = 1024;
/// Interval at which lapsed sessions are found.
const LAPSE_INTERVAL: Duration = Duration::from_millis(10);
/// Watched sessions that are read from the store at the same time.
const MAX_RECHECKS: usize = 64;

/// Follows the event log and notifies watches and readers of the feed.
pub struct SessionEvents {
    log: Arc<dyn EventLog>,
    waiters: Arc<Waiters>,
    ring: broadcast::Sender<Arc<LogPage>>,
    /// The position of the task in the log; `None` before its first read. Locked while a page is published, so that a
    /// subscription knows the position at which it begins.
    position: Mutex<Option<Cursor>>,
    /// All events up to this time have been published. In microseconds.
    as_of: AtomicU64,
    streams: Arc<Semaphore>,
    watches: Arc<WatchCounts>,
    rechecks: Semaphore,
}

/// Events that were read from the log together.
#[derive(Debug)]
pub(in crate::domain) struct LogPage {
    /// Events before these were missed.
    pub(in crate::domain) gap: bool,
    pub(in crate::domain) events: Vec<Event>,
    /// The cursor after the last event.
    pub(in crate::domain) next: Cursor,
}

/// Receives the pages that are published from now on.
pub(in crate::domain) struct Subscription {
    pub(in crate::domain) pages: broadcast::Receiver<Arc<LogPage>>,
    /// The cursor before the first page.
    pub(in crate::domain) from: Cursor,
}

impl SessionEvents {
    /// Creates the service over an event log. [`Self::run`] follows it.
    pub fn new(log: Arc<dyn EventLog>, limits: WatchLimits) -> Self {
        Self {
            log,
            waiters: Arc::default(),
            ring: broadcast::Sender::new(RING_SIZE),
            position: Mutex::default(),
            as_of: AtomicU64::default(),
            streams: Arc::new(Semaphore::new(limits.streams)),
            watches: WatchCounts::new(limits),
            rechecks: Semaphore::new(MAX_RECHECKS),
        }
    }

    /// The number of open watches.
    pub fn watch_count(&self) -> usize {
        self.waiters.len()
    }

    /// The number of readers of the feed.
    pub fn reader_count(&self) -> usize {
        self.ring.receiver_count()
    }

    /// Reserves one of the streams that may be open at a time.
    pub(in crate::domain) fn reserve_stream(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Error::Overloaded {
            what: "too many open streams",
            retry_after: Duration::from_secs(5),
        })
    }

    /// Reserves a stream for a watch, within the limits of its session and its user.
    pub(in crate::domain) fn reserve_watch(
        &self,
        claims: &Claims,
    ) -> Result<(OwnedSemaphorePermit, WatchPermit), Error> {
        let watch = self.watches.reserve(claims)?;
        Ok((self.reserve_stream()?, watch))
    }

    pub(in crate::domain) fn waiters(&self) -> &Arc<Waiters> {
        &self.waiters
    }

    /// Waits for permission to read a watched session from the store.
    pub(in crate::domain) async fn recheck_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.rechecks.acquire().await.ok()
    }

    pub(in crate::domain) fn log(&self) -> &dyn EventLog {
        &*self.log
    }

    /// The time up to which all events have been published.
    pub fn as_of(&self) -> Timestamp {
        Timestamp::from_micros(self.as_of.load(Ordering::Acquire))
    }

    /// Subscribes to the pages that are published from now on.
    pub(in crate::domain) async fn subscribe(&self) -> Result<Subscription, Error> {
        let started = Instant::now();
        loop {
            {
                let position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(from) = position.clone() {
                    return Ok(Subscription { pages: self.ring.subscribe(), from });
                }
            }
            // The server has just started, or its store does not answer.
            if started.elapsed() > FOLLOW_TIMEOUT {
                let cause = "the event log has not answered yet".to_owned();
                return Err(StoreError::Unavailable { store: "events", cause }.into());
            }
            tokio::time::sleep(LAPSE_INTERVAL).await;
        }
    }

    fn publish(&self, tail: Tail, as_of: Timestamp) {
        let Tail { events, next, gap, complete } = tail;
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        *position = Some(next.clone());
        if gap || !events.is_empty() {
            // It fails if there are no readers.
            let _ = self.ring.send(Arc::new(LogPage { gap, events, next }));
        }
        drop(position);
        if complete {
            self.as_of.store(as_of.as_micros(), Ordering::Release);
        }
    }
}

/// The background task.
impl SessionEvents {
    /// Notifies of events, lapses and epochs. Never returns.
    pub async fn run(&self, epoch: &CurrentEpoch, clock: &dyn Clock) {
        tokio::join!(self.follow_log(epoch, clock), self.notify_lapses(clock), self.notify_epochs(epoch));
    }

    async fn follow_log(&self, current: &CurrentEpoch, clock: &dyn Clock) {
        let mut position = None;
        let mut is_unavailable = false;
        let mut is_corrupt = false;
        loop {
            let as_of = clock.now();
            let read = match &position {
                None => self.log.tail(None, 1).await,
                Some(position) => self.log.follow(position, PAGE_SIZE, FOLLOW_TIMEOUT).await,
            };
            let mut tail = match read {
                Ok(tail) => {
                    if std::mem::take(&mut is_unavailable) {
                        tracing::info!("following the event log again");
                    }
                    is_corrupt = false;
                    tail
                }
                Err(StoreError::Unavailable { cause, .. }) => {
                    // Logged here too: health does not notice if only the log is unavailable, as without a permission.
                    if !std::mem::replace(&mut is_unavailable, true) {
                        tracing::warn!(
                            error.message = cause,
                            "failed to follow the event log; watches and feeds get no events until it answers"
                        );
                    }
                    // The position stays, so no event is missed.
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Err(StoreError::Corrupt { cause, .. }) => {
                    if !std::mem::replace(&mut is_corrupt, true) {
                        tracing::error!(
                            error.message = cause,
                            "the event log holds invalid data; readers of the feed get a resync"
                        );
                    }
                    // Invalid events are handled as lost ones.
                    position = None;
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            // Without a position, events since a watch or a feed began may have been missed.
            tail.gap |= position.is_none();
            let root = if tail.events.is_empty() {
                None
            } else {
                Root::background("process session events", "consumer")
            };
            if let Some(root) = &root {
                root.span().record("messaging.batch.message_count", tail.events.len());
            }
            for event in &tail.events {
                match event {
                    Event::Ended { ended, .. } => self.waiters.notify_ended(ended),
                    Event::Changed { .. } => {}
                    Event::Epoch(epoch) => {
                        current.learn(epoch);
                        self.waiters.notify_epoch(epoch);
                    }
                }
            }
            if tail.gap {
                self.waiters.recheck_all();
            }
            position = Some(tail.next.clone());
            self.publish(tail, as_of);
        }
    }

    /// Requests a recheck of sessions that lapse, because these end without an event.
    async fn notify_lapses(&self, clock: &dyn Clock) {
        loop {
            tokio::time::sleep(LAPSE_INTERVAL).await;
            self.waiters.recheck_lapsed(clock.now());
        }
    }

    /// Notifies of epochs that are found in the register, in case the log has lost their events.
    async fn notify_epochs(&self, current: &CurrentEpoch) {
        let notify = async {
            let mut latest = 0;
            loop {
                let epoch = current.after(latest).await;
                self.waiters.notify_epoch(&epoch);
                latest = epoch.number;
            }
        };
        tokio::join!(current.keep(), notify);
    }
}
