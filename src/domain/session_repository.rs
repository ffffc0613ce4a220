//! The sessions of users: read, judged by the current epoch, and changed under compare-and-set.
//!
//! A change is decided on what was read and committed against its revision. After a conflict it is decided again on the
//! newer value.

use std::{sync::Arc, time::Duration};

use tokio::sync::MutexGuard;

use super::{
    Error,
    contention::ContentionQueues,
    epoch::{CurrentEpoch, Known},
    metrics::EndedSessions,
    ports::{Change, Clock, Commit, Moment, Registers, Revision, StoreError, Versioned},
    rejection::Reason,
    sessions::{Context, Ended, Epoch, SessionEvent, Transition, UserSessions},
    types::{SessionId, Timestamp, UserId},
    write_behind::SessionUse,
};

/// Attempts before a register counts as overloaded. With the pauses between them that is several seconds.
const MAX_ATTEMPTS: u32 = 200;
/// Conflicts after which an attempt queues behind others of this process. Two competitors are faster without a queue.
const QUEUE_AFTER: u32 = 2;

/// Reads and changes the sessions of users.
pub struct SessionRepository {
    registers: Arc<dyn Registers<UserSessions>>,
    epoch: CurrentEpoch,
    clock: Arc<dyn Clock>,
    queues: ContentionQueues,
    ended: EndedSessions,
    leeway: Duration,
    tombstone_ttl: Duration,
}

/// A decision about the sessions of a user.
#[expect(clippy::large_enum_variant, reason = "a decision is moved to where it is carried out at once")]
pub(super) enum Decision<T> {
    /// Nothing has to be written.
    Keep(T),
    /// Nothing has to be written, and the answer acknowledges what was read, as that to a repeated logout does.
    Acknowledge(T),
    /// The next state is to be committed.
    Write(Transition<T>),
}

/// The result of one attempt to commit.
pub(super) enum Committed<T> {
    /// The state was written.
    Done(T),
    /// The register had changed; it holds this.
    Conflict(Versioned<UserSessions>),
}

impl SessionRepository {
    /// A repository over these registers. `leeway` is that of tokens; `tombstone_ttl` is how long the reason of an ended
    /// session is kept.
    pub fn new(
        registers: Arc<dyn Registers<UserSessions>>,
        epoch: Arc<dyn Registers<Epoch>>,
        clock: Arc<dyn Clock>,
        leeway: Duration,
        tombstone_ttl: Duration,
    ) -> Self {
        let (epoch, queues) = (CurrentEpoch::new(epoch), ContentionQueues::default());
        Self { registers, epoch, clock, queues, ended: EndedSessions::default(), leeway, tombstone_ttl }
    }

    /// The sessions that this server has ended.
    pub fn ended(&self) -> &EndedSessions {
        &self.ended
    }

    /// Reads the sessions of a user.
    pub async fn load(&self, user: &UserId) -> Result<Versioned<UserSessions>, StoreError> {
        self.registers.load(user).await
    }

    pub(super) async fn load_many(
        &self,
        users: &[&UserId],
    ) -> Vec<Result<Versioned<UserSessions>, StoreError>> {
        self.registers.load_many(users).await
    }

    /// The sessions of a user from memory, if those are at most `max_staleness` old.
    pub(super) fn recall(
        &self,
        user: &UserId,
        max_staleness: Duration,
        now: &Moment,
    ) -> Option<Versioned<UserSessions>> {
        self.registers.recall(user, max_staleness, now)
    }

    pub(super) fn epoch(&self) -> &CurrentEpoch {
        &self.epoch
    }

