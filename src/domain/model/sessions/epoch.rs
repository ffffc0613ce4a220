//! Epochs: the beginning of an epoch ends the sessions of all users.

use crate::domain::{
    rejection::{Reason, Rejection},
    types::{Generation, Notice, Timestamp},
};

/// An epoch. Sessions of earlier epochs are dead.
///
/// A session records the number of the epoch in which it was opened. Its generation could not replace that number,
/// because generations of different users come from different clocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epoch {
    /// Grows from one epoch to the next. The first epoch has the number 0.
    pub number: u64,
    /// When the epoch began.
    pub since: Timestamp,
    /// The operator's text for the users whose sessions ended.
    pub notice: Option<Notice>,
}

impl Epoch {
    /// The epoch before all sessions were ended for the first time.
    pub const FIRST: Self = Self { number: 0, since: Timestamp::from_micros(0), notice: None };

    /// The epoch that begins now, after the one with this number. Like generations, numbers grow even if the register
    /// is lost.
    pub fn after(number: u64, now: Timestamp, notice: Option<Notice>) -> Self {
        Self { number: Generation(number).next(now).0, since: now, notice }
    }

    /// The rejection of the sessions of earlier epochs.
    pub fn rejection(&self) -> Rejection {
        Rejection { notice: self.notice.clone(), ..Rejection::at(Reason::Kicked, self.since) }
    }
}
