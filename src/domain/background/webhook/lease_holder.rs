//! The lease over its register.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use crate::domain::lease::{Delivery, DeliveryKey, HolderId};
use crate::domain::{
    ports::{Change, Clock, Commit, Cursor, Registers, StoreError},
    types::Timestamp,
};

/// How often it is looked whether the lease is free.
const LOOK: Duration = Duration::from_secs(1);
/// How often the lease is renewed by who holds it.
const RENEWAL: Duration = Duration::from_secs(2);

/// Takes and keeps the lease of one receiver.
pub(super) struct LeaseHolder {
    register: Arc<dyn Registers<Delivery>>,
    clock: Arc<dyn Clock>,
    key: DeliveryKey,
    me: HolderId,
}

/// The lease while it is held, and how far things have been taken under it.
pub(super) struct HeldLease {
    cursor: Mutex<Option<Cursor>>,
    good_until: Mutex<LeaseDeadline>,
}

/// When to stop: by the clock that cannot be set, and by that of the wall, because the other one stands still while
/// a machine sleeps.
#[derive(Clone, Copy)]
struct LeaseDeadline {
    counted: Instant,
    by_the_wall: Timestamp,
}

impl HeldLease {
    /// Up to where everything has been taken.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Is written down when the lease is next renewed.
    pub(super) fn set_cursor(&self, cursor: Option<Cursor>) {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = cursor;
    }

    fn good_until(&self) -> LeaseDeadline {
        *self.good_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_good_until(&self, until: LeaseDeadline) {
        *self.good_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// When the lease can soon be another's, because it was not renewed.
    async fn lapse(&self) {
        while self.good_until().counted > Instant::now() {
            sleep_until(self.good_until().counted).await;
        }
    }
}

impl LeaseHolder {
    pub(super) fn new(
        register: Arc<dyn Registers<Delivery>>,
        clock: Arc<dyn Clock>,
        key: DeliveryKey,
    ) -> Self {
        Self { register, clock, key, me: rand::random() }
    }

    /// The lease, once it is ours.
    pub(super) async fn acquire(&self) -> HeldLease {
        let mut reported = false;
        loop {
            match self.change(|state, now| state.acquire(self.me, now)).await {
                Ok(Some((state, until))) => {
                    return HeldLease { cursor: Mutex::new(state.cursor), good_until: Mutex::new(until) };
                }
                // Of an outage health has told.
                Ok(None) | Err(StoreError::Unavailable { .. }) => {}
                Err(error) => {
                    if !std::mem::replace(&mut reported, true) {
                        tracing::error!(error.message = %error, "it cannot be read who delivers the webhook; nobody does");
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Renews the lease, until that has come too late or it is another's.
    pub(super) async fn keep(&self, held: &HeldLease) {
        let renewing = async {
            loop {
                sleep(RENEWAL).await;
                // While the store does not answer, the lease lapses by itself.
                if let Ok(false) = self.renew(held).await {
                    return;
                }
            }
        };
        tokio::select! {
            () = renewing => {}
            () = held.lapse() => {}
        }
    }

    /// Renews the lease and writes down how far things have been taken. False if it is another's.
    pub(super) async fn renew(&self, held: &HeldLease) -> Result<bool, StoreError> {
        let kept = self.change(|state, now| state.renew(self.me, held.cursor().as_ref(), now)).await?;
        if let Some((_, until)) = &kept {
            held.set_good_until(*until);
        }
        Ok(kept.is_some())
    }

    /// Whether there is still leave to deliver. To be asked before anything is sent: who was held up for long may
    /// not have noticed yet that the lease has lapsed.
    pub(super) fn is_good(&self, held: &HeldLease) -> bool {
        let until = held.good_until();
        Instant::now() < until.counted && self.clock.now() < until.by_the_wall
    }

    /// Gives the lease up, so that another server need not wait until it has run out.
    pub(super) async fn release(&self, held: &HeldLease) {
        let cursor = held.cursor();
        if let Err(error) = self.change(|state, now| state.release(self.me, cursor.as_ref(), now)).await {
            tracing::debug!(error.message = %error, "the lease of the webhook was not given up; it will run out");
        }
    }

    /// What the register holds after this change, and until when the lease in it is good; `None` where there is
    /// nothing to change.
    async fn change(
        &self,
        next: impl Fn(&Delivery, Timestamp) -> Option<Delivery>,
    ) -> Result<Option<(Delivery, LeaseDeadline)>, StoreError> {
        let mut read = self.register.load(&self.key).await?;
        loop {
            // Counted from before the store is asked, however long it takes.
            let (asked, now) = (Instant::now(), self.clock.now());
            let Some(state) = next(&read.state, now) else { return Ok(None) };
            let good_for = state.time_left(now);
            let good_until = LeaseDeadline { counted: asked + good_for, by_the_wall: now.after(good_for) };
            let change = Change { keep_until: state.keep_until(), state: state.clone(), events: Vec::new() };
            match self.register.commit(&self.key, read.revision, change).await? {
                Commit::Committed(_) => return Ok(Some((state, good_until))),
                Commit::Conflict(newer) => read = newer,
            }
        }
    }
}
