//! How often what has happened, since the process began. Monitoring reads it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often what has happened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Tokens that were newer than what the store remembers: it has lost a write.
    pub rollbacks: Count,
    /// Times that clients were held off from a slot because they kept logging each other out.
    pub kick_wars: Count,
    /// Live sessions that had to go for another login.
    pub displaced: Count,
    /// Batches that the receiver of the webhook has taken.
    pub webhook_deliveries: Count,
    /// Attempts to hand it one that failed.
    pub webhook_failures: Count,
}
