//! The epoch of sessions: a new one ends the sessions of all users, for the day a signing key leaks.
//!
//! It is one more register, and every server knows it by heart, so that it costs a verdict nothing: whoever
//! has not read it for longer than [`LEASE`] reads it before the next verdict. And whoever begins a new one
//! waits that long before it answers. So when it has answered, no server judges by the old one, whether it
//! has heard of the new one through the event log or not, and no two clocks are compared for it.

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

/// How long a server judges by what it has read.
const LEASE: Duration = Duration::from_secs(1);
/// How often it reads again, so that verdicts need not.
const RENEWAL: Duration = Duration::from_millis(250);
/// How often beginning an epoch is tried again because another one was faster.
const MAX_ATTEMPTS: u32 = 20;
/// Kept for as long as sessions can name it, and longer than anybody will run without a restart.
const KEPT: Duration = Duration::from_hours(24 * 365 * 10);

/// Names the one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochKey;

impl EpochKey {
    /// As text. A user id holds no space, so this is nobody's.
    pub const NAME: &str = "epoch of sessions";
}

impl State for Epoch {
    type Key = EpochKey;
    type Event = Epoch;
}

/// The epoch, known by heart.
pub struct CurrentEpoch {
    register: Arc<dyn Registers<Epoch>>,
    known: ArcSwap<Known>,
    /// Who reads it reads it for all that wait.
    reading: Mutex<()>,
    /// There is a newer one.
    newer: Notify,
}

/// What is known, and since when.
#[derive(Debug, Default)]
pub struct Known {
    /// The epoch.
    pub epoch: Epoch,
    as_of: Option<Instant>,
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        self.as_of.is_some_and(|as_of| now.saturating_duration_since(as_of) < LEASE)
    }
}

impl CurrentEpoch {
    /// The epoch in this register.
    pub fn new(register: Arc<dyn Registers<Epoch>>) -> Self {
        Self { register, known: ArcSwap::default(), reading: Mutex::default(), newer: Notify::new() }
    }

    /// The epoch as it may be judged by now, if it need not be read. Not to be held for longer than a verdict takes.
    pub fn known_at_once(&self, now: Instant) -> Option<Guard<Arc<Known>>> {
        Some(self.known.load()).filter(|known| known.is_fresh(now))
    }

    /// The epoch as it may be judged by now. Not to be held for longer than a verdict takes.
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

    /// Keeps it known, for as long as it is polled.
    pub async fn keep(&self) {
        loop {
            // Whether the store answers is for others to tell.
            if let Ok(read) = self.read().await {
                self.restore(read).await;
            }
            tokio::time::sleep(RENEWAL).await;
        }
    }

    /// The epoch, once it is newer than `told`. For one who waits.
    pub(super) async fn after(&self, told: u64) -> Epoch {
        loop {
            let known = self.known.load_full();
            if known.epoch.number > told {
                return known.epoch.clone();
            }
            self.newer.notified().await;
        }
    }

    /// Learns of an epoch that somebody has begun.
    pub(super) fn learn(&self, epoch: &Epoch) {
        self.update(epoch, None);
    }

    /// Begins a new one, which ends everything up to now, of everybody.
    pub(super) async fn begin(&self, now: Timestamp, notice: Option<Notice>) -> Result<(), Error> {
        let epoch = self.commit(now, notice).await?;
        self.learn(&epoch);
        // Until every other server has read it, or knows that it has to.
        tokio::time::sleep(LEASE).await;
        Ok(())
    }

    async fn commit(&self, now: Timestamp, notice: Option<Notice>) -> Result<Epoch, Error> {
        let mut read = self.register.load(&EpochKey).await?;
        for _ in 0..MAX_ATTEMPTS {
            // One that the store has lost counts, too.
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
        // What is read is at least as new as the moment of asking.
        let as_of = Instant::now();
        let read = self.register.load(&EpochKey).await?;
        self.update(&read.state, Some(as_of));
        Ok(read)
    }

    /// Writes it down again where the store has lost it, as replicated Redis can in a failover: a server that
    /// starts later must not open sessions that the others hold dead.
    async fn restore(&self, read: Versioned<Epoch>) {
        let known = self.known.load_full();
        if read.state.number < known.epoch.number {
            tracing::warn!(
                "the store has lost the end of all sessions that was acknowledged; it is restored"
            );
            // If it fails, the next look tries again.
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

    /// The newer of two counts: one that was heard of while an older one was read.
    fn update(&self, epoch: &Epoch, as_of: Option<Instant>) {
        self.known.rcu(|known| Known {
            epoch: if epoch.number > known.epoch.number { epoch.clone() } else { known.epoch.clone() },
            as_of: as_of.max(known.as_of),
        });
        self.newer.notify_one();
    }
}
