//! The rules of slots: timeouts, limits and protection against kick wars.

use std::{num::NonZeroU32, time::Duration};

/// The rules of a slot, from its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPolicy {
    /// Ends a session that is not used for this long.
    pub idle_timeout: Duration,
    /// Ends a session this long after its login.
    pub absolute_timeout: Duration,
    /// The most live sessions in the slot.
    pub limit: NonZeroU32,
    /// The handling of a login in a full slot.
    pub on_limit: OnLimit,
    /// Which session a displacement ends.
    pub victim: Victim,
    /// Whether a login also ends the sessions in all other slots.
    pub exclusive: bool,
    /// When displacements count as a kick war.
    pub kick_war: KickWar,
}

/// The handling of a login in a full slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLimit {
    /// The login displaces a session.
    Displace,
    /// The login fails unless it is a takeover.
    Deny,
}

/// Which session a displacement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The session of the oldest login.
    Oldest,
    /// The session that was not used for the longest time.
    LeastRecentlyUsed,
}

/// The definition of a kick war: clients displace each other this often within a window. Further logins of these
/// clients are throttled until the window has passed after the latest displacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KickWar {
    /// The number of displacements, at most [`MAX_TOMBSTONES`](super::MAX_TOMBSTONES) because no more are remembered. 0
    /// disables the protection.
    pub changes: usize,
    /// The window in which they happen.
    pub window: Duration,
}
