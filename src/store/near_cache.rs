//! The near-cache: the registers of sessions that this process has read, for verdicts that allow some staleness.
//!
//! Two decorators share the entries, and the domain does not know about either: [`NearCache`] wraps the registers and
//! stores what is read and committed through it; [`InvalidatingLog`] wraps the event log and removes the entries that
//! an event reports as changed. The invalidation protocol has three parts:
//!
//! - **Read tickets.** A read that is overtaken by a change must not fill the cache with the old value after the
//!   invalidation, because no further event would remove it. So a read takes a ticket before it is sent; an
//!   invalidation in the same shard voids the ticket, and then the result is not cached.
//! - **`as_of`.** An entry is correct as of the latest time up to which the log has been read: every earlier change has
//!   removed its entry. That time is the one before the request that the log has answered, and it advances with every
//!   answer, also while the log is quiet ([`EventLog::follow_closely`]). [`Registers::recall`] answers while it is
//!   within the request's `max_staleness`, never beyond [`STALENESS_BOUND`], and not later than the same bound after
//!   the entry was read, because a register that disappears without a commit (evicted, deleted by hand) appends no event.
//! - **`invalidate_all`.** After a gap in the log, or when a reader starts without a cursor, any register may have
//!   changed. All entries and all tickets become void.
//!
//! On the embedded store no other process writes, so an entry is always exact and needs no log.

mod entries;

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;

use self::entries::Entries;
use crate::{
    domain::{
        ports::{
            Change, Commit, Cursor, Event, EventLog, Moment, Registers, Revision, StoreError, Tail, Versioned,
        },
        sessions::UserSessions,
        types::UserId,
    },
    metrics::store::{CacheResult, StoreMetrics},
};

/// The upper bound of the staleness of cached answers, whatever a request allows.
pub const STALENESS_BOUND: Duration = Duration::from_secs(5);

/// Registers of sessions with a cache in front.
pub struct NearCache {
    inner: Arc<dyn Registers<UserSessions>>,
    entries: Arc<Entries>,
    /// No other process writes to the store, so that entries are always exact.
    is_only_writer: bool,
    /// Set by the first request that allows staleness. Until then nothing is cached, because a cache that no request
    /// may use only costs.
    enabled: Arc<AtomicBool>,
    metrics: Arc<StoreMetrics>,
}

/// An event log that invalidates entries as it is followed.
pub struct InvalidatingLog {
    inner: Arc<dyn EventLog>,
    entries: Arc<Entries>,
    /// Requests allow staleness, so that it matters how current the entries are.
    follows_closely: Arc<AtomicBool>,
}

/// Wraps the two ports of a store with a cache of at most about `max_bytes`. `is_only_writer` says that no other
/// process writes to the store.
pub fn cached(
    sessions: Arc<dyn Registers<UserSessions>>,
    events: Arc<dyn EventLog>,
    max_bytes: u64,
    is_only_writer: bool,
) -> (NearCache, InvalidatingLog) {
    let entries = Arc::new(Entries::new(max_bytes));
    let enabled = Arc::new(AtomicBool::new(is_only_writer));
    let follows_closely = if is_only_writer { Arc::default() } else { Arc::clone(&enabled) };
    let log = InvalidatingLog { inner: events, entries: Arc::clone(&entries), follows_closely };
    (NearCache { inner: sessions, entries, is_only_writer, enabled, metrics: Arc::default() }, log)
}

impl NearCache {
    /// Counts its requests in `metrics`.
    #[must_use]
    pub fn metered(self, metrics: &Arc<StoreMetrics>) -> Self {
        Self { metrics: Arc::clone(metrics), ..self }
    }

    /// Returns the number of entries and their approximate size in bytes.
    pub fn size(&self) -> (usize, u64) {
        self.entries.size()
    }
}

#[async_trait]
impl Registers<UserSessions> for NearCache {
    async fn load(&self, key: &UserId) -> Result<Versioned<UserSessions>, StoreError> {
        if !self.enabled.load(Ordering::Relaxed) {
            return self.inner.load(key).await;
        }
        let ticket = self.entries.begin_read(key);
        let read = self.inner.load(key).await?;
        self.entries.end_read(key, &read, ticket);
        Ok(read)
    }

    async fn load_many(&self, keys: &[&UserId]) -> Vec<Result<Versioned<UserSessions>, StoreError>> {
        if !self.enabled.load(Ordering::Relaxed) {
            return self.inner.load_many(keys).await;
        }
        let tickets: Vec<_> = keys.iter().map(|key| self.entries.begin_read(key)).collect();
        let reads = self.inner.load_many(keys).await;
        for ((key, ticket), read) in keys.iter().zip(tickets).zip(&reads) {
            if let Ok(read) = read {
                self.entries.end_read(key, read, ticket);
            }
        }
        reads
    }

