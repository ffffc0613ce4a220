//! Failed logins, as a pure state machine: who may try a password now, and who has to wait.
//!
//! An attempt is written down *before* the password is checked and counts against the limit from then
//! on, so that attempts in parallel, over however many replicas, are never more than attempts in a row
//! would be. What became of it is written down after. An attempt of which nothing more is heard lapses
//! into a failure.
//!
//! The rules follow NIST SP 800-63B-4 section 3.2.2: waits that grow, and no more than 100 consecutive
//! failures on an account.

mod key;
mod subject;

use std::{convert::Infallible, time::Duration};

use crate::domain::{ports::State, types::Timestamp};

pub use self::key::ThrottleKey;
pub(in crate::domain) use self::subject::{Counter, Part, Rules, Subject};

/// An attempt of which nothing is heard for this long has failed: whoever was checking it has crashed. It is written
/// down when its turn to be hashed has come, not while it waits. One that takes even longer is counted all the same,
/// and cleared if the password turns out right.
const ATTEMPT_TTL: Duration = Duration::from_secs(5);
/// What is not stopped is forgotten this long after the last failure.
const REMEMBERED: Duration = Duration::from_hours(24 * 30);
/// What is stopped stays so until an operator ends it.
const STOPPED: Duration = Duration::from_hours(24 * 365 * 10);
/// Kept beyond the last use, for replicas whose clocks differ.
const KEEP_MARGIN: Duration = Duration::from_mins(1);

/// How failures are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Failures in a row; a success clears them.
    Account {
        /// So many cost nothing.
        free: u32,
        /// The wait after the first that is not free. It doubles with every further one.
        first_wait: Duration,
        /// The wait grows no longer than this.
        longest_wait: Duration,
        /// After so many nothing is let through any more, until an operator ends it.
        stop: u32,
    },
    /// So many failures in a window, which are forgotten one by one. A success clears nothing: whoever
    /// has one account of his own would clear what he does to others.
    Address {
        /// So many.
        failures: u32,
        /// In so long.
        window: Duration,
    },
}

impl Rule {
    /// How long it takes to forget one failure, where they are forgotten one by one.
    fn forgets_after(self) -> Option<Duration> {
        match self {
            Self::Account { .. } => None,
            Self::Address { failures, window } => Some(window / failures.max(1)),
        }
    }
}

/// Names an attempt: random, so that no two replicas give out the same.
pub type AttemptId = u64;

/// A password that is being checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Which.
    pub id: AttemptId,
    /// It counts as failed from then on.
    pub until: Timestamp,
}

/// What is known of the failures of one account or address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Throttle {
    /// How many.
    pub failures: u32,
    /// Of an account: when the last one was. Of an address: from when on the next is being forgotten.
    pub since: Timestamp,
    /// Passwords that are being checked.
    pub attempts: Vec<Attempt>,
    /// When this was last changed.
    pub changed_at: Timestamp,
}

impl State for Throttle {
    type Key = ThrottleKey;
    type Event = Infallible;
}

/// Why an attempt was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Until others have been checked: that is a matter of moments.
    Busy,
    /// For so long.
    Wait(Duration),
    /// Until an operator ends it.
    Stopped,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The password was right.
    Right,
    /// It was wrong.
    Wrong,
    /// It was not checked after all.
    NotMade,
}

impl Throttle {
    /// Lets an attempt through, or not.
    pub fn begin(&self, rule: Rule, id: AttemptId, now: Timestamp) -> Result<Self, Refusal> {
        let mut next = self.at(rule, now);
        let at_once = next.allowance(rule, now)?;
        if next.attempts.len() >= at_once as usize {
            return Err(Refusal::Busy);
        }
        next.attempts.push(Attempt { id, until: now.after(ATTEMPT_TTL) });
        Ok(next)
    }

    /// Writes down what became of an attempt.
    #[must_use]
    pub fn finish(&self, rule: Rule, id: AttemptId, outcome: Outcome, now: Timestamp) -> Self {
        let mut next = self.at(rule, now);
        let before = next.attempts.len();
        next.attempts.retain(|attempt| attempt.id != id);
        let pending = next.attempts.len() < before;
        match (outcome, rule) {
            (Outcome::Right, Rule::Account { .. }) => next.failures = 0,
            // One that has lapsed has been counted already.
            (Outcome::Wrong, _) if pending => next.fail(rule, now),
            _ => {}
        }
        next
    }

