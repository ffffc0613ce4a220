//! What the rules ask of the world: capabilities, not tables.

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

/// Why a store did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, refused, or took too long. What was asked of it may or may not have
    /// happened. Trying again later can help.
    #[error("the {store} store is unavailable: {cause}")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// What it said, for the log.
        cause: String,
    },
    /// It answered with something that we did not write or cannot read. Trying again does not help.
    #[error("the {store} store holds something unreadable: {cause}")]
    Corrupt {
        /// Which store.
        store: &'static str,
        /// What is wrong with it, for the log.
        cause: String,
    },
}

impl StoreError {
    /// Whether trying again later can help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// What time it is. Wall clocks step back and differ between replicas; see `Generation`.
pub trait Clock: Send + Sync {
    /// This moment.
    fn now(&self) -> Timestamp;
}

/// What a register can hold.
pub trait State: Default + Send + Sync + 'static {
    /// What such registers are named by.
    type Key: Send + Sync;
    /// What their changes append to the event log.
    type Event: Send + Sync;
}

/// Which value of a register this is. It grows with every commit to the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a register that holds nothing.
    pub const ABSENT: Self = Self(0);
}

/// A value as it stood in its register.
#[derive(Debug)]
pub struct Versioned<S> {
    /// To be expected by the commit that follows from having read this.
    pub revision: Revision,
    /// The value; the default one where the register holds nothing.
    pub state: Arc<S>,
}

impl<S> Clone for Versioned<S> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, state: Arc::clone(&self.state) }
    }
}

/// What to write to a register.
#[derive(Debug, Clone)]
pub struct Change<S: State> {
    /// The new value.
    pub state: S,
    /// From when on the store may forget the register: nothing in it matters any more then.
    pub keep_until: Timestamp,
    /// Appended to the event log in the same atomic step.
    pub events: Vec<S::Event>,
}

/// How a commit ended.
#[derive(Debug)]
pub enum Commit<S> {
    /// The register holds the new value, at this revision, and a crash of the process that said so will not undo it.
    Committed(Revision),
    /// The register had moved on; nothing was written. This stands there instead.
    Conflict(Versioned<S>),
}

/// This moment, which is read off the clock only if somebody wants to know.
pub type Moment = LazyCell<Instant>;

/// Compare-and-set registers, each holding one `S`.
#[async_trait]
pub trait Registers<S: State>: Send + Sync {
    /// What the register holds.
    async fn load(&self, key: &S::Key) -> Result<Versioned<S>, StoreError>;

    /// What many registers hold, in the order of their keys: as many answers as keys.
    async fn load_many(&self, keys: &[&S::Key]) -> Vec<Result<Versioned<S>, StoreError>> {
        join_all(keys.iter().map(|key| self.load(key))).await
    }

    /// What the register held at some moment at most `max_staleness` before `now`, if that is known without asking.
    fn recall(&self, key: &S::Key, max_staleness: Duration, now: &Moment) -> Option<Versioned<S>> {
        let _ = (key, max_staleness, now);
        None
    }

    /// Replaces the value if the register still is at `expected`, and appends the events, in one
    /// atomic step. Safe to repeat: the second of two equal commits changes nothing and succeeds.
    async fn commit(
        &self,
        key: &S::Key,
        expected: Revision,
        change: Change<S>,
    ) -> Result<Commit<S>, StoreError>;
}

/// A place in the event log. Opaque; only the log that gave it understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// What the event log tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session has ended.
    Ended {
        /// Whose.
        user_id: UserId,
        /// Which, and why.
        ended: Ended,
    },
    /// What verdicts say of a user has changed: the name or the roles.
    Changed {
        /// Whose.
        user_id: UserId,
    },
    /// The sessions of all users have ended, because this epoch has begun.
    Epoch(Epoch),
}

/// Events from some place in the log on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The events, in the order of their commits as far as they concern one user.
    pub events: Vec<Event>,
    /// Where to go on.
    pub next: Cursor,
    /// Events between the cursor and these have been trimmed, or the log was lost: what was derived
    /// from the log must be thrown away.
    pub gap: bool,
}

/// The log of sessions that ended.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// The events after `after`, at most about `limit` of them; without a cursor none, only the end
    /// of the log. At least once: after a crash an event may be seen again, never skipped silently.
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError>;

    /// As `tail`, but waits until there is something after `after`, whichever process commits it. Once
    /// `patience` is over it answers without events, and with the cursor to go on with.
    ///
    /// A gap is told at the latest about one `patience` after it came about, however busy the log is. An
    /// error is told at once, for the reader to pause before it tries again. It skips nothing, nor does
    /// giving up in the middle: the same cursor is good for the next call.
    ///
    /// For the one reader of a process, who calls again as soon as it has been answered: a store may
    /// keep a connection for it, on which a second reader would wait for the first.
    async fn follow(&self, after: &Cursor, limit: usize, patience: Duration) -> Result<Tail, StoreError>;
}
