//! Epochs: the sessions of all users end where a new one begins.

use crate::domain::{
    rejection::{Reason, Rejection},
    types::{Generation, Notice, Timestamp},
};

/// The sessions of an earlier epoch are dead.
///
/// A session knows the epoch in which it was opened. Its generation would not do: generations of different
/// users come from different clocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epoch {
    /// Grows from one to the next. 0 is the first.
    pub number: u64,
    /// When it began.
    pub since: Timestamp,
    /// What to tell the users whose sessions that ended.
    pub notice: Option<Notice>,
}

impl Epoch {
    /// That in which nobody has ended everybody's sessions yet.
    pub const FIRST: Self = Self { number: 0, since: Timestamp::from_micros(0), notice: None };

    /// The one that begins now, after the one with this number. As generations do, numbers grow even if the
    /// register is lost and begins anew.
    pub fn after(number: u64, now: Timestamp, notice: Option<Notice>) -> Self {
        Self { number: Generation(number).next(now).0, since: now, notice }
    }

    /// What its beginning means to the sessions before it.
    pub fn rejection(&self) -> Rejection {
        Rejection { notice: self.notice.clone(), ..Rejection::at(Reason::Kicked, self.since) }
    }
}