    /// The circumstances of a verdict or a transition that takes place now.
    pub(super) fn at<'a>(&self, epoch: &'a Known) -> Context<'a> {
        self.at_moment(self.clock.now(), epoch)
    }

    /// The circumstances of a verdict that began at `now`.
    pub(super) fn at_moment<'a>(&self, now: Timestamp, epoch: &'a Known) -> Context<'a> {
        Context { now, tombstone_ttl: self.tombstone_ttl, leeway: self.leeway, epoch: &epoch.epoch }
    }

    /// Commits `next` against the revision of `read`.
    pub(super) async fn commit<T>(
        &self,
        user: &UserId,
        read: &Versioned<UserSessions>,
        next: Transition<T>,
    ) -> Result<Committed<T>, Error> {
        let reasons = reasons(&next.events);
        let (change, outcome) = self.change(read, next);
        Ok(match self.registers.commit(user, read.revision, change).await? {
            Commit::Committed(_) => {
                self.ended.count(&reasons);
                Committed::Done(outcome)
            }
            Commit::Conflict(newer) => Committed::Conflict(newer),
        })
    }

    fn change<T>(&self, read: &Versioned<UserSessions>, next: Transition<T>) -> (Change<UserSessions>, T) {
        let Transition { state, events, outcome } = next;
        let mut events: Vec<_> = events.into_iter().map(SessionEvent::Ended).collect();
        if state.profile != read.state.profile && read.revision != Revision::ABSENT {
            events.push(SessionEvent::Changed);
        }
        (Change { keep_until: state.keep_until(self.clock.now()), state, events }, outcome)
    }

    /// The value to decide on after a conflict: `newer`, or what the register holds after a wait.
    pub(super) async fn after_conflict<'a>(
        &'a self,
        user: &UserId,
        newer: Versioned<UserSessions>,
        contention: &mut Contention<'a>,
    ) -> Result<Versioned<UserSessions>, Error> {
        contention.conflicts += 1;
        if contention.conflicts >= MAX_ATTEMPTS {
            return Err(Error::Overloaded {
                what: "too many concurrent changes to the sessions of one user",
                retry_after: Duration::from_secs(1),
            });
        }
        if contention.conflicts < QUEUE_AFTER {
            return Ok(newer);
        }
        if contention.turn.is_none() {
            contention.turn = Some(self.queues.of(user.as_str()).lock().await);
        } else {
            // The winner was another process: back off, with jitter.
            let ceiling = 500_u64 << contention.conflicts.min(7);
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..ceiling))).await;
        }
        Ok(self.load(user).await?)
    }

    /// Applies `decide` to the sessions of a user until it is committed, beginning with `read`.
    pub(super) async fn transact<T>(
        &self,
        user: &UserId,
        mut read: Versioned<UserSessions>,
        decide: impl Fn(&UserSessions, Context<'_>) -> Decision<T>,
    ) -> Result<T, Error> {
        let mut contention = Contention::default();
        loop {
            let decision = decide(&read.state, self.at(&*self.epoch.known().await?));
            let next = match decision {
                Decision::Keep(outcome) => return Ok(outcome),
                Decision::Acknowledge(outcome) => {
                    self.confirm(user).await?;
                    return Ok(outcome);
                }
                Decision::Write(next) => next,
            };
            match self.commit(user, &read, next).await? {
                Committed::Done(outcome) => return Ok(outcome),
                Committed::Conflict(newer) => {
                    read = self.after_conflict(user, newer, &mut contention).await?;
                }
            }
        }
    }

    /// Waits until what was read of a user is as durable as an acknowledged commit.
    pub(super) async fn confirm(&self, user: &UserId) -> Result<(), StoreError> {
        self.registers.confirm(user).await
    }

    /// Records a use of a session, at most once in a touch interval over all servers.
    pub(super) async fn record_use(&self, session: SessionId, used: SessionUse) -> Result<(), Error> {
        let SessionUse { user_id, at: used_at, read } = used;
        self.transact(&user_id, read, |state, at| {
            state.touch(session, used_at, at).map_or(Decision::Keep(()), Decision::Write)
        })
        .await
    }

    /// Records many uses, which go to the store together. The results are in their order.
    pub(super) async fn record_uses(&self, uses: &[(SessionId, SessionUse)]) -> Vec<Result<(), Error>> {
        let (written, commits): (Vec<_>, Vec<_>) = {
            let epoch = match self.epoch.known().await {
                Ok(epoch) => epoch,
                Err(error) => return uses.iter().map(|_| Err(error.clone().into())).collect(),
            };
            let at = self.at(&epoch);
            let touched = uses.iter().enumerate().filter_map(|(index, (session, used))| {
                let next = used.read.state.touch(*session, used.at, at)?;
                let reasons = reasons(&next.events);
                let (change, ()) = self.change(&used.read, next);
                Some(((index, reasons), (&used.user_id, used.read.revision, change)))
            });
            touched.unzip()
        };
        let mut results: Vec<_> = uses.iter().map(|_| Ok(())).collect();
        let committed = self.registers.commit_many(commits).await;
        for ((index, reasons), committed) in written.into_iter().zip(committed) {
            results[index] = match committed {
                Ok(Commit::Committed(_)) => {
                    self.ended.count(&reasons);
                    Ok(())
                }
                Ok(Commit::Conflict(newer)) => {
                    let (session, stale) = &uses[index];
                    self.record_use(*session, SessionUse { read: newer, ..stale.clone() }).await
                }
                Err(error) => Err(error.into()),
            };
        }
        results
    }
}

/// The reasons for which sessions end in a transition.
fn reasons(events: &[Ended]) -> Vec<Reason> {
    events.iter().map(|ended| ended.rejection.reason).collect()
}

/// The history of one change that competes for a register.
#[derive(Default)]
pub(super) struct Contention<'a> {
    conflicts: u32,
    /// Held until the register was changed.
    turn: Option<MutexGuard<'a, ()>>,
}
