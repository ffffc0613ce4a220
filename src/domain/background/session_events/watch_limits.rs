//! How many watch one session, and the sessions of one user.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::domain::{
    Error,
    types::{Claims, SessionId, UserId},
};

/// When to try again.
const RETRY: Duration = Duration::from_secs(5);

/// How many streams may tell of the ends of sessions at a time.
#[derive(Debug, Clone, Copy)]
pub struct WatchLimits {
    /// All together, with the readers of the feed.
    pub streams: usize,
    /// Those that watch one session.
    pub of_session: usize,
    /// Those that watch sessions of one user.
    pub of_user: usize,
}

/// Counts those who watch.
#[derive(Debug)]
pub(super) struct WatchCounts {
    limits: WatchLimits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    sessions: HashMap<SessionId, usize>,
    users: HashMap<UserId, usize>,
}

/// A place of one who watches, given up when it is dropped.
#[derive(Debug)]
pub(in crate::domain) struct WatchPermit {
    places: Arc<WatchCounts>,
    session_id: SessionId,
    user_id: UserId,
}

impl WatchCounts {
    pub(super) fn new(limits: WatchLimits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    pub(super) fn take(self: &Arc<Self>, claims: &Claims) -> Result<WatchPermit, Error> {
        let mut taken = self.taken();
        if taken.sessions.get(&claims.session_id).is_some_and(|count| *count >= self.limits.of_session) {
            return Err(Error::Overloaded {
                what: "too many open streams of this session",
                retry_after: RETRY,
            });
        }
        if taken.users.get(&claims.user_id).is_some_and(|count| *count >= self.limits.of_user) {
            return Err(Error::Overloaded { what: "too many open streams of this user", retry_after: RETRY });
        }
        *taken.sessions.entry(claims.session_id).or_default() += 1;
        *taken.users.entry(claims.user_id.clone()).or_default() += 1;
        drop(taken);
        let (session_id, user_id) = (claims.session_id, claims.user_id.clone());
        Ok(WatchPermit { places: Arc::clone(self), session_id, user_id })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        give_back(&mut taken.sessions, &self.session_id);
        give_back(&mut taken.users, &self.user_id);
    }
}

fn give_back<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
