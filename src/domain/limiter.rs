//! The throttle over its registers: no password is checked without having passed here.

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

pub use self::operator::Standing;

/// How long an attempt waits for others on the same account to be checked.
const PATIENCE: Duration = Duration::from_secs(5);
/// What one is told who could not wait any longer.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// What one is told who waits for an operator.
const STOPPED_RETRY: Duration = Duration::from_hours(24);
/// How often a change is made again because others were faster.
const MAX_ATTEMPTS: u32 = 200;

/// Lets attempts through, or not.
pub struct LoginLimiter {
    registers: Arc<dyn Registers<Throttle>>,
    clock: Arc<dyn Clock>,
    rules: Rules,
    /// Those who wait for others on the same account stand in line.
    turns: ContentionQueues,
}

/// What is known of those that an attempt counts by.
#[derive(Debug)]
pub(crate) struct Observation {
    registers: Vec<Register>,
    /// The attempt must fail without its password being checked, and nothing of that may show.
    hidden: bool,
}

/// Leave to check one password, once.
#[derive(Debug)]
pub(crate) struct AttemptPermit {
    id: AttemptId,
    registers: Vec<Register>,
    hidden: bool,
}

impl AttemptPermit {
    /// Whether the password must be found wrong without being looked at.
    pub(crate) const fn is_for_nothing(&self) -> bool {
        self.hidden
    }
}

/// A register that an attempt counts in.
#[derive(Debug)]
struct Register {
    counter: Counter,
    /// What it held when it was last read or written here.
    held: Versioned<Throttle>,
}

/// What a failure has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Penalty {
    /// Nothing that others would notice.
    Nothing,
    /// From now on there are waits between the attempts on the account.
    Slowed,
    /// Nothing is let through any more, until an operator ends it.
    Locked,
}

impl LoginLimiter {
    /// A gate with these rules.
    pub fn new(
        registers: Arc<dyn Registers<Throttle>>,
        clock: Arc<dyn Clock>,
        account: ThrottleRule,
        address: Option<ThrottleRule>,
    ) -> Self {
        Self { registers, clock, rules: Rules { account, address }, turns: ContentionQueues::default() }
    }

    /// Refuses an attempt that would have to wait, without beginning it. What is read here, [`begin`](Self::begin)
    /// goes on with.
    pub(in crate::domain) async fn look(&self, subject: &Subject<'_>) -> Result<Observation, Error> {
        let mut registers = self.read(self.rules.of_address(subject.address)).await?;
        for register in &registers {
            if let Some(refusal) = self.refusal(register).await? {
                return Err(throttled(refusal));
            }
        }
        let mut of_account = self.read(self.rules.of_account(subject, subject.is_known)).await?;
        if subject.is_known && self.is_used_up(&of_account) {
            of_account = self.read(self.rules.of_account(subject, false)).await?;
        }
        let mut hidden = false;
        for register in of_account {
            let failures = register.held.state.failures;
            match (self.refusal(&register).await?, register.counter.kind) {
                (Some(_), CounterKind::Hidden) => hidden = true,
                (Some(refusal), CounterKind::Account) => {
                    // Whoever keeps asking keeps others out.
                    self.count_refusal(registers).await;
                    return Err(throttled(refusal));
                }
                (_, kind) => {
                    let is_common =
                        kind == CounterKind::Account && register.counter.rule == self.rules.account;
                    hidden |= is_common
                        && subject.has_known_clients
                        && failures >= self.rules.left_to_known_clients();
                    registers.push(register);
                }
            }
        }
        Ok(Observation { registers, hidden })
    }