    async fn confirm(&self, key: &UserId) -> Result<(), StoreError> {
        self.inner.confirm(key).await
    }

    fn recall(&self, key: &UserId, max_staleness: Duration, now: &Moment) -> Option<Versioned<UserSessions>> {
        let found = if self.is_only_writer {
            self.entries.get(key)
        } else if max_staleness.is_zero() {
            self.metrics.count_cached(CacheResult::Bypass);
            return None;
        } else {
            if !self.enabled.load(Ordering::Relaxed) {
                self.enabled.store(true, Ordering::Relaxed);
            }
            self.entries.get_as_of(key, **now, max_staleness.min(STALENESS_BOUND))
        };
        self.metrics.count_cached(if found.is_some() { CacheResult::Hit } else { CacheResult::Miss });
        found
    }

    async fn commit(
        &self,
        key: &UserId,
        expected: Revision,
        change: Change<UserSessions>,
    ) -> Result<Commit<UserSessions>, StoreError> {
        // The commit may have happened even if it fails or is cancelled, so it voids the entry and all earlier
        // tickets.
        let invalidate = InvalidateOnDrop { entries: &self.entries, key };
        if !self.enabled.load(Ordering::Relaxed) {
            return self.inner.commit(key, expected, change).await;
        }
        let ticket = self.entries.begin_read(key);
        let state = Arc::new(change.state.clone());
        let committed = self.inner.commit(key, expected, change).await?;
        if let Commit::Committed(revision) = committed {
            // The committed value replaces the entry, so that a busy user's next request finds it.
            mem::forget(invalidate);
            self.entries.end_commit(key, Versioned { revision, state }, ticket);
        }
        Ok(committed)
    }

    async fn commit_many(
        &self,
        commits: Vec<(&UserId, Revision, Change<UserSessions>)>,
    ) -> Vec<Result<Commit<UserSessions>, StoreError>> {
        // As in `commit`.
        let invalidate = commits.iter().map(|(key, ..)| InvalidateOnDrop { entries: &self.entries, key });
        let invalidate: Vec<_> = invalidate.collect();
        if !self.enabled.load(Ordering::Relaxed) {
            return self.inner.commit_many(commits).await;
        }
        let ticket = |(key, _, change): &(&UserId, _, Change<UserSessions>)| {
            (self.entries.begin_read(key), Arc::new(change.state.clone()))
        };
        let tickets: Vec<_> = commits.iter().map(ticket).collect();
        let committed = self.inner.commit_many(commits).await;
        let mut done = Vec::with_capacity(tickets.len());
        for ((invalidate, (ticket, state)), committed) in invalidate.into_iter().zip(tickets).zip(&committed)
        {
            if let Ok(Commit::Committed(revision)) = *committed {
                done.push((invalidate.key, Versioned { revision, state }, ticket));
                mem::forget(invalidate);
            }
        }
        self.entries.end_commits(done);
        committed
    }
}

struct InvalidateOnDrop<'a> {
    entries: &'a Entries,
    key: &'a UserId,
}

impl Drop for InvalidateOnDrop<'_> {
    fn drop(&mut self) {
        self.entries.invalidate(self.key);
    }
}

#[async_trait]
impl EventLog for InvalidatingLog {
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError> {
        if after.is_some() {
            return self.inner.tail(after, limit).await;
        }
        // The reader starts without a cursor and does not learn about earlier changes. What is read from now on is
        // newer.
        let as_of = Instant::now();
        let tail = self.inner.tail(None, limit).await?;
        self.entries.invalidate_all();
        self.entries.mark_current(as_of);
        Ok(tail)
    }

    async fn follow(&self, after: &Cursor, limit: usize, patience: Duration) -> Result<Tail, StoreError> {
        let as_of = Instant::now();
        let tail = if self.follows_closely.load(Ordering::Relaxed) {
            // The entries are those of the position `after` until this returns.
            let quiet = |as_of| self.entries.mark_current(as_of);
            self.inner.follow_closely(after, limit, patience, &quiet).await?
        } else {
            self.inner.follow(after, limit, patience).await?
        };
        if tail.gap {
            self.entries.invalidate_all();
        }
        for event in &tail.events {
            match event {
                Event::Ended { user_id, .. } | Event::Changed { user_id } => self.entries.invalidate(user_id),
                // Every verdict checks the epoch itself.
                Event::Epoch(_) => {}
            }
        }
        if tail.complete {
            self.entries.mark_current(as_of);
        }
        Ok(tail)
    }
}
