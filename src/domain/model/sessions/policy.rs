//! The rules of slots.

use std::{num::NonZeroU32, time::Duration};

/// The rules of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPolicy {
    /// A session not used for this long ends.
    pub idle_timeout: Duration,
    /// A session this old ends.
    pub absolute_timeout: Duration,
    /// How many sessions the slot holds.
    pub limit: NonZeroU32,
    /// What becomes of a login in a full slot.
    pub on_limit: OnLimit,
    /// Which session has to go for another one.
    pub victim: Victim,
    /// A login ends the sessions in all other slots, too.
    pub exclusive: bool,
    /// When two clients are taken to push each other out for ever.
    pub kick_war: KickWar,
}

/// What becomes of a login in a full slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLimit {
    /// It displaces a session.
    Displace,
    /// It is denied, unless it says that it means to take over.
    Deny,
}

/// Which session has to go for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// That of the oldest login.
    Oldest,
    /// The one whose latest use is the longest ago.
    LeastRecentlyUsed,
}

/// A slot that clients log each other out of so often within so long is fought over. For them it then stays with its
/// holder until this long after the latest change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KickWar {
    /// At most [`MAX_TOMBSTONES`](super::MAX_TOMBSTONES), because that is how many changes are remembered. 0: as often as you like.
    pub changes: usize,
    /// Within this long.
    pub window: Duration,
}
