//! The throttle: the register of the login limiter for one subject, as a pure state machine.
//!
//! An attempt is recorded *before* the password is checked and counts against the limit from then on, so parallel
//! attempts on any number of replicas are never more than sequential ones would be. Its outcome is recorded afterwards.
//! An attempt without an outcome expires and counts as a failure. See ADR 0015.
//!
//! The rules follow NIST SP 800-63B-4 section 3.2.2: growing waits, and at most 100 consecutive failures on an account.

mod key;
mod subject;

use std::{convert::Infallible, time::Duration};

use crate::domain::{ports::State, types::Timestamp};

pub use self::key::ThrottleKey;
pub(in crate::domain) use self::subject::{Counter, CounterKind, Rules, Subject};

/// When an attempt without an outcome counts as a failure, because the server that checked it has crashed. The time
/// starts with the turn of the attempt, not while it waits in the password queue. An attempt that takes longer is
/// counted, and cleared if the password turns out to be right.
const ATTEMPT_TTL: Duration = Duration::from_secs(5);
/// How long failures are kept after the latest one, unless the account is locked.
const RETENTION: Duration = Duration::from_hours(24 * 30);
/// How long a locked account stays locked unless an operator unlocks it.
const LOCKED_RETENTION: Duration = Duration::from_hours(24 * 365 * 10);
/// How much longer a register is kept, for clocks that differ.
const KEEP_MARGIN: Duration = Duration::from_mins(1);

/// How failures limit further attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleRule {
    /// Counts consecutive failures; a success clears them.
    Account {
        /// How many failures cause no wait.
        free: u32,
        /// The wait after the first failure that is not free. It doubles with every further one.
        first_wait: Duration,
        /// The longest wait.
        longest_wait: Duration,
        /// How many failures lock the account until an operator unlocks it.
        lock_after: u32,
    },
    /// Counts failures in a window and forgets them one by one. A success clears nothing: an attacker with one account
    /// could otherwise clear the failures on others.
    Address {
        /// How many failures are allowed in a window.
        failures: u32,
        /// The window.
        window: Duration,
    },
}

impl ThrottleRule {
    /// How long it takes to forget one failure, if failures are forgotten one by one.
    fn forgets_after(self) -> Option<Duration> {
        match self {
            Self::Account { .. } => None,
            Self::Address { failures, window } => Some(window / failures.max(1)),
        }
    }
}

/// Names an attempt: a random number, so that replicas do not collide.
pub type AttemptId = u64;

/// A password check without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The id of the attempt.
    pub id: AttemptId,
    /// When the attempt counts as failed.
    pub until: Timestamp,
}

/// The failures and pending attempts of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Throttle {
    /// The number of failures.
    pub failures: u32,
    /// For an account: the time of the latest failure. For an address: when the next failure begins to be forgotten.
    pub since: Timestamp,
    /// Attempts without an outcome.
    pub attempts: Vec<Attempt>,
    /// When the register was last changed.
    pub changed_at: Timestamp,
}

impl State for Throttle {
    type Key = ThrottleKey;
    type Event = Infallible;
}

/// Why an attempt may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttled {
    /// Other attempts are being checked, which takes a moment.
    Busy,
    /// A wait of this duration is left.
    Wait(Duration),
    /// The account is locked until an operator unlocks it.
    Locked,
}

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The password was right.
    Right,
    /// The password was wrong.
    Wrong,
    /// The password was not checked.
    NotChecked,
}

impl Throttle {
    /// Begins an attempt, if the rule allows it.
    pub fn begin(&self, rule: ThrottleRule, id: AttemptId, now: Timestamp) -> Result<Self, Throttled> {
        let mut next = self.at(rule, now);
        let allowed = next.max_concurrent_attempts(rule, now)?;
        if next.attempts.len() >= allowed as usize {
            return Err(Throttled::Busy);
        }
        next.attempts.push(Attempt { id, until: now.after(ATTEMPT_TTL) });
        Ok(next)
    }

    /// Records the outcome of an attempt.
    #[must_use]
    pub fn finish(&self, rule: ThrottleRule, id: AttemptId, outcome: Outcome, now: Timestamp) -> Self {
        let mut next = self.at(rule, now);
        let before = next.attempts.len();
        next.attempts.retain(|attempt| attempt.id != id);
        let pending = next.attempts.len() < before;
        match (outcome, rule) {
            (Outcome::Right, ThrottleRule::Account { .. }) => next.failures = 0,
            // An expired attempt has already been counted.
            (Outcome::Wrong, _) if pending => next.fail(rule, now),
            _ => {}
        }
        next
    }

