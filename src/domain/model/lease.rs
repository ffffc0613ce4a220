//! The lease on the delivery of the webhook, with the cursor of the delivered events, as a pure state machine.
//!
//! The replica that has the lease delivers; the others look every second whether the lease has expired. The expiry is
//! written by the clock of the holder and read by the clocks of others, so the holder stops [`MARGIN`] earlier. While
//! no two clocks differ by more than that, no two servers deliver at the same time. If they do, events are delivered
//! twice.
//!
//! A register without a cursor belongs to a new receiver, or the store has lost it. These cannot be told apart, so the
//! first event is a resync.

use std::{convert::Infallible, time::Duration};

use aws_lc_rs::digest;
use data_encoding::BASE32_NOPAD;

use crate::domain::{
    ports::{Cursor, State},
    types::Timestamp,
};

/// How long a lease is valid after it was last renewed.
pub const LEASE: Duration = Duration::from_secs(10);
/// How much earlier than the expiry the holder stops: the largest difference between clocks that is tolerated.
pub const MARGIN: Duration = Duration::from_secs(5);
/// How long the cursor is kept after the last change. The event log itself is kept for a shorter time.
const KEEP: Duration = Duration::from_hours(24 * 30);

/// The key of the register of one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryKey(String);

impl DeliveryKey {
    /// The key for the receiver at this URL: the first 128 bits of its SHA-256, because URLs contain secrets.
    pub fn of(url: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, url.as_bytes());
        let hash = BASE32_NOPAD.encode(hash.as_ref().get(..16).unwrap_or_default());
        // The space distinguishes the key from every user id.
        Self(format!("webhook {}", hash.to_ascii_lowercase()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names a running server: a random number, so that it also differs after a restart.
pub type HolderId = u64;

/// The right to deliver, which expires by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The server that has the lease.
    pub holder: HolderId,
    /// When another server may acquire the lease.
    pub until: Timestamp,
}

/// The state of the delivery to one receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Everything up to this cursor was delivered; `None` if nothing is known.
    pub cursor: Option<Cursor>,
    /// The current lease, if any.
    pub lease: Option<Lease>,
    /// When the register was last changed.
    pub changed_at: Timestamp,
}

impl State for Delivery {
    type Key = DeliveryKey;
    type Event = Infallible;
}

impl Delivery {
    /// Acquires the lease if it is free, expired or held by this server. Returns `None` while another server holds it.
    pub fn acquire(&self, me: HolderId, now: Timestamp) -> Option<Self> {
        let is_held = |lease: &Lease| lease.holder != me && now < lease.until && !is_implausible(*lease, now);
        if self.lease.as_ref().is_some_and(is_held) {
            return None;
        }
        Some(self.leased(me, self.cursor.as_ref(), now))
    }

    /// Renews the lease and records the cursor, if it is known. Returns `None` if another server has acquired the
    /// lease. An expired lease can be renewed as long as nobody else has acquired it.
    pub fn renew(&self, me: HolderId, cursor: Option<&Cursor>, now: Timestamp) -> Option<Self> {
        self.is_held_by(me).then(|| self.leased(me, cursor.or(self.cursor.as_ref()), now))
    }

    /// Releases the lease. Returns `None` if another server has acquired it.
    pub fn release(&self, me: HolderId, cursor: Option<&Cursor>, now: Timestamp) -> Option<Self> {
        let renewed = self.renew(me, cursor, now)?;
        Some(Self { lease: None, ..renewed })
    }

    /// How long the holder may continue from `now`, by its own clock.
    pub fn time_left(&self, now: Timestamp) -> Duration {
        self.lease.map(|lease| lease.until.before(MARGIN).since(now)).unwrap_or_default()
    }

    /// When the register can be forgotten.
    pub fn keep_until(&self) -> Timestamp {
        self.changed_at.after(KEEP)
    }

    fn is_held_by(&self, me: HolderId) -> bool {
        self.lease.is_some_and(|lease| lease.holder == me)
    }

    fn leased(&self, me: HolderId, cursor: Option<&Cursor>, now: Timestamp) -> Self {
        Self {
            cursor: cursor.cloned(),
            lease: Some(Lease { holder: me, until: now.after(LEASE) }),
            changed_at: now.max(self.changed_at),
        }
    }
}

/// Whether the lease expires later than any agreeing clock could have written. Without this check, a lease written by a
/// wrong clock would stop the delivery until then if its server is gone.
fn is_implausible(lease: Lease, now: Timestamp) -> bool {
    lease.until > now.after(LEASE + MARGIN)
}

#[cfg(test)]
mod tests;
