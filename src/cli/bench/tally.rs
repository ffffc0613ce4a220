//! What came back.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::{CreationError, Histogram};

/// Latencies are kept in microseconds, to three digits. What is longer counts as this long, which no call is.
const LONGEST: u64 = 3_600_000_000;

/// The answers of one connection. Each has its own, so that the calls of others do not wait.
pub(super) struct Tally(Mutex<Counts>);

pub(super) struct Counts {
    /// Of the right answers, in microseconds.
    pub(super) latencies: Histogram<u64>,
    pub(super) wrong: u64,
    /// What the first wrong one was.
    pub(super) complaint: Option<String>,
}

impl Counts {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self { latencies: Histogram::new_with_bounds(1, LONGEST, 3)?, wrong: 0, complaint: None })
    }

    /// Adds what another connection has counted.
    pub(super) fn add(&mut self, other: &Self) {
        // It has the same bounds.
        let _ = self.latencies.add(&other.latencies);
        self.wrong += other.wrong;
        if self.complaint.is_none() {
            self.complaint.clone_from(&other.complaint);
        }
    }

    pub(super) fn right(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(micros);
    }

    /// So many at once.
    pub(super) fn wrongs(&mut self, count: u64, complaint: String) {
        self.wrong += count;
        self.complaint.get_or_insert(complaint);
    }
}

impl Tally {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self(Mutex::new(Counts::new()?)))
    }

    pub(super) fn right(&self, latency: Duration) {
        self.counts().right(latency);
    }

    pub(super) fn wrong(&self, complaint: String) {
        self.wrongs(1, complaint);
    }

    /// So many at once.
    pub(super) fn wrongs(&self, count: u64, complaint: String) {
        self.counts().wrongs(count, complaint);
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing that is done with it can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
