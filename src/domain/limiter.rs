//! The login limiter: every password check is an attempt that it permits first.
//!
//! An attempt goes through these steps (ADR 0015):
//!
//! 1. [`observe`](LoginLimiter::observe) reads the registers and returns an error if the request has to wait.
//! 2. The request waits for its turn in the password queue.
//! 3. [`begin`](LoginLimiter::begin) records the attempt.
//! 4. The password is hashed.
//! 5. [`finish`](LoginLimiter::finish) records the outcome.
//!
//! A request that finds other attempts on the same account in progress waits for a moment, so many clients of one user
//! with the right password all get in. `model/throttle` decides, as a pure state machine; its `subject` module says by
//! which registers an attempt counts.

mod operator;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::MutexGuard;

use super::throttle::{
    AttemptId, Counter, CounterKind, Outcome, Rules, Subject, Throttle, ThrottleKey, ThrottleRule, Throttled,
};
use crate::{
    domain::{
        Error,
        contention::ContentionQueues,
        ports::{Change, Clock, Commit, Registers, StoreError, Versioned},
        types::Timestamp,
        username::Username,
    },
    isolation::log_limiter::LogLimiter,
};

pub use self::operator::ThrottleStatus;

/// How long a request waits for other attempts on the same account.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// `retry_after` of a request that has waited that long.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);
/// `retry_after` while an account is locked.
const LOCKED_RETRY_AFTER: Duration = Duration::from_hours(24);
/// Commits of one change that may conflict.
const MAX_ATTEMPTS: u32 = 200;

/// Counts login attempts and decides which have to wait.
pub struct LoginLimiter {
    registers: Arc<dyn Registers<Throttle>>,
    clock: Arc<dyn Clock>,
    rules: Rules,
    /// Requests that wait for other attempts on the same account.
    queues: ContentionQueues,
}

/// The registers of an attempt that may begin.
#[derive(Debug)]
pub(super) struct Observation {
    registers: Vec<Register>,
    must_fail: bool,
}

/// The result of beginning an attempt.
pub(super) enum Begun {
    /// The password may be checked.
    Permitted(AttemptPermit),
    /// Other attempts on the same account are in progress.
    Busy,
}

/// Permits one check of a password.
#[derive(Debug)]
pub(super) struct AttemptPermit {
    id: AttemptId,
    registers: Vec<Register>,
    must_fail: bool,
}

impl AttemptPermit {
    /// Whether the attempt must fail as with a wrong password, at the same cost and with the same answer, so that a
    /// client does not learn that the account is limited.
    pub(super) const fn must_fail(&self) -> bool {
        self.must_fail
    }
}

/// A register in which an attempt counts.
#[derive(Debug)]
struct Register {
    counter: Counter,
    /// The value that was last read or written.
    value: Versioned<Throttle>,
}

/// The result of recording that an attempt begins.
enum Recorded {
    /// The register holds this value.
    Done(Versioned<Throttle>),
    /// The attempt has to wait.
    Throttled(Throttled),
}

/// The consequence of a failed attempt, for the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Penalty {
    Nothing,
    /// From now on there are waits between the attempts on the account.
    Slowed,
    /// The account is locked until an operator unlocks it.
    Locked,
}

impl LoginLimiter {
    /// Creates a limiter with these rules; without `address`, addresses are not limited.
    pub fn new(
        registers: Arc<dyn Registers<Throttle>>,
        clock: Arc<dyn Clock>,
        account: ThrottleRule,
        address: Option<ThrottleRule>,
    ) -> Self {
        Self { registers, clock, rules: Rules { account, address }, queues: ContentionQueues::default() }
    }

    /// Reads the registers of an attempt. Returns [`Error::Throttled`] if it has to wait. Records nothing.
    pub(super) async fn observe(&self, subject: &Subject<'_>) -> Result<Observation, Error> {
        let mut registers = self.read(self.rules.of_address(subject.address)).await?;
        for register in &registers {
            if let Some(throttled) = self.check(register).await? {
                return Err(throttle_error(throttled));
            }
        }
        let mut of_account = self.read(self.rules.of_account(subject, subject.is_known)).await?;
        if subject.is_known && self.known_clients_are_locked(&of_account) {
            of_account = self.read(self.rules.of_account(subject, false)).await?;
        }
        let mut must_fail = false;
        for register in of_account {
            let failures = register.value.state.failures;
            match (self.check(&register).await?, register.counter.kind) {
                (Some(_), CounterKind::Hidden) => must_fail = true,
                (Some(throttled), CounterKind::Account) => {
                    // A client that keeps trying a limited account keeps its user out.
                    self.count_against_address(registers).await;
                    return Err(throttle_error(throttled));
                }
                (_, kind) => {
                    let is_common =
                        kind == CounterKind::Account && register.counter.rule == self.rules.account;
                    must_fail |= is_common
                        && subject.has_known_clients
                        && failures >= self.rules.left_to_known_clients();
                    registers.push(register);
                }
            }
        }
        Ok(Observation { registers, must_fail })
    }

