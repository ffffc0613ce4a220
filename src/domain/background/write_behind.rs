//! Write-behind of uses: sessions are used now and their use is recorded after the answer.
//!
//! A verdict that slides the idle timeout reports what the record will say and leaves the record to
//! [`WriteBehind::run`]. That is safe as long as the session cannot lapse meanwhile: until its idle timeout has run out
//! it has a whole touch interval left. A use in that last interval is recorded before the answer, and so is a use that
//! finds the queue full or closed.
//!
//! While the store is unavailable, uses stay in the queue and verdicts promise no more than what is recorded. A session
//! that times out by the record although a use of it is queued is neither live nor dead until the use is recorded
//! (`lapses`): the answer is UNAVAILABLE. Queued uses are written at shutdown.
//!
//! A batch goes to the store together: the embedded store makes one transaction of it, Redis few scripts. A crash
//! loses the uses of the last few milliseconds; a session that is not used again can then time out early, by the time
//! since the use before.

use std::{
    collections::HashMap,
    mem,
    pin::pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use futures_util::{StreamExt as _, stream};
use tokio::sync::Notify;

use crate::domain::{
    Error,
    ports::Versioned,
    session_repository::SessionRepository,
    sessions::UserSessions,
    types::{SessionId, Timestamp, UserId},
};
use crate::isolation::{log_limiter::LogLimiter, panics};

/// The size of the queue.
const MAX_QUEUED: usize = 65_536;
/// How long uses are gathered after a quiet time, because a batch costs as much as many uses.
const GATHER: Duration = Duration::from_millis(5);
/// The most uses that go to the store together.
const MAX_BATCH: usize = 512;
/// Uses that are recorded at the same time one by one.
const CONCURRENCY: usize = 64;
/// The pause after the store did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// A use of a session.
#[derive(Debug, Clone)]
pub(in crate::domain) struct SessionUse {
    pub(in crate::domain) user_id: UserId,
    pub(in crate::domain) at: Timestamp,
    /// The user's sessions as they were read for the verdict.
    pub(in crate::domain) read: Versioned<UserSessions>,
}

/// The queue is full or closed.
pub(in crate::domain) struct QueueFull;

/// A queue of uses that are recorded in the background.
#[derive(Default)]
pub struct WriteBehind {
    queue: Mutex<Queue>,
    changed: Notify,
    /// The store did not record all uses of the latest batch.
    failing: AtomicBool,
}

#[derive(Default)]
struct Queue {
    /// Latchkey chooses the ids of sessions, so nobody can choose some that collide.
    waiting: HashMap<SessionId, SessionUse, RandomState>,
    /// The batch that is being recorded.
    batch: HashMap<SessionId, SessionUse, RandomState>,
    closed: bool,
}

impl WriteBehind {
    /// Queues a use, or updates the queued use of the same session.
    pub(in crate::domain) fn enqueue(
        &self,
        session: SessionId,
        used: impl FnOnce() -> SessionUse,
    ) -> Result<(), QueueFull> {
        let mut queue = self.queue();
        let Queue { waiting, batch, closed } = &mut *queue;
        if let Some(pending) = batch.get_mut(&session).or_else(|| waiting.get_mut(&session)) {
            // If the batch fails, the latest use is recorded with the next one.
            pending.at = pending.at.max(used().at);
            return Ok(());
        }
        if *closed || waiting.len() >= MAX_QUEUED {
            return Err(QueueFull);
        }
        waiting.insert(session, used());
        drop(queue);
        self.changed.notify_one();
        Ok(())
    }

    /// Whether the store failed to record uses of the latest batch.
    pub(in crate::domain) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The queued use of a session.
    pub(in crate::domain) fn pending(&self, session: SessionId) -> Option<SessionUse> {
        let queue = self.queue();
        queue.batch.get(&session).or_else(|| queue.waiting.get(&session)).cloned()
    }

    /// Closes the queue. [`WriteBehind::run`] returns once all queued uses are recorded.
    pub fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_one();
    }

    /// Whether all uses are recorded.
    pub fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.waiting.is_empty() && queue.batch.is_empty()
    }

    /// Waits for the next batch. Returns `None` once the queue is closed and empty.
    async fn next_batch(&self) -> Option<Vec<(SessionId, SessionUse)>> {
        loop {
            {
                let mut queue = self.queue();
                if !queue.waiting.is_empty() {
                    queue.batch = mem::take(&mut queue.waiting);
                    return Some(queue.batch.iter().map(|(id, used)| (*id, used.clone())).collect());
                }
                if queue.closed {
                    return None;
                }
            }
            self.changed.notified().await;
            // Uses that arrive together are written together.
            tokio::time::sleep(GATHER).await;
        }
    }

    fn done(&self, session: SessionId) {
        self.queue().batch.remove(&session);
    }

    /// Queues the uses of the batch that were not recorded. Returns whether there are any.
    fn requeue(&self) -> bool {
        let mut queue = self.queue();
        let unrecorded = mem::take(&mut queue.batch);
        let failing = !unrecorded.is_empty();
        queue.waiting.extend(unrecorded);
        self.failing.store(failing, Ordering::Relaxed);
        failing
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The background task.
impl WriteBehind {
    /// Records queued uses. Returns after [`WriteBehind::close`], once all are recorded.
    pub async fn run(&self, sessions: &SessionRepository) {
        // A batch may be left from before a panic.
        self.requeue();
        while let Some(batch) = self.next_batch().await {
            for uses in batch.chunks(MAX_BATCH) {
                self.record(sessions, uses).await;
            }
            if self.requeue() {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

impl WriteBehind {
    async fn record(&self, sessions: &SessionRepository, uses: &[(SessionId, SessionUse)]) {
        let mut recorded = pin!(sessions.record_uses(uses));
        if let Ok(recorded) = panics::caught(recorded.as_mut()).await {
            uses.iter().zip(recorded).for_each(|((session, _), recorded)| self.recorded(*session, recorded));
            return;
        }
        // A use that panics must not block the others forever.
        let one_by_one = stream::iter(uses).for_each_concurrent(CONCURRENCY, async |(session, used)| {
            let mut recorded = pin!(sessions.record_use(*session, used.clone()));
            let recorded = panics::caught(recorded.as_mut()).await;
            self.recorded(*session, recorded.unwrap_or_else(|panic| Err(Error::Internal(panic.to_string()))));
        });
        one_by_one.await;
    }

    /// Removes a use from the batch, unless it has to be tried again.
    fn recorded(&self, session: SessionId, recorded: Result<(), Error>) {
        match recorded {
            // Health logs outages.
            Err(Error::Store(error)) if error.is_transient() => return,
            Err(Error::Overloaded { .. }) => return,
            Err(error) => {
                static UNRECORDED: LogLimiter = LogLimiter::new("failed to record a use of a session", 5);
                if UNRECORDED.admits("") {
                    tracing::error!(error.message = %error, "failed to record a use of a session");
                }
            }
            Ok(()) => {}
        }
        self.done(session);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::domain::ports::Revision;

    fn used(secs: u64) -> SessionUse {
        let read = Versioned { revision: Revision::ABSENT, state: Arc::default() };
        SessionUse { user_id: UserId::random(), at: Timestamp::from_secs(secs), read }
    }

    #[test]
    fn a_use_that_could_not_be_recorded_is_recorded_as_of_the_latest_use() {
        let (uses, session) = (WriteBehind::default(), SessionId::random());
        let next = || uses.next_batch().now_or_never().flatten().map(|batch| batch[0].1.at.as_secs());
        assert!(uses.enqueue(session, || used(10)).is_ok());
        assert!(uses.enqueue(session, || used(20)).is_ok());
        assert_eq!(next(), Some(20), "a queued use is updated");
        assert!(uses.enqueue(session, || used(30)).is_ok());
        assert!(!uses.is_failing());
        assert!(uses.requeue() && uses.is_failing(), "the store did not answer");
        assert_eq!(uses.pending(session).map(|used| used.at), Some(Timestamp::from_secs(30)));
        assert_eq!(next(), Some(30), "a use in the batch is updated, too");
        uses.done(session);
        assert!(!uses.requeue() && uses.is_idle() && !uses.is_failing());
        uses.close();
        assert!(uses.enqueue(session, || used(40)).is_err());
    }
}