    /// Counts a failure that was not written down as an attempt before.
    #[must_use]
    pub fn failed(&self, rule: Rule, now: Timestamp) -> Self {
        let mut next = self.at(rule, now);
        next.fail(rule, now);
        next
    }

    /// Forgets the failures, after a right password or because an operator says so.
    #[must_use]
    pub fn cleared(&self, rule: Rule, now: Timestamp) -> Self {
        Self { failures: 0, ..self.at(rule, now) }
    }

    /// Whether something in it lies in the future of a clock: then one of the clocks is or was wrong, and the state as
    /// it is [`at`](Self::at) this moment has to be written down, so that time passes for it.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.since > now || self.attempts.iter().any(|attempt| attempt.until > now.after(ATTEMPT_TTL))
    }

    /// How many attempts may be under way at a time, if any may.
    fn allowance(&self, rule: Rule, now: Timestamp) -> Result<u32, Refusal> {
        match rule {
            Rule::Account { stop, .. } if self.failures >= stop => Err(Refusal::Stopped),
            Rule::Account { free, stop, .. } => match self.next_attempt(rule).since(now) {
                Duration::ZERO => Ok(free.min(stop).saturating_sub(self.failures).max(1)),
                wait => Err(Refusal::Wait(wait)),
            },
            Rule::Address { failures, .. } if self.failures >= failures => {
                Err(Refusal::Wait(self.next_attempt(rule).since(now)))
            }
            Rule::Address { failures, .. } => Ok(failures - self.failures),
        }
    }

    /// When another attempt can be let through, as far as time alone decides.
    pub fn next_attempt(&self, rule: Rule) -> Timestamp {
        match rule {
            Rule::Account { free, first_wait, longest_wait, .. } => {
                let Some(beyond) = self.failures.checked_sub(free.max(1)) else {
                    return Timestamp::default();
                };
                let wait = 1_u32.checked_shl(beyond).and_then(|times| first_wait.checked_mul(times));
                self.since.after(wait.map_or(longest_wait, |wait| wait.min(longest_wait)))
            }
            Rule::Address { failures, .. } if self.failures < failures => Timestamp::default(),
            Rule::Address { .. } => self.since.after(rule.forgets_after().unwrap_or_default()),
        }
    }

    /// Whether nothing is let through until an operator ends it.
    pub const fn is_stopped(&self, rule: Rule) -> bool {
        matches!(rule, Rule::Account { stop, .. } if self.failures >= stop)
    }

    /// From when on nothing of this matters any more.
    pub fn keep_until(&self, rule: Rule) -> Timestamp {
        let attempts = self.attempts.iter().map(|attempt| attempt.until.after(REMEMBERED));
        let failures = match rule {
            _ if self.failures == 0 => self.changed_at,
            Rule::Account { .. } if self.is_stopped(rule) => self.since.after(STOPPED),
            Rule::Account { .. } => self.since.after(REMEMBERED),
            Rule::Address { window, .. } => self.since.after(window),
        };
        attempts.fold(failures, Timestamp::max).after(KEEP_MARGIN)
    }

    /// This, with what time has done to it.
    ///
    /// What lies in the future was written down by a clock that was ahead, and is taken to have happened now: no wait is
    /// longer than the rule says, whatever the clocks did.
    #[must_use]
    pub fn at(&self, rule: Rule, now: Timestamp) -> Self {
        let mut next =
            Self { changed_at: now.max(self.changed_at), since: self.since.min(now), ..self.clone() };
        for attempt in &mut next.attempts {
            attempt.until = attempt.until.min(now.after(ATTEMPT_TTL));
        }
        let mut lapsed: Vec<_> = next.attempts.extract_if(.., |attempt| attempt.until <= now).collect();
        // In the order of time: what is forgotten meanwhile is forgotten once.
        lapsed.sort_by_key(|attempt| attempt.until);
        for attempt in lapsed {
            next.forget(rule, attempt.until);
            next.fail(rule, attempt.until);
        }
        next.forget(rule, now);
        next
    }

    fn fail(&mut self, rule: Rule, at: Timestamp) {
        match rule {
            Rule::Account { .. } => self.since = self.since.max(at),
            Rule::Address { .. } if self.failures == 0 => self.since = at,
            Rule::Address { .. } => {}
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn forget(&mut self, rule: Rule, now: Timestamp) {
        let Some(each) = rule.forgets_after() else { return };
        while self.failures > 0 && now.since(self.since) >= each {
            self.failures -= 1;
            self.since = self.since.after(each);
        }
    }
}

#[cfg(test)]
mod tests;
