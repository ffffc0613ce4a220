//! Decide on a value, commit, and where somebody was faster decide again on the newer value.

use std::time::Duration;

use super::{
    Engine, Error,
    ports::{Change, Commit, Versioned},
    sessions::{At, Next, UserSessions},
    types::UserId,
};

/// How often a decision is made again before the register counts as overloaded. With the pauses of
/// [`Contention`] that is several seconds.
const MAX_ATTEMPTS: u32 = 200;

/// What was decided.
pub(crate) enum Decision<T> {
    /// There is nothing to write.
    Keep(T),
    /// To be committed.
    Write(Next<T>),
}

/// Spreads those who compete for one register.
#[derive(Default)]
pub(crate) struct Contention {
    attempts: u32,
}

impl Contention {
    /// Waits a little, at random, and longer each time.
    pub(crate) async fn lost(&mut self) -> Result<(), Error> {
        self.attempts += 1;
        if self.attempts >= MAX_ATTEMPTS {
            return Err(Error::Overloaded {
                what: "too many concurrent changes to the sessions of one user",
                retry_after: Duration::from_secs(1),
            });
        }
        // The first losers go again at once: with two of them a pause only costs.
        if self.attempts > 2 {
            let ceiling = 500_u64 << self.attempts.min(7);
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..ceiling))).await;
        }
        Ok(())
    }
}

impl Engine {
    /// The circumstances of a transition that takes place now.
    pub(crate) fn at(&self) -> At {
        At { now: self.clock.now(), tombstone_ttl: self.tombstone_ttl }
    }

    /// Commits `next` to the register as it was `read`: the outcome, or what stood there instead.
    pub(crate) async fn commit<T>(
        &self,
        user: &UserId,
        read: &Versioned<UserSessions>,
        next: Next<T>,
        at: At,
    ) -> Result<Result<T, Versioned<UserSessions>>, Error> {
        let Next { state, events, outcome } = next;
        let change = Change { keep_until: state.keep_until(at.now), state, events };
        Ok(match self.sessions.commit(user, read.revision, change).await? {
            Commit::Committed => Ok(outcome),
            Commit::Conflict(newer) => Err(newer),
        })
    }

    /// Applies `decide` to the user's sessions, beginning with what was `read` of them.
    pub(crate) async fn transact<T>(
        &self,
        user: &UserId,
        mut read: Versioned<UserSessions>,
        decide: impl Fn(&UserSessions, At) -> Decision<T>,
    ) -> Result<T, Error> {
        let mut contention = Contention::default();
        loop {
            let at = self.at();
            let next = match decide(&read.state, at) {
                Decision::Keep(outcome) => return Ok(outcome),
                Decision::Write(next) => next,
            };
            match self.commit(user, &read, next, at).await? {
                Ok(outcome) => return Ok(outcome),
                Err(newer) => read = newer,
            }
            contention.lost().await?;
        }
    }
}
