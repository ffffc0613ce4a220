//! The near-cache: what this process has read of sessions, for verdicts that need not be of this moment.
//!
//! It decorates two ports and the domain does not know that it is there. [`NearCache`] remembers what is
//! read and committed through it; [`InvalidatingLog`] looks on as the log is followed and forgets what an event
//! tells of. When an entry may answer, and what may be remembered at all, `entries` decides.

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
use crate::domain::{
    ports::{
        Change, Commit, Cursor, Event, EventLog, Moment, Registers, Revision, StoreError, Tail, Versioned,
    },
    sessions::UserSessions,
    types::UserId,
};

/// What may be told from the cache is never older than this, whatever a request allows.
pub const STALENESS_BOUND: Duration = Duration::from_secs(5);

/// The registers of sessions, with a cache in front.
pub struct NearCache {
    inner: Arc<dyn Registers<UserSessions>>,
    entries: Arc<Entries>,
    /// Nobody else writes to the store, so that what was read and written through here is all there is.
    alone: bool,
    /// Somebody has asked for what is remembered. Until then nothing is: where every request wants the store's
    /// own answer, a cache would only cost.
    wanted: AtomicBool,
}

/// The event log, with an eye on it.
pub struct InvalidatingLog {
    inner: Arc<dyn EventLog>,
    entries: Arc<Entries>,
}

/// Puts a cache of at most so many bytes in front of a store. `alone` says that no other process writes to it.
pub fn cached(
    sessions: Arc<dyn Registers<UserSessions>>,
    events: Arc<dyn EventLog>,
    bytes: u64,
    alone: bool,
) -> (NearCache, InvalidatingLog) {
    let entries = Arc::new(Entries::new(bytes));
    let log = InvalidatingLog { inner: events, entries: Arc::clone(&entries) };
    (NearCache { inner: sessions, entries, alone, wanted: AtomicBool::new(alone) }, log)
}

impl NearCache {
    /// How many users are remembered, and about how many bytes they take.
    pub fn held(&self) -> (usize, u64) {
        self.entries.held()
    }
}

#[async_trait]
impl Registers<UserSessions> for NearCache {
    async fn load(&self, key: &UserId) -> Result<Versioned<UserSessions>, StoreError> {
        if !self.wanted.load(Ordering::Relaxed) {
            return self.inner.load(key).await;
        }
        let ticket = self.entries.begin_read(key);
        let read = self.inner.load(key).await?;
        self.entries.end_read(key, &read, ticket);
        Ok(read)
    }

    async fn load_many(&self, keys: &[&UserId]) -> Vec<Result<Versioned<UserSessions>, StoreError>> {
        if !self.wanted.load(Ordering::Relaxed) {
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

    fn recall(&self, key: &UserId, max_staleness: Duration, now: &Moment) -> Option<Versioned<UserSessions>> {
        if self.alone {
            return self.entries.get(key);
        }
        if max_staleness.is_zero() {
            return None;
        }
        if !self.wanted.load(Ordering::Relaxed) {
            self.wanted.store(true, Ordering::Relaxed);
        }
        self.entries.get_as_of(key, **now, max_staleness.min(STALENESS_BOUND))
    }

    async fn commit(
        &self,
        key: &UserId,
        expected: Revision,
        change: Change<UserSessions>,
    ) -> Result<Commit<UserSessions>, StoreError> {
        // Whatever was read before is not to be remembered after: also where nobody waits any more to hear
        // whether this has succeeded.
        let after = Forget { entries: &self.entries, key };
        if !self.wanted.load(Ordering::Relaxed) {
            return self.inner.commit(key, expected, change).await;
        }
        let ticket = self.entries.begin_read(key);
        let state = Arc::new(change.state.clone());
        let committed = self.inner.commit(key, expected, change).await?;
        if let Commit::Committed(revision) = committed {
            // The requests of a busy user need not all ask the store what has just been written there.
            mem::forget(after);
            self.entries.end_commit(key, Versioned { revision, state }, ticket);
        }
        Ok(committed)
    }
}

/// Forgets a register when it is dropped.
struct Forget<'a> {
    entries: &'a Entries,
    key: &'a UserId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.entries.forget(self.key);
    }
}

#[async_trait]
impl EventLog for InvalidatingLog {
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError> {
        if after.is_some() {
            return self.inner.tail(after, limit).await;
        }
        // The one who follows begins anew, and does not see what has happened before. What is read from now on
        // is newer than that.
        let as_of = Instant::now();
        let tail = self.inner.tail(None, limit).await?;
        self.entries.lose_sight();
        self.entries.seen_until(as_of);
        Ok(tail)
    }

    async fn follow(&self, after: &Cursor, limit: usize, patience: Duration) -> Result<Tail, StoreError> {
        let as_of = Instant::now();
        let tail = self.inner.follow(after, limit, patience).await?;
        if tail.gap {
            self.entries.lose_sight();
        }
        for event in &tail.events {
            match event {
                Event::Ended { user_id, .. } | Event::Changed { user_id } => self.entries.forget(user_id),
                // Verdicts ask for the epoch themselves.
                Event::Epoch(_) => {}
            }
        }
        self.entries.seen_until(as_of);
        Ok(tail)
    }
}
