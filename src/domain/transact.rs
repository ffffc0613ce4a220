//! Decide on a value, commit, and where somebody was faster decide again on the newer value.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use tokio::sync::{Mutex, MutexGuard};

use super::{
    Engine, Error,
    epoch::Known,
    ports::{Change, Commit, Revision, Versioned},
    sessions::{At, Next, SessionEvent, UserSessions},
    types::{Timestamp, UserId},
};

/// How often a decision is made again before the register counts as overloaded. With the pauses of
/// [`Contention`] that is several seconds.
const MAX_ATTEMPTS: u32 = 200;
/// Who has lost this often waits for its turn. Two who meet are done sooner without.
const QUEUE_AFTER: u32 = 2;
/// Users share so many queues.
const QUEUES: usize = 256;

/// What was decided.
pub(crate) enum Decision<T> {
    /// There is nothing to write.
    Keep(T),
    /// To be committed.
    Write(Next<T>),
}

/// Queues of this process for registers that many compete for.
///
/// Compare-and-set alone decides every race; but a thousand who keep trying at once mostly spoil each
/// other's attempts. In a queue each needs one, and only other processes are left to lose to.
pub struct ContentionQueues {
    queues: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl Default for ContentionQueues {
    fn default() -> Self {
        Self { queues: (0..QUEUES).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl ContentionQueues {
    /// The queue for a register.
    pub(crate) fn of(&self, key: &str) -> &Mutex<()> {
        let hash = self.hasher.hash_one(key);
        &self.queues[usize::try_from(hash % QUEUES as u64).unwrap_or_default()]
    }
}

/// One who competes for a register.
#[derive(Default)]
pub(crate) struct Contention<'a> {
    attempts: u32,
    /// Held until the register was changed.
    turn: Option<MutexGuard<'a, ()>>,
}

impl Engine {
    /// What to decide on after a lost race: `newer`, or after a wait what stands there then.
    pub(crate) async fn lost<'a>(
        &'a self,
        user: &UserId,
        newer: Versioned<UserSessions>,
        contention: &mut Contention<'a>,
    ) -> Result<Versioned<UserSessions>, Error> {
        contention.attempts += 1;
        if contention.attempts >= MAX_ATTEMPTS {
            return Err(Error::Overloaded {
                what: "too many concurrent changes to the sessions of one user",
                retry_after: Duration::from_secs(1),
            });
        }
        if contention.attempts < QUEUE_AFTER {
            return Ok(newer);
        }
        if contention.turn.is_none() {
            contention.turn = Some(self.turns.of(user.as_str()).lock().await);
        } else {
            // Lost to another process: wait a little, at random, and longer each time.
            let ceiling = 500_u64 << contention.attempts.min(7);
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..ceiling))).await;
        }
        Ok(self.sessions.load(user).await?)
    }

    /// The circumstances of a verdict or a transition that takes place now, by what is known of the epoch.
    pub(crate) fn at<'a>(&self, known: &'a Known) -> At<'a> {
        self.at_moment(self.clock.now(), known)
    }

    /// The same for a verdict that was begun at `now`.
    pub(crate) fn at_moment<'a>(&self, now: Timestamp, known: &'a Known) -> At<'a> {
        At { now, tombstone_ttl: self.tombstone_ttl, leeway: self.tokens.leeway(), epoch: &known.epoch }
    }

    /// Commits `next` to the register as it was `read`: the outcome, or what stood there instead.
    pub(crate) async fn commit<T>(
        &self,
        user: &UserId,
        read: &Versioned<UserSessions>,
        next: Next<T>,
    ) -> Result<Result<T, Versioned<UserSessions>>, Error> {
        let Next { state, events, outcome } = next;
        let mut events: Vec<_> = events.into_iter().map(SessionEvent::Ended).collect();
        if state.profile != read.state.profile && read.revision != Revision::ABSENT {
            events.push(SessionEvent::Changed);
        }
        let change = Change { keep_until: state.keep_until(self.clock.now()), state, events };
        Ok(match self.sessions.commit(user, read.revision, change).await? {
            Commit::Committed(_) => Ok(outcome),
            Commit::Conflict(newer) => Err(newer),
        })
    }

    /// Applies `decide` to the user's sessions, beginning with what was `read` of them.
    pub(crate) async fn transact<T>(
        &self,
        user: &UserId,
        mut read: Versioned<UserSessions>,
        decide: impl Fn(&UserSessions, At<'_>) -> Decision<T>,
    ) -> Result<T, Error> {
        let mut contention = Contention::default();
        loop {
            let decision = decide(&read.state, self.at(&*self.epoch.known().await?));
            let next = match decision {
                Decision::Keep(outcome) => return Ok(outcome),
                Decision::Write(next) => next,
            };
            match self.commit(user, &read, next).await? {
                Ok(outcome) => return Ok(outcome),
                Err(newer) => read = self.lost(user, newer, &mut contention).await?,
            }
        }
    }
}
