//! The epoch of sessions: beginning a new one ends the sessions of all users, for example after a signing key leaked.
//!
//! The epoch is kept in several registers, so that a cluster that has lost one node still has a copy. Every server
//! keeps it in memory, so a verdict needs no additional read. A server that has not read any copy for longer than
//! [`LEASE`] reads one before the next verdict, and the server that begins an epoch writes all copies and waits for that
//! long before it answers. So after the answer no server judges by the old epoch, whether or not the event reached it,
//! and no clocks are compared. See ADR 0005.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use futures_util::{
    StreamExt as _,
    future::{join_all, try_join_all},
    stream::FuturesUnordered,
};
use tokio::sync::{Mutex, Notify};

use super::{
    Error,
    ports::{Change, Commit, Registers, State, StoreError, Versioned},
    sessions::Epoch,
    types::{Notice, Timestamp},
};

/// How long a server may judge by the epoch that it has read.
const LEASE: Duration = Duration::from_secs(1);
/// How often the epoch is read in the background, so that verdicts do not wait for a read.
const RENEWAL: Duration = Duration::from_millis(250);
/// How often a conflicting commit is tried again.
const MAX_ATTEMPTS: u32 = 20;
/// The retention of the register: longer than sessions and processes live.
const KEPT: Duration = Duration::from_hours(24 * 365 * 10);

/// The key of a register that holds a copy of the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochKey(usize);

impl EpochKey {
    /// The names of the registers. They contain a space, so no user id is equal to one of them. Their buckets are on
    /// different nodes of a cluster, as a rule.
    const NAMES: [&str; 5] = [
        "epoch of sessions",
        "epoch of sessions 2",
        "epoch of sessions 3",
        "epoch of sessions 4",
        "epoch of sessions 5",
    ];

    /// The keys of all copies.
    pub const ALL: [Self; Self::NAMES.len()] = [Self(0), Self(1), Self(2), Self(3), Self(4)];

    /// The name of the register.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.0]
    }
}

impl State for Epoch {
    type Key = EpochKey;
    type Event = Epoch;
}

/// The current epoch, kept in memory.
pub struct CurrentEpoch {
    registers: Arc<dyn Registers<Epoch>>,
    known: ArcSwap<Known>,
    /// The copies that were read at least once. Until all were, a copy may be older than what another has.
    seen: [AtomicBool; EpochKey::ALL.len()],
    /// Held while the copies are read, so that concurrent readers share one read.
    reading: Mutex<()>,
    /// Notified when the known epoch may be newer than before.
    newer: Notify,
}

/// The latest epoch that this server knows, and when it was read.
#[derive(Debug, Default)]
pub struct Known {
    /// The epoch.
    pub epoch: Epoch,
    /// The start of the latest successful read.
    as_of: Option<Instant>,
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        self.as_of.is_some_and(|as_of| now.saturating_duration_since(as_of) < LEASE)
    }
}

impl CurrentEpoch {
    /// Serves the epoch of these registers.
    pub fn new(registers: Arc<dyn Registers<Epoch>>) -> Self {
        Self {
            registers,
            known: ArcSwap::default(),
            seen: Default::default(),
            reading: Mutex::default(),
            newer: Notify::new(),
        }
    }

    /// Returns the epoch if it was read recently enough to judge by. Do not hold the guard longer than a verdict takes.
    pub fn known_at_once(&self, now: Instant) -> Option<Guard<Arc<Known>>> {
        Some(self.known.load()).filter(|known| known.is_fresh(now))
    }

    /// Returns the epoch, reading it if necessary. Do not hold the guard longer than a verdict takes.
    pub async fn known(&self) -> Result<Guard<Arc<Known>>, StoreError> {
        if let Some(known) = self.known_at_once(Instant::now()) {
            return Ok(known);
        }
        let _reading = self.reading.lock().await;
        if !self.known.load().is_fresh(Instant::now()) {
            self.read_any().await?;
        }
        Ok(self.known.load())
    }

    /// Reads all copies at intervals, for as long as the future is polled.
    pub async fn keep(&self) {
        join_all(EpochKey::ALL.map(|key| self.keep_copy(key))).await;
    }

    async fn keep_copy(&self, key: EpochKey) {
        loop {
            // Health reports an unavailable store.
            if let Ok(read) = self.read(key).await {
                self.restore(key, read).await;
            }
            tokio::time::sleep(RENEWAL).await;
        }
    }

    /// Waits for an epoch newer than the one with this number.
    pub(super) async fn after(&self, number: u64) -> Epoch {
        loop {
            let known = self.known.load_full();
            if known.epoch.number > number {
                return known.epoch.clone();
            }
            self.newer.notified().await;
        }
    }

