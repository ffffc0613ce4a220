//! Ports: the traits through which the domain uses clocks, stores and the receiver of the webhook.

mod accounts;
mod callers;
mod webhook;

use std::{
    cell::LazyCell,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    sessions::{Ended, Epoch},
    types::{Timestamp, UserId},
};

pub use self::{
    accounts::{Account, AccountChange, Accounts, Debt, DebtCause, Disabled, Imported},
    callers::{Caller, CallerKeyHash, Callers},
    webhook::{DeliveryError, EventBatch, Receiver},
};

/// A store did not answer, or answered with something invalid.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store could not be reached, returned an error, or took too long. A write may or may not have happened.
    /// Trying again later can help.
    #[error("the {store} store is unavailable: {cause}")]
    Unavailable {
        /// The name of the store.
        store: &'static str,
        /// The cause, for the log.
        cause: String,
    },
    /// The store returned data that this version did not write or cannot decode. Trying again does not help.
    #[error("the {store} store holds invalid data: {cause}")]
    Corrupt {
        /// The name of the store.
        store: &'static str,
        /// What is wrong with the data, for the log.
        cause: String,
    },
}

impl StoreError {
    /// The kind of the error, for traces.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Corrupt { .. } => "corrupt",
        }
    }

    /// Whether trying again later can help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// The wall clock. It can step back, and differs between replicas; see `Generation`.
pub trait Clock: Send + Sync {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// A state that a register can hold.
pub trait State: Default + Send + Sync + 'static {
    /// The key of such a register.
    type Key: Send + Sync;
    /// The events that a commit appends to the event log.
    type Event: Send + Sync;
}

/// The number of a value in its register. It grows with every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of an empty register.
    pub const ABSENT: Self = Self(0);
}

/// A value and its revision.
#[derive(Debug)]
pub struct Versioned<S> {
    /// The revision that a commit which follows from this value expects.
    pub revision: Revision,
    /// The value, or the default value if the register is empty.
    pub state: Arc<S>,
}

impl<S> Clone for Versioned<S> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, state: Arc::clone(&self.state) }
    }
}

/// The next value of a register.
#[derive(Debug, Clone)]
pub struct Change<S: State> {
    /// The new value.
    pub state: S,
    /// The time after which the store may delete the register, because nothing in it matters any more.
    pub keep_until: Timestamp,
    /// The events to append to the event log in the same atomic step.
    pub events: Vec<S::Event>,
}

/// The result of a commit.
#[derive(Debug)]
pub enum Commit<S> {
    /// The register holds the new value at this revision. A crash of this process does not undo that.
    Committed(Revision),
    /// The register had another revision, and nothing was written. It holds this value.
    Conflict(Versioned<S>),
}

/// The current instant, read from the clock on first use.
pub type Moment = LazyCell<Instant>;

/// Registers under compare-and-set, each holding one `S`.
#[async_trait]
pub trait Registers<S: State>: Send + Sync {
    /// Reads a register.
    async fn load(&self, key: &S::Key) -> Result<Versioned<S>, StoreError>;

    /// Reads many registers. Returns one result for each key, in the order of the keys.
    async fn load_many(&self, keys: &[&S::Key]) -> Vec<Result<Versioned<S>, StoreError>> {
        join_all(keys.iter().map(|key| self.load(key))).await
    }

    /// Returns the part of the store that answers for this register. A part that is slow delays no load of another one
    /// unless one call of `load_many` asks for both.
    fn shard(&self, key: &S::Key) -> usize {
        let _ = key;
        0
    }

    /// Returns a value that the register held at most `max_staleness` before `now`, if one is in memory.
    fn recall(&self, key: &S::Key, max_staleness: Duration, now: &Moment) -> Option<Versioned<S>> {
        let _ = (key, max_staleness, now);
        None
    }

    /// Replaces the value if the register still has the revision `expected`, and appends the events in the same atomic
    /// step. Can be repeated safely: the second of two equal commits changes nothing and succeeds.
    async fn commit(
        &self,
        key: &S::Key,
        expected: Revision,
        change: Change<S>,
    ) -> Result<Commit<S>, StoreError>;

    /// Makes many commits, each as [`Registers::commit`] does. Returns one result for each, in their order.
    async fn commit_many(
        &self,
        commits: Vec<(&S::Key, Revision, Change<S>)>,
    ) -> Vec<Result<Commit<S>, StoreError>> {
        join_all(commits.into_iter().map(|(key, expected, change)| self.commit(key, expected, change))).await
    }

    /// Waits until everything that was read of a register before the call is as durable as an acknowledged commit. It
    /// may come from a commit whose outcome is unknown to the caller that made it.
    async fn confirm(&self, key: &S::Key) -> Result<(), StoreError> {
        let _ = key;
        Ok(())
    }
}

/// An opaque position in the event log. Only the log that returned it understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// An entry of the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session has ended.
    Ended {
        /// The user.
        user_id: UserId,
        /// The session and the reason.
        ended: Ended,
    },
    /// The profile of a user (the username or the roles) has changed.
    Changed {
        /// The user.
        user_id: UserId,
    },
    /// An epoch has begun, so all earlier sessions of all users have ended.
    Epoch(Epoch),
}

/// Events after a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The events. Those of one user are in the order of their commits.
    pub events: Vec<Event>,
    /// The cursor to continue with.
    pub next: Cursor,
    /// Events between the cursor and these were trimmed, or the log was lost. Everything derived from the log must be
    /// discarded.
    pub gap: bool,
    /// Whether these are all events that were in the log when the read began, or more. Otherwise there are more, or a
    /// part of the log did not answer.
    pub complete: bool,
}

/// The log that commits append to.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Reads about `limit` events after `after`; without a cursor, returns no events and the end of the log. Delivery
    /// is at least once: after a crash an event may be read again, but none is skipped without a gap.
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError>;

    /// Like `tail`, but waits for events after `after` from any process. Returns no events if none arrive within
    /// `timeout`.
    ///
    /// A gap is reported within about one `timeout`, however busy the log is. An error is returned at once; the reader
    /// pauses before it tries again. After an error, or if the future is dropped, the same cursor remains valid.
    ///
    /// Each process has one reader. A store may keep a connection for it, on which a second reader would wait for the
    /// first.
    async fn follow(&self, after: &Cursor, limit: usize, timeout: Duration) -> Result<Tail, StoreError>;

    /// Like `follow`, and while it waits calls `quiet` with times at which the log had no event after `after`, about 100
    /// ms apart. A store that cannot tell does not call it.
    async fn follow_closely(
        &self,
        after: &Cursor,
        limit: usize,
        timeout: Duration,
        quiet: &Quiet<'_>,
    ) -> Result<Tail, StoreError> {
        let _ = quiet;
        self.follow(after, limit, timeout).await
    }
}

/// Receives a time at which the event log had no event after a cursor.
pub type Quiet<'a> = dyn Fn(Instant) + Send + Sync + 'a;
