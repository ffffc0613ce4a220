//! The webhook: delivers the revocation feed to one receiver, batch by batch, at least once.
//!
//! The cursor of the receiver and a lease are in one register. The replica that holds the lease delivers
//! ([`lease_holder`]); the others try every second to take it. The holder stops five seconds before the lease expires,
//! so two replicas deliver at the same time only if their clocks differ by more than that, and then events are
//! delivered twice.
//!
//! Batches are delivered one after the other. A batch is retried until the receiver accepts it; then the cursor is
//! written. So no event is skipped when a server, the store or the receiver fails, but the last batch may be repeated.
//! A register without a cursor means a new receiver or a store that has lost it. These cannot be told apart, so the
//! first event is a resync.

mod lease_holder;
pub mod secret;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::lease_holder::{HeldLease, LeaseHolder};
use crate::{
    domain::{
        Engine, Error,
        lease::{Delivery, DeliveryKey},
        ports::{Cursor, DeliveryError, EventBatch, Receiver, Registers, StoreError},
        types::SessionId,
        watch_sessions::{Feed, FeedEvent, Filter},
    },
    trace::Root,
};

/// The backoff after the first failed delivery. It doubles with every further one.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The longest backoff, whatever the receiver asks for.
const MAX_BACKOFF: Duration = Duration::from_mins(5);
/// The pause before the feed is opened again after an error.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Delivers the feed to a receiver.
pub struct Webhook {
    engine: Arc<Engine>,
    receiver: Arc<dyn Receiver>,
    leases: LeaseHolder,
    /// The largest number of events in a batch.
    max_batch: usize,
    /// Deliveries fail, and the log says so.
    failing: AtomicBool,
}

impl Webhook {
    /// Creates the webhook of a receiver, whose cursor and lease are in the register with `key`.
    pub fn new(
        engine: Arc<Engine>,
        receiver: Arc<dyn Receiver>,
        register: Arc<dyn Registers<Delivery>>,
        key: DeliveryKey,
        max_batch: usize,
    ) -> Self {
        let leases = LeaseHolder::new(register, Arc::clone(&engine.clock), key);
        Self { engine, receiver, leases, max_batch, failing: AtomicBool::new(false) }
    }