    /// Counts a failure that was not recorded as an attempt before.
    #[must_use]
    pub fn failed(&self, rule: ThrottleRule, now: Timestamp) -> Self {
        let mut next = self.at(rule, now);
        next.fail(rule, now);
        next
    }

    /// Clears the failures, after a right password or by an operator.
    #[must_use]
    pub fn cleared(&self, rule: ThrottleRule, now: Timestamp) -> Self {
        Self { failures: 0, ..self.at(rule, now) }
    }

    /// Whether a time in the state lies in the future, so that a clock is or was wrong. The state [`at`](Self::at) the
    /// current time must then be written, otherwise its waits would not pass.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.since > now || self.attempts.iter().any(|attempt| attempt.until > now.after(ATTEMPT_TTL))
    }

    /// How many attempts may be pending at the same time. Fails if there must be none.
    fn max_concurrent_attempts(&self, rule: ThrottleRule, now: Timestamp) -> Result<u32, Throttled> {
        match rule {
            ThrottleRule::Account { lock_after, .. } if self.failures >= lock_after => Err(Throttled::Locked),
            ThrottleRule::Account { free, lock_after, .. } => match self.next_attempt(rule).since(now) {
                Duration::ZERO => Ok(free.min(lock_after).saturating_sub(self.failures).max(1)),
                wait => Err(Throttled::Wait(wait)),
            },
            ThrottleRule::Address { failures, .. } if self.failures >= failures => {
                Err(Throttled::Wait(self.next_attempt(rule).since(now)))
            }
            ThrottleRule::Address { failures, .. } => Ok(failures - self.failures),
        }
    }

    /// When time allows another attempt.
    pub fn next_attempt(&self, rule: ThrottleRule) -> Timestamp {
        match rule {
            ThrottleRule::Account { free, first_wait, longest_wait, .. } => {
                let Some(beyond) = self.failures.checked_sub(free.max(1)) else {
                    return Timestamp::default();
                };
                let wait = 1_u32.checked_shl(beyond).and_then(|times| first_wait.checked_mul(times));
                self.since.after(wait.map_or(longest_wait, |wait| wait.min(longest_wait)))
            }
            ThrottleRule::Address { failures, .. } if self.failures < failures => Timestamp::default(),
            ThrottleRule::Address { .. } => self.since.after(rule.forgets_after().unwrap_or_default()),
        }
    }

    /// Whether the account is locked until an operator unlocks it.
    pub const fn is_locked(&self, rule: ThrottleRule) -> bool {
        matches!(rule, ThrottleRule::Account { lock_after, .. } if self.failures >= lock_after)
    }

    /// When the register can be forgotten.
    pub fn keep_until(&self, rule: ThrottleRule) -> Timestamp {
        let attempts = self.attempts.iter().map(|attempt| attempt.until.after(RETENTION));
        let failures = match rule {
            _ if self.failures == 0 => self.changed_at,
            ThrottleRule::Account { .. } if self.is_locked(rule) => self.since.after(LOCKED_RETENTION),
            ThrottleRule::Account { .. } => self.since.after(RETENTION),
            ThrottleRule::Address { window, .. } => self.since.after(window),
        };
        attempts.fold(failures, Timestamp::max).after(KEEP_MARGIN)
    }

    /// The state as of `now`: expired attempts have failed and failures are forgotten.
    ///
    /// A time in the future was written by a clock that was ahead and is replaced by `now`, so no wait is longer than
    /// the rule says.
    #[must_use]
    pub fn at(&self, rule: ThrottleRule, now: Timestamp) -> Self {
        let mut next =
            Self { changed_at: now.max(self.changed_at), since: self.since.min(now), ..self.clone() };
        for attempt in &mut next.attempts {
            attempt.until = attempt.until.min(now.after(ATTEMPT_TTL));
        }
        let mut expired: Vec<_> = next.attempts.extract_if(.., |attempt| attempt.until <= now).collect();
        // Expired attempts fail in the order of time, so that no failure is forgotten twice.
        expired.sort_by_key(|attempt| attempt.until);
        for attempt in expired {
            next.forget(rule, attempt.until);
            next.fail(rule, attempt.until);
        }
        next.forget(rule, now);
        next
    }

    fn fail(&mut self, rule: ThrottleRule, at: Timestamp) {
        match rule {
            ThrottleRule::Account { .. } => self.since = self.since.max(at),
            ThrottleRule::Address { .. } if self.failures == 0 => self.since = at,
            ThrottleRule::Address { .. } => {}
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn forget(&mut self, rule: ThrottleRule, now: Timestamp) {
        let Some(each) = rule.forgets_after() else { return };
        while self.failures > 0 && now.since(self.since) >= each {
            self.failures -= 1;
            self.since = self.since.after(each);
        }
    }
}

#[cfg(test)]
mod tests;
