//! The epoch of sessions: beginning a new one ends the sessions of all users, for example after a signing key leaked.
//!
//! The epoch is one register, and every server keeps it in memory, so a verdict needs no additional read. A server
//! that has not read the register for longer than [`LEASE`] reads it before the next verdict, and the server that
//! begins an epoch waits for that long before it answers. So after the answer no server judges by the old epoch,
//! whether or not the event reached it, and no clocks are compared. See ADR 0005.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
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
/// How often it reads again, so that verdicts need not.
const RENEWAL: Duration = Duration::from_millis(250);
/// How often a conflicting commit is tried again.
const MAX_ATTEMPTS: u32 = 20;
/// The retention of the register: longer than sessions and processes live.
const KEPT: Duration = Duration::from_hours(24 * 365 * 10);

/// The key of the only epoch register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochKey;

impl EpochKey {
    /// The name of the register. It contains a space, so no user id is equal to it.
    pub const NAME: &str = "epoch of sessions";
}

impl State for Epoch {
    type Key = EpochKey;
    type Event = Epoch;
}

/// The current epoch, kept in memory.
pub struct CurrentEpoch {
    register: Arc<dyn Registers<Epoch>>,
    known: ArcSwap<Known>,
    /// Held while the register is read, so that concurrent readers share one read.
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
    /// Serves the epoch of this register.
    pub fn new(register: Arc<dyn Registers<Epoch>>) -> Self {
        Self { register, known: ArcSwap::default(), reading: Mutex::default(), newer: Notify::new() }
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
            self.read().await?;
        }
        Ok(self.known.load())
    }

    /// Reads the epoch at intervals, for as long as the future is polled.
    pub async fn keep(&self) {
        loop {
            // Health reports an unavailable store.
            if let Ok(read) = self.read().await {
                self.restore(read).await;
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
    pub(super) async fn begin(&self, now: Timestamp, notice: Option<Notice>) -> Result<(), Error> {
        let epoch = self.commit(now, notice).await?;
        self.learn(&epoch);
        // By then every other server has read the new epoch, or reads it before its next verdict.
        tokio::time::sleep(LEASE).await;
        Ok(())
    }

    async fn commit(&self, now: Timestamp, notice: Option<Notice>) -> Result<Epoch, Error> {
        let mut read = self.register.load(&EpochKey).await?;
        for _ in 0..MAX_ATTEMPTS {
            // The known epoch may be one that the store has lost.
            let before = read.state.number.max(self.known.load().epoch.number);
            let epoch = Epoch::after(before, now, notice.clone());
            match self.write(&read, epoch.clone(), vec![epoch.clone()]).await? {
                Commit::Committed(_) => return Ok(epoch),
                Commit::Conflict(newer) => read = newer,
            }
        }
        Err(Error::Overloaded {
            what: "too many concurrent endings of all sessions",
            retry_after: Duration::from_secs(1),
        })
    }

    async fn read(&self) -> Result<Versioned<Epoch>, StoreError> {
        // The value is at least as new as the start of the read.
        let as_of = Instant::now();
        let read = self.register.load(&EpochKey).await?;
        self.update(&read.state, Some(as_of));
        Ok(read)
    }

    /// Writes the known epoch again if the store has lost it, as replicated Redis can in a failover. Otherwise a
    /// server that starts later would open sessions that all others reject.
    async fn restore(&self, read: Versioned<Epoch>) {
        let known = self.known.load_full();
        if read.state.number < known.epoch.number {
            tracing::warn!("the store has lost an acknowledged end of all sessions; restoring it");
            // A failed write is repeated after the next read.
            let _ = self.write(&read, known.epoch.clone(), Vec::new()).await;
        }
    }

    async fn write(
        &self,
        read: &Versioned<Epoch>,
        epoch: Epoch,
        events: Vec<Epoch>,
    ) -> Result<Commit<Epoch>, StoreError> {
        let change = Change { keep_until: epoch.since.after(KEPT), state: epoch, events };
        self.register.commit(&EpochKey, read.revision, change).await
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