    /// Records that a password is about to be checked. The registers of the address come first, so that an address that
    /// has to wait does not change those of the account.
    pub(super) async fn begin(&self, observation: Observation) -> Result<Begun, Error> {
        let Observation { registers, must_fail } = observation;
        let mut permit =
            AttemptPermit { id: rand::random(), registers: Vec::with_capacity(registers.len()), must_fail };
        for Register { counter, value } in registers {
            if !counter.kind.records_attempts() {
                permit.registers.push(Register { counter, value });
                continue;
            }
            let result = match self.record_attempt(&counter, permit.id, value).await {
                Ok(Recorded::Done(value)) => {
                    permit.registers.push(Register { counter, value });
                    continue;
                }
                Ok(Recorded::Throttled(Throttled::Busy)) => Ok(Begun::Busy),
                Ok(Recorded::Throttled(_)) if counter.kind == CounterKind::Hidden => {
                    permit.must_fail = true;
                    continue;
                }
                Ok(Recorded::Throttled(throttled)) => Err(throttle_error(throttled)),
                Err(error) => Err(error),
            };
            self.finish(permit, Outcome::NotChecked).await;
            return result;
        }
        Ok(Begun::Permitted(permit))
    }

    /// Queues behind the requests of this process that wait for attempts on the same account.
    pub(super) async fn queue(&self, username: &Username) -> MutexGuard<'_, ()> {
        self.queues.of(ThrottleKey::account(username).as_str()).lock().await
    }

    /// Waits until an attempt may begin, at most [`BUSY_TIMEOUT`]. The caller is first in the [`queue`](Self::queue).
    pub(super) async fn wait_until_free(&self, subject: &Subject<'_>) -> Result<Observation, Error> {
        let started = Instant::now();
        loop {
            let observation = self.observe(subject).await?;
            let now = self.clock.now();
            let is_busy = |register: &Register| {
                let Register { counter, value } = register;
                counter.kind.records_attempts() && value.state.begin(counter.rule, 0, now).is_err()
            };
            if !observation.registers.iter().any(is_busy) {
                return Ok(observation);
            }
            if started.elapsed() > BUSY_TIMEOUT {
                return Err(throttle_error(Throttled::Busy));
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(1..5))).await;
        }
    }

    /// Records the outcome of an attempt. If the store does not answer, the attempt will lapse into a failure.
    pub(super) async fn finish(&self, permit: AttemptPermit, outcome: Outcome) -> Penalty {
        let AttemptPermit { id, registers, .. } = permit;
        let mut penalty = Penalty::Nothing;
        for Register { counter, value } in registers {
            let Counter { key, rule, kind } = counter;
            let changed = if kind.records_attempts() {
                self.change(&key, rule, value, |state, now| Some(state.finish(rule, id, outcome, now))).await
            } else {
                self.change(&key, rule, value, |state, now| count_outcome(state, rule, outcome, now)).await
            };
            match changed {
                Ok(Some(state)) if outcome == Outcome::Wrong => {
                    penalty = penalty.max(penalty_of(&state, rule, self.rules.account));
                }
                Ok(_) => {}
                Err(error) => {
                    static NOT_RECORDED: LogLimiter =
                        LogLimiter::new("failed to record the outcome of a login attempt", 1);
                    if NOT_RECORDED.admits("") {
                        tracing::warn!(error.message = %error, "failed to record the outcome of a login attempt; it will count as failed");
                    }
                }
            }
        }
        penalty
    }

    async fn read(&self, counters: Vec<Counter>) -> Result<Vec<Register>, StoreError> {
        let keys: Vec<_> = counters.iter().map(|counter| &counter.key).collect();
        let values = match keys.as_slice() {
            [] => Vec::new(),
            [key] => vec![self.registers.load(key).await],
            keys => self.registers.load_many(keys).await,
        };
        let registers = counters.into_iter().zip(values);
        registers.map(|(counter, value)| Ok(Register { counter, value: value? })).collect()
    }

    /// Checks by one register whether an attempt has to wait, other than for attempts in progress.
    async fn check(&self, register: &Register) -> Result<Option<Throttled>, Error> {
        let Register { counter: Counter { key, rule, kind }, value } = register;
        let now = self.clock.now();
        let throttled = match value.state.begin(*rule, 0, now) {
            Err(throttled @ (Throttled::Wait(_) | Throttled::Locked))
                if *kind != CounterKind::FailuresOnly =>
            {
                throttled
            }
            _ => return Ok(None),
        };
        if value.state.is_ahead(now) {
            // Otherwise the wait would last until this clock has caught up.
            self.change(key, *rule, value.clone(), |state, now| Some(state.at(*rule, now))).await?;
        }
        Ok(Some(throttled))
    }

    /// Whether the known clients of an account have failed so often that they are limited like all others.
    fn known_clients_are_locked(&self, of_account: &[Register]) -> bool {
        of_account.first().is_some_and(|Register { counter, value }| {
            counter.rule != self.rules.account && value.state.is_locked(counter.rule)
        })
    }

    /// Counts a failure for the address of a request that has to wait because of the account.
    async fn count_against_address(&self, registers: Vec<Register>) {
        for Register { counter: Counter { key, rule, kind }, value } in registers {
            if kind.is_address()
                && let Err(error) =
                    self.change(&key, rule, value, |state, now| Some(state.failed(rule, now))).await
            {
                tracing::warn!(error.message = %error, "failed to count a throttled login attempt");
            }
        }
    }

    /// Records in one register that an attempt begins.
    async fn record_attempt(
        &self,
        counter: &Counter,
        id: AttemptId,
        mut read: Versioned<Throttle>,
    ) -> Result<Recorded, Error> {
        let Counter { key, rule, .. } = counter;
        let mut conflicts = 0;
        loop {
            let next = match read.state.begin(*rule, id, self.clock.now()) {
                Ok(next) => next,
                Err(throttled) => return Ok(Recorded::Throttled(throttled)),
            };
            let state = Arc::new(next.clone());
            let change = Change { keep_until: next.keep_until(*rule), state: next, events: Vec::new() };
            match self.registers.commit(key, read.revision, change).await? {
                Commit::Committed(revision) => return Ok(Recorded::Done(Versioned { revision, state })),
                Commit::Conflict(newer) => read = newer,
            }
            conflicts += 1;
            back_off(conflicts).await?;
        }
    }

    /// Changes a register under compare-and-set, beginning with the value `read`. Returns the new value, or `None` if
    /// `next` changes nothing.
    async fn change(
        &self,
        key: &ThrottleKey,
        rule: ThrottleRule,
        mut read: Versioned<Throttle>,
        next: impl Fn(&Throttle, Timestamp) -> Option<Throttle>,
    ) -> Result<Option<Throttle>, Error> {
        let mut conflicts = 0;
        loop {
            let Some(state) = next(&read.state, self.clock.now()) else { return Ok(None) };
            let written = state.clone();
            let change = Change { keep_until: state.keep_until(rule), state, events: Vec::new() };
            match self.registers.commit(key, read.revision, change).await? {
                Commit::Committed(_) => return Ok(Some(written)),
                Commit::Conflict(newer) => read = newer,
            }
            conflicts += 1;
            back_off(conflicts).await?;
        }
    }
}

