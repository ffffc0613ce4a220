//! The webhook: the revocation feed, handed to one receiver batch by batch, at least once.
//!
//! One server at a time delivers, the one that holds the lease (`lease`). It hands over one batch after the
//! other, tries again for as long as a batch is not taken, and then writes down how far it has come. So nothing is
//! skipped when servers, the store or the receiver go away and come back; what was under way is told again.

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

use self::lease_holder::{HeldLease, LeaseHolder};
use crate::domain::{
    Engine, Error,
    lease::{Delivery, DeliveryKey},
    ports::{Cursor, DeliveryError, EventBatch, Receiver, Registers, StoreError},
    types::SessionId,
    watch_sessions::{Feed, Filter, News},
};

/// The wait after the first failure. It doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The wait grows no longer than this, whatever the receiver asks for.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// How long to wait before the feed is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// Hands the feed to a receiver.
pub struct Webhook {
    engine: Arc<Engine>,
    receiver: Arc<dyn Receiver>,
    leases: LeaseHolder,
    /// Events that are handed over at once, at most.
    batch: usize,
    /// The log says that the receiver does not take what it is sent.
    failing: AtomicBool,
}

impl Webhook {
    /// To this receiver, whose register has this key.
    pub fn new(
        engine: Arc<Engine>,
        receiver: Arc<dyn Receiver>,
        register: Arc<dyn Registers<Delivery>>,
        key: DeliveryKey,
        batch: usize,
    ) -> Self {
        let leases = LeaseHolder::new(register, Arc::clone(&engine.clock), key);
        Self { engine, receiver, leases, batch, failing: AtomicBool::new(false) }
    }

    /// Delivers whenever it is this server's turn, until `stop`. What is being sent then may still be taken.
    pub async fn run(&self, stop: &CancellationToken) {
        loop {
            let held = tokio::select! {
                held = self.leases.acquire() => held,
                () = stop.cancelled() => return,
            };
            tracing::info!("this server delivers the webhook");
            tokio::select! {
                () = self.leases.keep(&held) => {}
                () = self.deliver(&held, stop) => {}
            }
            if stop.is_cancelled() {
                return self.leases.release(&held).await;
            }
            tracing::info!(
                "this server does not deliver the webhook any more: its lease was not renewed in time"
            );
        }
    }

