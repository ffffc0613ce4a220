//! Requests to the stores and look-ups in the near-cache.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Histogram, ThreadCounters};

/// An operation of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the ports document them")]
pub enum Operation {
    Load,
    LoadMany,
    Commit,
    CommitMany,
    Confirm,
    Tail,
    Follow,
    Find,
    Get,
    List,
    Create,
    Import,
    Change,
    Rehash,
    Debts,
    Settled,
    Ping,
}

impl Operation {
    const COUNT: usize = 17;

    /// The operations of the store of sessions.
    pub const SESSIONS: [Self; 7] =
        [Self::Load, Self::LoadMany, Self::Commit, Self::CommitMany, Self::Confirm, Self::Tail, Self::Follow];
    /// The operations of the store of accounts.
    pub const ACCOUNTS: [Self; 10] = [
        Self::Find,
        Self::Get,
        Self::List,
        Self::Create,
        Self::Import,
        Self::Change,
        Self::Rehash,
        Self::Debts,
        Self::Settled,
        Self::Ping,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::LoadMany => "load_many",
            Self::Commit => "commit",
            Self::CommitMany => "commit_many",
            Self::Confirm => "confirm",
            Self::Tail => "tail",
            Self::Follow => "follow",
            Self::Find => "find",
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Import => "import",
            Self::Change => "change",
            Self::Rehash => "rehash",
            Self::Debts => "debts",
            Self::Settled => "settled",
            Self::Ping => "ping",
        }
    }

    /// Whether a request waits until something happens, so that its duration says nothing about the store.
    pub const fn waits(self) -> bool {
        matches!(self, Self::Follow)
    }
}

/// The result of a look-up in the near-cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// The near-cache held a value that was recent enough.
    Hit,
    /// The near-cache held none, or one that was too old.
    Miss,
    /// The request allows no staleness, or there is no near-cache.
    Bypass,
}

impl CacheResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::Bypass];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// Counts requests to the stores and look-ups in the near-cache.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    operations: [OperationMetrics; Operation::COUNT],
    cache: ThreadCounters<{ CacheResult::ALL.len() }>,
}

#[derive(Debug, Default)]
struct OperationMetrics {
    seconds: Histogram,
    errors: AtomicU64,
}

impl StoreMetrics {
    /// Counts a request to a store.
    pub fn count(&self, operation: Operation, took: Duration, has_failed: bool) {
        let metrics = &self.operations[operation as usize];
        metrics.seconds.observe(took);
        if has_failed {
            metrics.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a look-up in the near-cache.
    pub fn count_cached(&self, result: CacheResult) {
        self.cache.add(result as usize, 1);
    }

    /// The durations of the requests of an operation.
    pub fn seconds(&self, operation: Operation) -> &Histogram {
        &self.operations[operation as usize].seconds
    }

    /// Returns the number of failed requests of an operation.
    pub fn errors(&self, operation: Operation) -> u64 {
        self.operations[operation as usize].errors.load(Ordering::Relaxed)
    }

    /// Returns the number of look-ups in the near-cache with this result.
    pub fn cached(&self, result: CacheResult) -> u64 {
        self.cache.get(result as usize)
    }
}
