//! Takes, renews and releases the lease to deliver the webhook.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use crate::domain::{
    lease::{Delivery, DeliveryKey, HolderId},
    ports::{Change, Clock, Commit, Cursor, Registers, StoreError},
    types::Timestamp,
};

/// Interval at which replicas without the lease try to take it.
const ACQUIRE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the holder renews the lease.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);

/// Holds the lease of one receiver, or tries to take it.
pub(super) struct LeaseHolder {
    register: Arc<dyn Registers<Delivery>>,
    clock: Arc<dyn Clock>,
    key: DeliveryKey,
    id: HolderId,
}

/// A lease that is held, and the cursor up to which events are delivered.
pub(super) struct HeldLease {
    cursor: Mutex<Option<Cursor>>,
    deadline: Mutex<LeaseDeadline>,
}

/// The time by which the holder must stop: by the monotonic clock, which cannot be set, and by the wall clock, because
/// the monotonic one stops while a machine is suspended.
#[derive(Clone, Copy)]
struct LeaseDeadline {
    monotonic: Instant,
    wall: Timestamp,
}

impl HeldLease {
    /// The cursor up to which all events are delivered.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the cursor. The next renewal writes it.
    pub(super) fn set_cursor(&self, cursor: Option<Cursor>) {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = cursor;
    }

    fn deadline(&self) -> LeaseDeadline {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_deadline(&self, deadline: LeaseDeadline) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    /// Waits until the deadline has passed without a renewal.
    async fn expired(&self) {
        while self.deadline().monotonic > Instant::now() {
            sleep_until(self.deadline().monotonic).await;
        }
    }
}

impl LeaseHolder {
    pub(super) fn new(
        register: Arc<dyn Registers<Delivery>>,
        clock: Arc<dyn Clock>,
        key: DeliveryKey,
    ) -> Self {
        Self { register, clock, key, id: rand::random() }
    }

    /// Waits until this process has the lease.
    pub(super) async fn acquire(&self) -> HeldLease {
        let mut reported = false;
        loop {
            match self.change(|state, now| state.acquire(self.id, now)).await {
                Ok(Some((state, deadline))) => {
                    return HeldLease { cursor: Mutex::new(state.cursor), deadline: Mutex::new(deadline) };
                }
                // Health logs outages.
                Ok(None) | Err(StoreError::Unavailable { .. }) => {}
                Err(error) => {
                    if !std::mem::replace(&mut reported, true) {
                        tracing::error!(error.message = %error, "failed to read webhook lease; this server delivers no webhook events");
                    }
                }
            }
            sleep(ACQUIRE_INTERVAL).await;
        }
    }

    /// Renews the lease. Returns when it has expired or another process has it.
    pub(super) async fn keep_renewed(&self, held: &HeldLease) {
        let renewing = async {
            loop {
                sleep(RENEWAL_INTERVAL).await;
                // While the store does not answer, the lease expires by itself.
                if let Ok(false) = self.renew(held).await {
                    return;
                }
            }
        };
        tokio::select! {
            () = renewing => {}
            () = held.expired() => {}
        }
    }

    /// Renews the lease and writes the cursor. Returns false if another process has the lease.
    pub(super) async fn renew(&self, held: &HeldLease) -> Result<bool, StoreError> {
        let renewed = self.change(|state, now| state.renew(self.id, held.cursor().as_ref(), now)).await?;
        if let Some((_, deadline)) = &renewed {
            held.set_deadline(*deadline);
        }
        Ok(renewed.is_some())
    }

    /// Whether the lease is still valid. It is checked before each delivery, because a process that was suspended may
    /// not have noticed that its lease has expired.
    pub(super) fn is_valid(&self, held: &HeldLease) -> bool {
        let deadline = held.deadline();
        Instant::now() < deadline.monotonic && self.clock.now() < deadline.wall
    }

    /// Releases the lease, so that another server can take it before it expires.
    pub(super) async fn release(&self, held: &HeldLease) {
        let cursor = held.cursor();
        if let Err(error) = self.change(|state, now| state.release(self.id, cursor.as_ref(), now)).await {
            tracing::debug!(error.message = %error, "failed to release webhook lease; it will expire");
        }
    }

    /// Changes the register under compare-and-set. Returns the new state and the deadline of its lease, or `None` if
    /// `next` changes nothing.
    async fn change(
        &self,
        next: impl Fn(&Delivery, Timestamp) -> Option<Delivery>,
    ) -> Result<Option<(Delivery, LeaseDeadline)>, StoreError> {
        let mut read = self.register.load(&self.key).await?;
        loop {
            // The deadline counts from before the commit, however long that takes.
            let (started, now) = (Instant::now(), self.clock.now());
            let Some(state) = next(&read.state, now) else { return Ok(None) };
            let time_left = state.time_left(now);
            let deadline = LeaseDeadline { monotonic: started + time_left, wall: now.after(time_left) };
            let change = Change { keep_until: state.keep_until(), state: state.clone(), events: Vec::new() };
            match self.register.commit(&self.key, read.revision, change).await? {
                Commit::Committed(_) => return Ok(Some((state, deadline))),
                Commit::Conflict(newer) => read = newer,
            }
        }
    }
}