    /// LeaseDeadline `stop`, or until the lease turns out to be another's.
    async fn deliver(&self, held: &HeldLease, stop: &CancellationToken) {
        let mut reported = false;
        while !stop.is_cancelled() {
            let pause = match self.read(held, stop).await {
                Ok(()) => return,
                // While the receiver was away more has happened than is kept for readers: the log has it.
                Err(Error::TooSlow) => Duration::ZERO,
                // Health has told of the outage.
                Err(Error::Store(StoreError::Unavailable { .. })) => REOPEN,
                Err(error) => {
                    if !std::mem::replace(&mut reported, true) {
                        tracing::error!(error.message = %error, "the webhook cannot read what to deliver; trying on");
                    }
                    // What cannot be read is as good as lost, and the receiver is told so.
                    if matches!(error, Error::Store(StoreError::Corrupt { .. })) {
                        held.set_cursor(None);
                    }
                    REOPEN
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads the feed and hands it over, until there is no more reason to or it cannot be read.
    async fn read(&self, held: &HeldLease, stop: &CancellationToken) -> Result<(), Error> {
        let after = held.cursor();
        let mut feed = self.engine.watch_sessions(after.clone(), Filter::default()).await?;
        if after.is_none() {
            // From now on. Whether there was a before, a store that may have lost it does not know; and the
            // receiver learns at once that it is reached.
            let (begin, _) = feed.next().await?;
            if !self.hand_over(begin, vec![News::Resync], held, stop).await {
                return Ok(());
            }
        }
        loop {
            let (cursor, news) = tokio::select! {
                // First, so that a feed in which there is always something does not hold up a server that stops.
                biased;
                () = stop.cancelled() => return Ok(()),
                read = self.collect(&mut feed) => read?,
            };
            if !self.hand_over(cursor, news, held, stop).await {
                return Ok(());
            }
        }
    }

    /// What there is to tell, once there is something, and where to go on after it.
    async fn collect(&self, feed: &mut Feed) -> Result<(Cursor, Vec<News>), Error> {
        let (mut cursor, mut news) = loop {
            match feed.next().await? {
                (_, News::Heartbeat(_)) => {}
                (cursor, told) => break (cursor, vec![told]),
            }
        };
        while news.len() < self.batch {
            match feed.next().now_or_never().transpose()? {
                None => break,
                Some((_, News::Heartbeat(_))) => {}
                Some((at, told)) => {
                    cursor = at;
                    news.push(told);
                }
            }
        }
        Ok((cursor, news))
    }

    /// Hands a batch over and writes down how far that is. False if there is no more reason to go on.
    async fn hand_over(
        &self,
        cursor: Cursor,
        news: Vec<News>,
        held: &HeldLease,
        stop: &CancellationToken,
    ) -> bool {
        let id = format!("msg_{}", SessionId::random());
        let batch = EventBatch { id, made_at: self.engine.clock.now(), news };
        if !self.send(&batch, held, stop).await {
            return false;
        }
        held.set_cursor(Some(cursor));
        // Where the store does not take it now, it does when the lease is next renewed.
        self.leases.renew(held).await.unwrap_or(true)
    }

    /// Sends a batch until it is taken; false if `stop` comes first, or the lease is not good any more.
    async fn send(&self, batch: &EventBatch, held: &HeldLease, stop: &CancellationToken) -> bool {
        let begun = Instant::now();
        for failures in 1.. {
            if !self.leases.is_good(held) {
                return false;
            }
            let DeliveryError { cause, retry_after } = match self.receiver.take(batch).await {
                Ok(()) => break,
                Err(not_taken) => not_taken,
            };
            self.engine.metrics.webhook_failures.inc();
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    error.message = cause,
                    "the receiver of the webhook does not take what it is sent; trying again until it does"
                );
            }
            tokio::select! {
                () = sleep(pause(failures, retry_after, rand::random())) => {}
                () = stop.cancelled() => return false,
            }
        }
        self.engine.metrics.webhook_deliveries.inc();
        if self.failing.swap(false, Ordering::Relaxed) {
            let waited = begun.elapsed().as_secs();
            tracing::info!(
                webhook.waited_seconds = waited,
                "the receiver of the webhook takes what it is sent again"
            );
        }
        true
    }
}

/// How long to wait after so many failures in a row. `chance`, from 0 to 1, spreads the waits of those that failed
/// at the same time.
fn pause(failures: u32, retry_after: Option<Duration>, chance: f64) -> Duration {
    let doubled =
        1_u32.checked_shl(failures.saturating_sub(1)).and_then(|times| FIRST_PAUSE.checked_mul(times));
    let longest = doubled.map_or(LONGEST_PAUSE, |doubled| doubled.min(LONGEST_PAUSE));
    let spread = longest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
    spread.max(FIRST_PAUSE).max(retry_after.unwrap_or_default().min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_a_second_to_five_minutes() {
        let waits = [1, 2, 3, 4, 9, 10, 40, u32::MAX].map(|failures| pause(failures, None, 1.0).as_secs());
        assert_eq!(waits, [1, 2, 4, 8, 256, 300, 300, 300]);
    }

    #[test]
    fn chance_shortens_a_wait_by_half_at_most_and_never_below_a_second() {
        assert_eq!(pause(1, None, 0.0), FIRST_PAUSE);
        assert_eq!(pause(4, None, 0.0), Duration::from_secs(4));
        assert_eq!(pause(4, None, 0.5), Duration::from_secs(6));
        assert_eq!(pause(4, None, f64::MAX), Duration::from_secs(8));
    }

    #[test]
    fn a_receiver_that_asks_for_more_time_gets_it_up_to_the_longest_wait() {
        let asked = |secs| pause(1, Some(Duration::from_secs(secs)), 1.0).as_secs();
        assert_eq!([asked(0), asked(30), asked(86_400)], [1, 30, 300]);
        assert_eq!(pause(9, Some(Duration::from_secs(30)), 1.0).as_secs(), 256);
    }
}
