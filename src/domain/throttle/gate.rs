//! The throttle over its registers: no password is checked without having passed here.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{AttemptId, Outcome, Refusal, Rule, Throttle, ThrottleKey};
use crate::{
    domain::{
        Error,
        ports::{Change, Clock, Commit, Registers, Versioned},
        transact::Turns,
        types::Timestamp,
        username::Username,
    },
    isolation::log_limiter::LogLimiter,
};

/// How long an attempt waits for others on the same account to be checked.
const PATIENCE: Duration = Duration::from_secs(5);
/// What one is told who could not wait any longer.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// What one is told who waits for an operator.
const STOPPED_RETRY: Duration = Duration::from_hours(24);
/// How often a change is made again because others were faster.
const MAX_ATTEMPTS: u32 = 200;

/// Lets attempts through, or not.
pub struct Gate {
    registers: Arc<dyn Registers<Throttle>>,
    clock: Arc<dyn Clock>,
    account: Rule,
    /// Where clients' addresses count.
    address: Option<Rule>,
    /// Those who begin an attempt on the same account stand in line.
    turns: Turns,
}

/// Leave to check one password, once.
#[derive(Debug)]
pub(crate) struct Ticket {
    id: AttemptId,
    counted: Vec<Counted>,
}

/// An attempt that was written down.
#[derive(Debug)]
struct Counted {
    key: ThrottleKey,
    rule: Rule,
    /// What the register has held since then, unless somebody else has changed it.
    written: Versioned<Throttle>,
}

/// How an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Failures in a row.
    pub failures: u32,
    /// Passwords that are being checked.
    pub under_way: usize,
    /// Nothing is let through until an operator ends it.
    pub stopped: bool,
    /// When the next attempt is let through, where that is not now.
    pub next_attempt_at: Option<Timestamp>,
}

impl Gate {
    /// A gate with these rules.
    pub fn new(
        registers: Arc<dyn Registers<Throttle>>,
        clock: Arc<dyn Clock>,
        account: Rule,
        address: Option<Rule>,
    ) -> Self {
        Self { registers, clock, account, address, turns: Turns::default() }
    }

    /// Asks for leave to check a password. The address first: who is refused for his own does not touch
    /// the account.
    pub(crate) async fn begin(&self, username: &Username, address: Option<IpAddr>) -> Result<Ticket, Error> {
        let mut ticket = Ticket { id: rand::random(), counted: Vec::with_capacity(2) };
        let address = self.address.zip(address).map(|(rule, address)| (ThrottleKey::address(address), rule));
        let account = (ThrottleKey::account(username), self.account);
        for (key, rule) in address.into_iter().chain([account]) {
            match self.pass(&key, rule, ticket.id).await {
                Ok(written) => ticket.counted.push(Counted { key, rule, written }),
                Err(error) => {
                    self.finish(ticket, Outcome::NotMade).await;
                    return Err(error);
                }
            }
        }
        Ok(ticket)
    }

    /// Writes down what became of an attempt. If the store does not take it, the attempt will lapse.
    pub(crate) async fn finish(&self, ticket: Ticket, outcome: Outcome) {
        for Counted { key, rule, written } in ticket.counted {
            let next = |state: &Throttle, now| state.finish(rule, ticket.id, outcome, now);
            if let Err(error) = self.change(&key, rule, written, next).await {
                static UNRECORDED: LogLimiter =
                    LogLimiter::new("the outcome of a login attempt could not be recorded", 1);
                if UNRECORDED.admits("") {
                    tracing::warn!(error.message = %error, "the outcome of a login attempt could not be recorded; it will count as failed");
                }
            }
        }
    }

    /// Clears the failures of an account: how many those were.
    pub(crate) async fn clear(&self, username: &Username) -> Result<u32, Error> {
        let key = ThrottleKey::account(username);
        let read = self.registers.load(&key).await?;
        let before = read.state.failures;
        let clear = |state: &Throttle, now| Throttle { failures: 0, ..state.at(self.account, now) };
        self.change(&key, self.account, read, clear).await?;
        Ok(before)
    }

    /// How an account stands.
    pub(crate) async fn standing(&self, username: &Username) -> Result<Standing, Error> {
        let now = self.clock.now();
        let read = self.registers.load(&ThrottleKey::account(username)).await?;
        let state = read.state.at(self.account, now);
        let next = state.next_attempt(self.account);
        Ok(Standing {
            failures: state.failures,
            under_way: state.attempts.len(),
            stopped: state.is_stopped(self.account),
            next_attempt_at: Some(next).filter(|next| *next > now),
        })
    }

    /// Writes down that an attempt begins, if it may: what the register holds now.
    async fn pass(&self, key: &ThrottleKey, rule: Rule, id: AttemptId) -> Result<Versioned<Throttle>, Error> {
        let mut read = self.registers.load(key).await?;
        // Who has to wait for longer does not stand in line first, and holds nobody up there.
        if let Err(refusal @ (Refusal::Wait(_) | Refusal::Stopped)) =
            read.state.begin(rule, id, self.clock.now())
        {
            return Err(throttled(refusal));
        }
        // In line, so that a crowd asks the store one by one. Whoever has been checked does not stand in it.
        let _turn = self.turns.of(key.as_str()).lock().await;
        let started = Instant::now();
        let mut conflicts = 0;
        loop {
            let next = match read.state.begin(rule, id, self.clock.now()) {
                Ok(next) => next,
                Err(Refusal::Busy) if started.elapsed() <= PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(rand::random_range(1..5))).await;
                    read = self.registers.load(key).await?;
                    continue;
                }
                Err(refusal) => return Err(throttled(refusal)),
            };
            let state = Arc::new(next.clone());
            let change = Change { keep_until: next.keep_until(rule), state: next, events: Vec::new() };
            match self.registers.commit(key, read.revision, change).await? {
                Commit::Committed(revision) => return Ok(Versioned { revision, state }),
                Commit::Conflict(newer) => read = newer,
            }
            conflicts += 1;
            lost(conflicts).await?;
        }
    }

    /// Changes a register, beginning with what was `read` of it.
    async fn change(
        &self,
        key: &ThrottleKey,
        rule: Rule,
        mut read: Versioned<Throttle>,
        next: impl Fn(&Throttle, Timestamp) -> Throttle,
    ) -> Result<(), Error> {
        let mut conflicts = 0;
        loop {
            let state = next(&read.state, self.clock.now());
            let change = Change { keep_until: state.keep_until(rule), state, events: Vec::new() };
            match self.registers.commit(key, read.revision, change).await? {
                Commit::Committed(_) => return Ok(()),
                Commit::Conflict(newer) => read = newer,
            }
            conflicts += 1;
            lost(conflicts).await?;
        }
    }
}

fn throttled(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Busy => Error::Throttled { retry_after: BUSY_RETRY, stopped: false },
        Refusal::Wait(retry_after) => Error::Throttled { retry_after, stopped: false },
        Refusal::Stopped => Error::Throttled { retry_after: STOPPED_RETRY, stopped: true },
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
