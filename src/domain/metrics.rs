//! Counters since the start of the process. `http/metrics.rs` exports them.

use prometheus_client::metrics::counter::Counter;

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Commits that the session store lost after they were acknowledged.
    pub rollbacks: Counter,
    /// Kick wars that were stopped.
    pub kick_wars: Counter,
    /// Sessions displaced by a newer login.
    pub displaced: Counter,
    /// Batches that the receiver of the webhook accepted.
    pub webhook_deliveries: Counter,
    /// Deliveries to the receiver of the webhook that failed.
    pub webhook_failures: Counter,
}
