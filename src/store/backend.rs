//! The trait of backends: compare-and-set registers of bytes, and an event log.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    future::join_all,
    stream::{self, StreamExt as _},
};

use crate::domain::{
    ports::{Cursor, Quiet, StoreError},
    types::Timestamp,
};

/// How long the event log of every backend keeps events, approximately. Readers are never that far behind.
pub const EVENT_RETENTION: Duration = Duration::from_hours(24);

/// The most commits of `commit_many` that are under way at a time, so that they do not delay others for long.
pub(super) const CONCURRENT_COMMITS: usize = 64;

/// The value of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedValue {
    /// Grows with every commit and is never 0.
    pub revision: u64,
    /// The encoded state.
    pub bytes: Bytes,
}

/// A commit.
#[derive(Debug, Clone)]
pub struct EncodedChange {
    /// The revision that the register must have; 0 if it must not exist.
    pub expected: u64,
    /// The new value, with a revision above the expected one.
    pub value: EncodedValue,
    /// The backend may delete the register from this time on.
    pub keep_until: Timestamp,
    /// The events that are appended to the log in the same atomic step.
    pub events: Vec<Bytes>,
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodedCommit {
    /// The register has the new value, perhaps since an earlier attempt of the same commit.
    Committed,
    /// The register had another revision, and nothing was written. Holds its value at that time or a moment later.
    Conflict(Option<EncodedValue>),
}

/// A page of the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedTail {
    /// The encoded events, in the order in which they were appended.
    pub events: Vec<Bytes>,
    /// The cursor to continue from.
    pub next: Cursor,
    /// Events between the cursor and this page are lost.
    pub gap: bool,
    /// See `Tail::complete`.
    pub complete: bool,
}

/// A store of bytes under keys.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The name of the store in messages.
    const NAME: &'static str;

    /// See `Registers::load`. `None` means that the register does not exist.
    async fn load(&self, key: &str) -> Result<Option<EncodedValue>, StoreError>;

    /// See `Registers::load_many`.
    async fn load_many(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        join_all(keys.iter().map(|key| self.load(key))).await
    }

    /// See `Registers::shard`.
    fn shard(&self, key: &str) -> usize {
        let _ = key;
        0
    }

    /// See `Registers::commit`.
    async fn commit(&self, key: &str, change: EncodedChange) -> Result<EncodedCommit, StoreError>;

    /// See `Registers::commit_many`.
    async fn commit_many(
        &self,
        commits: Vec<(&str, EncodedChange)>,
    ) -> Vec<Result<EncodedCommit, StoreError>> {
        let commits = commits.into_iter().map(|(key, change)| self.commit(key, change));
        stream::iter(commits.collect::<Vec<_>>()).buffered(CONCURRENT_COMMITS).collect().await
    }

    /// See `Registers::confirm`.
    async fn confirm(&self, key: &str) -> Result<(), StoreError> {
        let _ = key;
        Ok(())
    }

    /// See `EventLog::tail`.
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<EncodedTail, StoreError>;

    /// See `EventLog::follow`.
    async fn follow(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError>;

    /// See `EventLog::follow_closely`.
    async fn follow_closely(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
        quiet: &Quiet<'_>,
    ) -> Result<EncodedTail, StoreError> {
        let _ = quiet;
        self.follow(after, limit, patience).await
    }
}