/// Counts an attempt in a register in which its beginning is not recorded.
fn count_outcome(state: &Throttle, rule: ThrottleRule, outcome: Outcome, now: Timestamp) -> Option<Throttle> {
    match (outcome, rule) {
        (Outcome::Wrong, _) => Some(state.failed(rule, now)),
        (Outcome::Right, ThrottleRule::Account { .. }) if state.failures > 0 => {
            Some(state.cleared(rule, now))
        }
        (Outcome::Right | Outcome::NotChecked, _) => None,
    }
}

/// The consequence of the failure that was counted last. `common` is the rule for all clients of an account.
fn penalty_of(state: &Throttle, rule: ThrottleRule, common: ThrottleRule) -> Penalty {
    let ThrottleRule::Account { free, lock_after, .. } = rule else { return Penalty::Nothing };
    if rule == common && state.failures == lock_after {
        Penalty::Locked
    } else if state.failures == free && free < lock_after {
        Penalty::Slowed
    } else {
        Penalty::Nothing
    }
}

fn throttle_error(throttled: Throttled) -> Error {
    match throttled {
        Throttled::Busy => Error::Throttled { retry_after: BUSY_RETRY_AFTER, locked: false },
        Throttled::Wait(retry_after) => Error::Throttled { retry_after, locked: false },
        Throttled::Locked => Error::Throttled { retry_after: LOCKED_RETRY_AFTER, locked: true },
    }
}

/// Backs off after a conflict, with jitter. Returns an error after [`MAX_ATTEMPTS`].
async fn back_off(conflicts: u32) -> Result<(), Error> {
    if conflicts >= MAX_ATTEMPTS {
        return Err(Error::Overloaded {
            what: "too many concurrent attempts on one account",
            retry_after: BUSY_RETRY_AFTER,
        });
    }
    if conflicts > 1 {
        let ceiling = 500_u64 << conflicts.min(5);
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..ceiling))).await;
    }
    Ok(())
}