    /// Writes down that a password is about to be checked; `None` where others on the same account are being checked,
    /// so that it is not known yet whether it may be. The address first: who is refused for his own does not touch
    /// the account.
    pub(crate) async fn begin(&self, looked: Observation) -> Result<Option<AttemptPermit>, Error> {
        let Observation { registers, hidden } = looked;
        let mut ticket =
            AttemptPermit { id: rand::random(), registers: Vec::with_capacity(registers.len()), hidden };
        for Register { counter, held } in registers {
            if !counter.kind.records_attempts() {
                ticket.registers.push(Register { counter, held });
                continue;
            }
            let refused = match self.pass(&counter, ticket.id, held).await {
                Ok(Ok(held)) => {
                    ticket.registers.push(Register { counter, held });
                    continue;
                }
                Ok(Err(Throttled::Busy)) => Ok(None),
                Ok(Err(_)) if counter.kind == CounterKind::Hidden => {
                    ticket.hidden = true;
                    continue;
                }
                Ok(Err(refusal)) => Err(throttled(refusal)),
                Err(error) => Err(error),
            };
            self.finish(ticket, Outcome::NotChecked).await;
            return refused;
        }
        Ok(Some(ticket))
    }

    /// The line of those who wait for others on the same account. Whoever is being checked does not stand in it.
    pub(crate) async fn line(&self, username: &Username) -> MutexGuard<'_, ()> {
        self.turns.of(ThrottleKey::account(username).as_str()).lock().await
    }

    /// Waits, in [`line`](Self::line), until an attempt may begin.
    pub(in crate::domain) async fn until_free(&self, subject: &Subject<'_>) -> Result<Observation, Error> {
        let started = Instant::now();
        loop {
            let looked = self.look(subject).await?;
            let now = self.clock.now();
            let is_busy = |register: &Register| {
                let Register { counter, held } = register;
                counter.kind.records_attempts() && held.state.begin(counter.rule, 0, now).is_err()
            };
            if !looked.registers.iter().any(is_busy) {
                return Ok(looked);
            }
            if started.elapsed() > PATIENCE {
                return Err(throttled(Throttled::Busy));
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(1..5))).await;
        }
    }

    /// Writes down what became of an attempt, and says what follows. If the store does not take it, the attempt will
    /// lapse.
    pub(crate) async fn finish(&self, ticket: AttemptPermit, outcome: Outcome) -> Penalty {
        let AttemptPermit { id, registers, .. } = ticket;
        let mut recorded = Penalty::Nothing;
        for Register { counter, held } in registers {
            let Counter { key, rule, kind } = counter;
            let changed = if kind.records_attempts() {
                self.change(&key, rule, held, |state, now| Some(state.finish(rule, id, outcome, now))).await
            } else {
                self.change(&key, rule, held, |state, now| aside(state, rule, outcome, now)).await
            };
            match changed {
                Ok(Some(state)) if outcome == Outcome::Wrong => {
                    recorded = recorded.max(what_follows(&state, rule, self.rules.account));
                }
                Ok(_) => {}
                Err(error) => {
                    static UNRECORDED: LogLimiter =
                        LogLimiter::new("the outcome of a login attempt could not be recorded", 1);
                    if UNRECORDED.admits("") {
                        tracing::warn!(error.message = %error, "the outcome of a login attempt could not be recorded; it will count as failed");
                    }
                }
            }
        }
        recorded
    }

    async fn read(&self, counters: Vec<Counter>) -> Result<Vec<Register>, StoreError> {
        let keys: Vec<_> = counters.iter().map(|counter| &counter.key).collect();
        let held = match keys.as_slice() {
            [] => Vec::new(),
            [key] => vec![self.registers.load(key).await],
            keys => self.registers.load_many(keys).await,
        };
        let registers = counters.into_iter().zip(held);
        registers.map(|(counter, held)| Ok(Register { counter, held: held? })).collect()
    }

    /// Why an attempt has to wait, by this register.
    async fn refusal(&self, register: &Register) -> Result<Option<Throttled>, Error> {
        let Register { counter: Counter { key, rule, kind }, held } = register;
        let now = self.clock.now();
        let refusal = match held.state.begin(*rule, 0, now) {
            Err(refusal @ (Throttled::Wait(_) | Throttled::Locked)) if *kind != CounterKind::FailuresOnly => {
                refusal
            }
            _ => return Ok(None),
        };
        if held.state.is_ahead(now) {
            // Or it would have to wait until the clock has caught up.
            self.change(key, *rule, held.clone(), |state, now| Some(state.at(*rule, now))).await?;
        }
        Ok(Some(refusal))
    }

    /// Whether known clients have failed so often that they are as all others.
    fn is_used_up(&self, of_account: &[Register]) -> bool {
        of_account.first().is_some_and(|Register { counter, held }| {
            counter.rule != self.rules.account && held.state.is_locked(counter.rule)
        })
    }

    /// A refusal on the part of the account counts against the address.
    async fn count_refusal(&self, registers: Vec<Register>) {
        for Register { counter: Counter { key, rule, kind }, held } in registers {
            if kind.is_address()
                && let Err(error) =
                    self.change(&key, rule, held, |state, now| Some(state.failed(rule, now))).await
            {
                tracing::warn!(error.message = %error, "a refused login attempt could not be counted");
            }
        }
    }

    /// Writes down that an attempt begins, if it may: what the register holds then.
    async fn pass(
        &self,
        counter: &Counter,
        id: AttemptId,
        mut read: Versioned<Throttle>,
    ) -> Result<Result<Versioned<Throttle>, Throttled>, Error> {
        let Counter { key, rule, .. } = counter;
        let mut conflicts = 0;
        loop {
            let next = match read.state.begin(*rule, id, self.clock.now()) {
                Ok(next) => next,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let state = Arc::new(next.clone());
            let change = Change { keep_until: next.keep_until(*rule), state: next, events: Vec::new() };
            match self.registers.commit(key, read.revision, change).await? {
                Commit::Committed(revision) => return Ok(Ok(Versioned { revision, state })),
                Commit::Conflict(newer) => read = newer,
            }
            conflicts += 1;
            lost(conflicts).await?;
        }
    }

    /// Changes a register, beginning with what was `read` of it: what it holds then; `None` where there was nothing
    /// to change.
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
            lost(conflicts).await?;
        }
    }
}

