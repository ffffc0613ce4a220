//! The counts of a load.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::{CreationError, Histogram};

/// The largest latency in microseconds; a longer one is counted as this one.
const MAX_LATENCY: u64 = 3_600_000_000;

/// The counts of one connection. Each connection has its own, so that connections do not wait for each other.
pub(super) struct SharedCounts(Mutex<Counts>);

pub(super) struct Counts {
    /// Latencies of the right answers in microseconds, to three digits.
    pub(super) latencies: Histogram<u64>,
    pub(super) wrong: u64,
    /// Why the first wrong answer was wrong.
    pub(super) first_wrong: Option<String>,
}

impl Counts {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self { latencies: Histogram::new_with_bounds(1, MAX_LATENCY, 3)?, wrong: 0, first_wrong: None })
    }

    /// Adds the counts of another connection.
    pub(super) fn add(&mut self, other: &Self) {
        // Cannot fail, because the bounds are the same.
        let _ = self.latencies.add(&other.latencies);
        self.wrong += other.wrong;
        if self.first_wrong.is_none() {
            self.first_wrong.clone_from(&other.first_wrong);
        }
    }

    pub(super) fn right(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(micros);
    }

    /// Counts several wrong answers.
    pub(super) fn wrongs(&mut self, count: u64, reason: String) {
        self.wrong += count;
        self.first_wrong.get_or_insert(reason);
    }
}

impl SharedCounts {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self(Mutex::new(Counts::new()?)))
    }

    pub(super) fn right(&self, latency: Duration) {
        self.lock().right(latency);
    }

    pub(super) fn wrong(&self, reason: String) {
        self.wrongs(1, reason);
    }

    /// Counts several wrong answers.
    pub(super) fn wrongs(&self, count: u64, reason: String) {
        self.lock().wrongs(count, reason);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Counts> {
        // A panic cannot leave the counts inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