    /// Delivers while this server holds the lease, until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        loop {
            let held = tokio::select! {
                held = self.leases.acquire() => held,
                () = stop.cancelled() => return,
            };
            tracing::info!("acquired webhook lease; this server delivers the webhook");
            tokio::select! {
                () = self.leases.keep_renewed(&held) => {}
                () = self.deliver(&held, stop) => {}
            }
            if stop.is_cancelled() {
                return self.leases.release(&held).await;
            }
            tracing::info!("lost webhook lease; this server no longer delivers the webhook");
        }
    }

    /// Delivers until `stop`, or until another process has the lease.
    async fn deliver(&self, held: &HeldLease, stop: &CancellationToken) {
        let mut reported = false;
        while !stop.is_cancelled() {
            let pause = match self.deliver_feed(held, stop).await {
                Ok(()) => return,
                // The receiver was slow and the feed has fallen out of the ring. It continues from the event log.
                Err(Error::TooSlow) => Duration::ZERO,
                // Health logs outages.
                Err(Error::Store(StoreError::Unavailable { .. })) => REOPEN_PAUSE,
                Err(error) => {
                    if !std::mem::replace(&mut reported, true) {
                        tracing::error!(error.message = %error, "failed to read the feed of the webhook; retrying");
                    }
                    // Invalid events are handled as lost ones: the receiver gets a resync.
                    if matches!(error, Error::Store(StoreError::Corrupt { .. })) {
                        held.set_cursor(None);
                    }
                    REOPEN_PAUSE
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Opens the feed and delivers it until `stop`, until the lease is lost, or until the feed returns an error.
    async fn deliver_feed(&self, held: &HeldLease, stop: &CancellationToken) -> Result<(), Error> {
        let after = held.cursor();
        let mut feed = self.engine.watch_sessions(after.clone(), Filter::default()).await?;
        if after.is_none() {
            // The resync also shows at once whether the receiver can be reached.
            let (start, _) = feed.next().await?;
            if !self.deliver_batch(start, vec![FeedEvent::Resync], held, stop).await {
                return Ok(());
            }
        }
        loop {
            let (cursor, events) = tokio::select! {
                // Biased, so that a busy feed does not delay a shutdown.
                biased;
                () = stop.cancelled() => return Ok(()),
                batch = self.next_batch(&mut feed) => batch?,
            };
            if !self.deliver_batch(cursor, events, held, stop).await {
                return Ok(());
            }
        }
    }

    /// Waits for events. Returns those that are ready, and the cursor after them.
    async fn next_batch(&self, feed: &mut Feed) -> Result<(Cursor, Vec<FeedEvent>), Error> {
        let (mut cursor, mut events) = loop {
            match feed.next().await? {
                (_, FeedEvent::Heartbeat(_)) => {}
                (cursor, event) => break (cursor, vec![event]),
            }
        };
        while events.len() < self.max_batch {
            match feed.next().now_or_never().transpose()? {
                None => break,
                Some((_, FeedEvent::Heartbeat(_))) => {}
                Some((next, event)) => {
                    cursor = next;
                    events.push(event);
                }
            }
        }
        Ok((cursor, events))
    }

    /// Delivers a batch and writes the cursor. Returns false after `stop` or if the lease is lost.
    async fn deliver_batch(
        &self,
        cursor: Cursor,
        events: Vec<FeedEvent>,
        held: &HeldLease,
        stop: &CancellationToken,
    ) -> bool {
        let id = format!("msg_{}", SessionId::random());
        let batch = EventBatch { id, created_at: self.engine.clock.now(), events };
        if !self.send(&batch, held, stop).await {
            return false;
        }
        held.set_cursor(Some(cursor));
        // After an error the next renewal writes the cursor.
        self.leases.renew(held).await.unwrap_or(true)
    }

    /// Sends a batch until the receiver accepts it. Returns false after `stop` or if the lease is lost.
    async fn send(&self, batch: &EventBatch, held: &HeldLease, stop: &CancellationToken) -> bool {
        let started = Instant::now();
        for failures in 1.. {
            if !self.leases.is_valid(held) {
                return false;
            }
            let DeliveryError { cause, retry_after } = match self.post(batch).await {
                Ok(()) => break,
                Err(error) => error,
            };
            self.engine.metrics.webhook_failures.inc();
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    error.message = cause,
                    "failed to deliver webhook events; retrying until the receiver accepts them"
                );
            }
            tokio::select! {
                () = sleep(backoff(failures, retry_after, rand::random())) => {}
                () = stop.cancelled() => return false,
            }
        }
        self.engine.metrics.webhook_deliveries.inc();
        if self.failing.swap(false, Ordering::Relaxed) {
            let waited = started.elapsed().as_secs();
            tracing::info!(webhook.waited_seconds = waited, "delivering webhook events again");
        }
        true
    }

    /// Sends a batch once, inside a span if it is sampled.
    async fn post(&self, batch: &EventBatch) -> Result<(), DeliveryError> {
        let Some(root) = Root::background("deliver webhook", "client") else {
            return self.receiver.deliver(batch).await;
        };
        root.span().record("messaging.batch.message_count", batch.events.len());
        root.span().record("http.request.method", "POST");
        let delivered = self.receiver.deliver(batch).instrument(root.span().clone()).await;
        if delivered.is_err() {
            root.failed("not_delivered");
        }
        delivered
    }
}

/// The backoff after `failures` failed attempts in a row. `jitter` is from 0 to 1.
fn backoff(failures: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let doubled =
        1_u32.checked_shl(failures.saturating_sub(1)).and_then(|times| MIN_BACKOFF.checked_mul(times));
    let longest = doubled.map_or(MAX_BACKOFF, |doubled| doubled.min(MAX_BACKOFF));
    let spread = longest.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    spread.max(MIN_BACKOFF).max(retry_after.unwrap_or_default().min(MAX_BACKOFF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_from_a_second_to_five_minutes() {
        let waits = [1, 2, 3, 4, 9, 10, 40, u32::MAX].map(|failures| backoff(failures, None, 1.0).as_secs());
        assert_eq!(waits, [1, 2, 4, 8, 256, 300, 300, 300]);
    }

    #[test]
    fn jitter_shortens_a_backoff_by_half_at_most_and_never_below_a_second() {
        assert_eq!(backoff(1, None, 0.0), MIN_BACKOFF);
        assert_eq!(backoff(4, None, 0.0), Duration::from_secs(4));
        assert_eq!(backoff(4, None, 0.5), Duration::from_secs(6));
        assert_eq!(backoff(4, None, f64::MAX), Duration::from_secs(8));
    }

    #[test]
    fn retry_after_extends_a_backoff_up_to_the_longest() {
        let requested = |secs| backoff(1, Some(Duration::from_secs(secs)), 1.0).as_secs();
        assert_eq!([requested(0), requested(30), requested(86_400)], [1, 30, 300]);
        assert_eq!(backoff(9, Some(Duration::from_secs(30)), 1.0).as_secs(), 256);
    }
}