/// What an attempt does to a register in which it was not written down before.
fn aside(state: &Throttle, rule: ThrottleRule, outcome: Outcome, now: Timestamp) -> Option<Throttle> {
    match (outcome, rule) {
        (Outcome::Wrong, _) => Some(state.failed(rule, now)),
        (Outcome::Right, ThrottleRule::Account { .. }) if state.failures > 0 => {
            Some(state.cleared(rule, now))
        }
        (Outcome::Right | Outcome::NotChecked, _) => None,
    }
}

/// What follows from the failure that was counted last.
fn what_follows(state: &Throttle, rule: ThrottleRule, common: ThrottleRule) -> Penalty {
    let ThrottleRule::Account { free, lock_after, .. } = rule else { return Penalty::Nothing };
    if rule == common && state.failures == lock_after {
        Penalty::Locked
    } else if state.failures == free && free < lock_after {
        Penalty::Slowed
    } else {
        Penalty::Nothing
    }
}

fn throttled(refusal: Throttled) -> Error {
    match refusal {
        Throttled::Busy => Error::Throttled { retry_after: BUSY_RETRY, stopped: false },
        Throttled::Wait(retry_after) => Error::Throttled { retry_after, stopped: false },
        Throttled::Locked => Error::Throttled { retry_after: STOPPED_RETRY, stopped: true },
    }
}

/// After a lost race: gives the others room, and gives up in the end.
async fn lost(conflicts: u32) -> Result<(), Error> {
    if conflicts >= MAX_ATTEMPTS {
        return Err(Error::Overloaded {
            what: "too many concurrent attempts on one account",
            retry_after: BUSY_RETRY,
        });
    }
    if conflicts > 1 {
        let ceiling = 500_u64 << conflicts.min(5);
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..ceiling))).await;
    }
    Ok(())
}
