//! Limits of watches by session and by user.

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

const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The limits of open watches and feeds.
#[derive(Debug, Clone, Copy)]
pub struct WatchLimits {
    /// All watches and feeds.
    pub streams: usize,
    /// Watches of one session.
    pub per_session: usize,
    /// Watches of the sessions of one user.
    pub per_user: usize,
}

/// The open watches, counted by session and by user.
#[derive(Debug)]
pub(super) struct WatchCounts {
    limits: WatchLimits,
    open: Mutex<OpenWatches>,
}

#[derive(Debug, Default)]
struct OpenWatches {
    sessions: HashMap<SessionId, usize>,
    users: HashMap<UserId, usize>,
}

/// An open watch, counted until this is dropped.
#[derive(Debug)]
pub(in crate::domain) struct WatchPermit {
    counts: Arc<WatchCounts>,
    session_id: SessionId,
    user_id: UserId,
}

impl WatchCounts {
    pub(super) fn new(limits: WatchLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    pub(super) fn reserve(self: &Arc<Self>, claims: &Claims) -> Result<WatchPermit, Error> {
        let overloaded = |what| Err(Error::Overloaded { what, retry_after: RETRY_AFTER });
        let mut open = self.open();
        if open.sessions.get(&claims.session_id).is_some_and(|count| *count >= self.limits.per_session) {
            return overloaded("too many open streams of this session");
        }
        if open.users.get(&claims.user_id).is_some_and(|count| *count >= self.limits.per_user) {
            return overloaded("too many open streams of this user");
        }
        *open.sessions.entry(claims.session_id).or_default() += 1;
        *open.users.entry(claims.user_id.clone()).or_default() += 1;
        drop(open);
        let (session_id, user_id) = (claims.session_id, claims.user_id.clone());
        Ok(WatchPermit { counts: Arc::clone(self), session_id, user_id })
    }

    fn open(&self) -> MutexGuard<'_, OpenWatches> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        let mut open = self.counts.open();
        decrement(&mut open.sessions, &self.session_id);
        decrement(&mut open.users, &self.user_id);
    }
}

fn decrement<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
