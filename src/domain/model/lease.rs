//! Whose turn it is to deliver, as a pure state machine: a lease, and how far the feed has been taken.
//!
//! A lease is written with the time at which it runs out, and that time is read by the clocks of others. So its
//! holder stops [`MARGIN`] earlier: while no two clocks differ by more, no two servers deliver at a time. Where
//! clocks differ by more than that, two may, and nothing worse happens than that things are told twice.

use std::{convert::Infallible, time::Duration};

use aws_lc_rs::digest;
use data_encoding::BASE32_NOPAD;

use crate::domain::{
    ports::{Cursor, State},
    types::Timestamp,
};

/// How long a lease is good from when it was last renewed.
pub const LEASE: Duration = Duration::from_secs(10);
/// By how much the clocks of servers may differ: by so much earlier the holder stops.
pub const MARGIN: Duration = Duration::from_secs(5);
/// Where the feed has been taken up to is kept for so long after the last change. The log itself is shorter.
const KEEP: Duration = Duration::from_hours(24 * 30);

/// Names the register of one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryKey(String);

impl DeliveryKey {
    /// Of the receiver at this URL. Hashed, because URLs hold secrets: the first 128 bits of SHA-256.
    pub fn of(url: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, url.as_bytes());
        let hash = BASE32_NOPAD.encode(hash.as_ref().get(..16).unwrap_or_default());
        // A user id holds no space, so this is nobody's.
        Self(format!("webhook {}", hash.to_ascii_lowercase()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names a running server: random, so that no two have the same, and none the same after a restart.
pub type HolderId = u64;

/// Leave to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub holder: HolderId,
    /// It can be another's from then on.
    pub until: Timestamp,
}

/// How it stands with one receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Everything up to here has been taken; `None` where nothing is known of that.
    pub cursor: Option<Cursor>,
    /// Who delivers, where somebody does.
    pub lease: Option<Lease>,
    /// When this was last changed.
    pub changed_at: Timestamp,
}

impl State for Delivery {
    type Key = DeliveryKey;
    type Event = Infallible;
}

impl Delivery {
    /// Takes the lease if it is free, has run out, or is one's own; `None` while it is another's.
    pub fn take(&self, me: HolderId, now: Timestamp) -> Option<Self> {
        let anothers = |lease: &Lease| lease.holder != me && now < lease.until && !is_absurd(*lease, now);
        if self.lease.as_ref().is_some_and(anothers) {
            return None;
        }
        Some(self.leased(me, self.cursor.as_ref(), now))
    }

    /// Renews the lease and writes down how far things have been taken, where that is known; `None` if the
    /// lease is not one's own any more. One that has run out is, until another has taken it.
    pub fn keep(&self, me: HolderId, cursor: Option<&Cursor>, now: Timestamp) -> Option<Self> {
        self.is_held_by(me).then(|| self.leased(me, cursor.or(self.cursor.as_ref()), now))
    }

    /// Gives the lease up; `None` if it is not one's own any more.
    pub fn release(&self, me: HolderId, cursor: Option<&Cursor>, now: Timestamp) -> Option<Self> {
        let kept = self.keep(me, cursor, now)?;
        Some(Self { lease: None, ..kept })
    }

    /// For how long from `now`, by the holder's clock, the holder may go on.
    pub fn good_for(&self, now: Timestamp) -> Duration {
        self.lease.map(|lease| lease.until.before(MARGIN).since(now)).unwrap_or_default()
    }

    /// From when on nothing of this matters any more.
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

/// Runs out later than clocks that agree could have written: one of them was wrong, and if its server is gone,
/// nobody would deliver until then.
fn is_absurd(lease: Lease, now: Timestamp) -> bool {
    lease.until > now.after(LEASE + MARGIN)
}

#[cfg(test)]
mod tests;
