//! What a backend has to do: compare-and-set registers of bytes, and a log.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use crate::domain::{
    ports::{Cursor, StoreError},
    types::Timestamp,
};

/// How long the log of any backend remembers, at most about. Far longer than its readers are behind.
pub const EVENT_RETENTION: Duration = Duration::from_hours(24);

/// A value as it stands in its register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedValue {
    /// Grows with every commit; never 0.
    pub revision: u64,
    /// What was committed.
    pub bytes: Bytes,
}

/// What to write.
#[derive(Debug, Clone)]
pub struct EncodedChange {
    /// The revision that must stand there now; 0 where there must be nothing.
    pub expected: u64,
    /// The new value, at a revision above the expected one.
    pub value: EncodedValue,
    /// The register may be forgotten from then on.
    pub keep_until: Timestamp,
    /// Appended to the log in the same atomic step.
    pub events: Vec<Bytes>,
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodedCommit {
    /// The value stands there now. Also the answer to a repeated commit that changed nothing.
    Committed,
    /// Something else stood there, and nothing was written. This stands there since then, or a moment later.
    Conflict(Option<EncodedValue>),
}

/// Events from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedTail {
    /// As they were appended.
    pub events: Vec<Bytes>,
    /// Where to go on.
    pub next: Cursor,
    /// Some were missed.
    pub gap: bool,
}

/// A backend.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What messages to the operator call it.
    const NAME: &'static str;

    /// What stands in a register.
    async fn load(&self, key: &str) -> Result<Option<EncodedValue>, StoreError>;

    /// See `Registers::load_many`.
    async fn load_many(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        join_all(keys.iter().map(|key| self.load(key))).await
    }

    /// See `Registers::commit`.
    async fn commit(&self, key: &str, change: EncodedChange) -> Result<EncodedCommit, StoreError>;

    /// See `EventLog::tail`.
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<EncodedTail, StoreError>;

    /// See `EventLog::follow`.
    async fn follow(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError>;
}
