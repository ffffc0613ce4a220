//! Uses of sessions that are to be recorded, off the way of the answer.
//!
//! A verdict that slides the idle timeout of a session says what the record will be, and leaves the record to
//! [`WriteBehind::run`]. That is right as long as the session cannot lapse meanwhile: until its idle timeout
//! has run out it has a whole touch interval left. A use in that last interval is recorded before it is answered,
//! and so is one that finds the queue full or closed.
//!
//! While the store takes no uses, those that are noted wait, and answers promise no more than what is recorded. A
//! session that times out by the record although a use of it waits is neither live nor dead until that is recorded
//! (`lapses`).
//!
//! What is recorded at once goes to the store together: the embedded store makes one transaction of it, Redis
//! one pipeline. A crash loses the uses of the few milliseconds that were under way.

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

/// How many uses wait, at most.
const MOST: usize = 65_536;
/// How many are recorded at a time.
const AT_A_TIME: usize = 64;
/// After the store did not answer.
const PAUSE: Duration = Duration::from_millis(250);

/// A use of a session.
#[derive(Debug, Clone)]
pub(in crate::domain) struct SessionUse {
    /// Whose.
    pub(in crate::domain) user_id: UserId,
    /// When.
    pub(in crate::domain) at: Timestamp,
    /// What was known of the user's sessions then.
    pub(in crate::domain) read: Versioned<UserSessions>,
}

/// No more can be taken, for now or for good.
pub(in crate::domain) struct QueueFull;

/// The uses that wait to be recorded.
#[derive(Default)]
pub struct WriteBehind {
    queue: Mutex<Queue>,
    changed: Notify,
    /// The store has not taken the latest batch.
    failing: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: HashMap<SessionId, SessionUse>,
    /// Those of the batch that is at work, which are not noted again meanwhile.
    under_way: HashMap<SessionId, SessionUse>,
    closed: bool,
}

impl WriteBehind {
    /// Has a use recorded soon: with the one of the same session that is about to be, where there is one.
    pub(in crate::domain) fn note(
        &self,
        session: SessionId,
        used: impl FnOnce() -> SessionUse,
    ) -> Result<(), QueueFull> {
        let mut queue = self.queue();
        let Queue { waiting, under_way, closed } = &mut *queue;
        if let Some(pending) = under_way.get_mut(&session).or_else(|| waiting.get_mut(&session)) {
            // Where the store does not take it at once, it is the latest use that has to be recorded in the end.
            pending.at = pending.at.max(used().at);
            return Ok(());
        }
        if *closed || waiting.len() >= MOST {
            return Err(QueueFull);
        }
        waiting.insert(session, used());
        drop(queue);
        self.changed.notify_one();
        Ok(())
    }

    /// Whether the store does not take what is to be recorded.
    pub(in crate::domain) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The use of a session that waits to be recorded, if one does.
    pub(in crate::domain) fn pending(&self, session: SessionId) -> Option<SessionUse> {
        let queue = self.queue();
        queue.under_way.get(&session).or_else(|| queue.waiting.get(&session)).cloned()
    }

    /// Takes no more. [`WriteBehind::run`] ends once what waits is recorded.
    pub fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_one();
    }

    /// Whether all that was noted is recorded.
    pub fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.waiting.is_empty() && queue.under_way.is_empty()
    }

    /// What waits, once something does; `None` at the end.
    async fn next(&self) -> Option<Vec<(SessionId, SessionUse)>> {
        loop {
            {
                let mut queue = self.queue();
                if !queue.waiting.is_empty() {
                    queue.under_way = mem::take(&mut queue.waiting);
                    return Some(queue.under_way.iter().map(|(id, used)| (*id, used.clone())).collect());
                }
                if queue.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn done(&self, session: SessionId) {
        self.queue().under_way.remove(&session);
    }

    /// What the store has not taken waits again: whether there is any.
    fn again(&self) -> bool {
        let mut queue = self.queue();
        let left = mem::take(&mut queue.under_way);
        let any = !left.is_empty();
        queue.waiting.extend(left);
        self.failing.store(any, Ordering::Relaxed);
        any
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The background task that records.
impl WriteBehind {
    /// Records the uses that are noted, until [`WriteBehind::close`] and the last of them.
    pub async fn run(&self, sessions: &SessionRepository) {
        // What was at work when this was last ended by a panic.
        self.again();
        while let Some(batch) = self.next().await {
            let recorded = stream::iter(batch).for_each_concurrent(AT_A_TIME, async |(session, used)| {
                let mut recorded = pin!(sessions.record_use(session, used));
                let recorded = panics::caught(recorded.as_mut()).await;
                // One that panics must not hold up the others for ever.
                match recorded.unwrap_or_else(|panic| Err(Error::Internal(panic.to_string()))) {
                    // Health has told of the outage.
                    Err(Error::Store(error)) if error.is_transient() => return,
                    Err(Error::Overloaded { .. }) => return,
                    Err(error) => {
                        static UNRECORDED: LogLimiter =
                            LogLimiter::new("a use of a session cannot be recorded", 5);
                        if UNRECORDED.admits("") {
                            tracing::error!(error.message = %error, "a use of a session cannot be recorded");
                        }
                    }
                    Ok(()) => {}
                }
                self.done(session);
            });
            recorded.await;
            if self.again() {
                tokio::time::sleep(PAUSE).await;
            }
        }
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
    fn what_the_store_does_not_take_at_once_is_recorded_as_of_the_latest_use() {
        let (touches, session) = (WriteBehind::default(), SessionId::random());
        let next = || touches.next().now_or_never().flatten().map(|batch| batch[0].1.at.as_secs());
        assert!(touches.note(session, || used(10)).is_ok());
        assert!(touches.note(session, || used(20)).is_ok());
        assert_eq!(next(), Some(20), "one that waits is as good as the latest");
        assert!(touches.note(session, || used(30)).is_ok());
        assert!(!touches.is_failing());
        assert!(touches.again() && touches.is_failing(), "the store did not answer");
        assert_eq!(touches.pending(session).map(|used| used.at), Some(Timestamp::from_secs(30)));
        assert_eq!(next(), Some(30), "so is one that was under way");
        touches.done(session);
        assert!(!touches.again() && touches.is_idle() && !touches.is_failing());
        touches.close();
        assert!(touches.note(session, || used(40)).is_err());
    }
}