    /// Takes note of an epoch that another server has begun.
    pub(super) fn learn(&self, epoch: &Epoch) {
        self.update(epoch, None);
    }

    /// Begins a new epoch, which ends all sessions of all users.
    pub async fn begin(&self, now: Timestamp, notice: Option<Notice>) -> Result<(), Error> {
        let epoch = self.commit(now, notice).await?;
        self.learn(&epoch);
        // By then every other server has read the new epoch, or reads it before its next verdict.
        tokio::time::sleep(LEASE).await;
        Ok(())
    }

    async fn commit(&self, now: Timestamp, notice: Option<Notice>) -> Result<Epoch, Error> {
        let [first, others @ ..] = EpochKey::ALL;
        let mut read = self.registers.load(&first).await?;
        for _ in 0..MAX_ATTEMPTS {
            // The known epoch may be one that the store has lost.
            let before = read.state.number.max(self.known.load().epoch.number);
            let epoch = Epoch::after(before, now, notice.clone());
            match self.write(first, &read, epoch.clone(), vec![epoch.clone()]).await? {
                Commit::Committed(_) => {
                    try_join_all(others.map(|key| self.raise(key, &epoch))).await?;
                    return Ok(epoch);
                }
                Commit::Conflict(newer) => read = newer,
            }
        }
        Err(too_many_epochs())
    }

    /// Writes an epoch to a copy unless that has a later one.
    async fn raise(&self, key: EpochKey, epoch: &Epoch) -> Result<(), Error> {
        let mut read = self.registers.load(&key).await?;
        for _ in 0..MAX_ATTEMPTS {
            if read.state.number >= epoch.number {
                return Ok(());
            }
            match self.write(key, &read, epoch.clone(), Vec::new()).await? {
                Commit::Committed(_) => return Ok(()),
                Commit::Conflict(newer) => read = newer,
            }
        }
        Err(too_many_epochs())
    }

    /// Reads the copies until one has answered that is enough to judge by.
    async fn read_any(&self) -> Result<(), StoreError> {
        let mut reads: FuturesUnordered<_> = EpochKey::ALL.into_iter().map(|key| self.read(key)).collect();
        let mut result = Ok(());
        while let Some(read) = reads.next().await {
            if let Err(error) = read {
                result = Err(error);
            } else if self.known.load().is_fresh(Instant::now()) {
                return Ok(());
            }
        }
        result
    }

    async fn read(&self, key: EpochKey) -> Result<Versioned<Epoch>, StoreError> {
        // The value is at least as new as the start of the read.
        let as_of = Instant::now();
        let read = self.registers.load(&key).await?;
        self.update(&read.state, None);
        self.seen[key.0].store(true, Ordering::Release);
        if self.seen.iter().all(|seen| seen.load(Ordering::Acquire)) {
            self.update(&read.state, Some(as_of));
        }
        Ok(read)
    }

    /// Writes the known epoch to a copy that has an earlier one, because the store has lost it, as replicated Redis can
    /// in a failover, or because not all copies could be written. Otherwise a server that starts later would open
    /// sessions that all others reject.
    async fn restore(&self, key: EpochKey, read: Versioned<Epoch>) {
        let known = self.known.load_full();
        if read.state.number < known.epoch.number {
            tracing::warn!(
                register = key.name(),
                "a copy of the epoch of sessions is not the latest; restoring it"
            );
            // A failed write is repeated after the next read.
            let _ = self.write(key, &read, known.epoch.clone(), Vec::new()).await;
        }
    }

    async fn write(
        &self,
        key: EpochKey,
        read: &Versioned<Epoch>,
        epoch: Epoch,
        events: Vec<Epoch>,
    ) -> Result<Commit<Epoch>, StoreError> {
        let change = Change { keep_until: epoch.since.after(KEPT), state: epoch, events };
        self.registers.commit(&key, read.revision, change).await
    }

    /// Keeps the newer of two epochs: an event may arrive while an older value is read.
    fn update(&self, epoch: &Epoch, as_of: Option<Instant>) {
        self.known.rcu(|known| Known {
            epoch: if epoch.number > known.epoch.number { epoch.clone() } else { known.epoch.clone() },
            as_of: as_of.max(known.as_of),
        });
        self.newer.notify_one();
    }
}

fn too_many_epochs() -> Error {
    Error::Overloaded {
        what: "too many concurrent endings of all sessions",
        retry_after: Duration::from_secs(1),
    }
}
