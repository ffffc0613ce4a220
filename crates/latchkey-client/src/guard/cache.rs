//! The cache of live sessions, which the revocation feed invalidates.
//!
//! A verdict can arrive after the news that its session has ended: the validation is sent and decided, the session
//! ends, the feed reports the end, and only then does the old verdict arrive. Caching it would keep the session live,
//! because the feed reports an end only once. So each validation takes a [`ReadToken`] before it is sent. Its verdict
//! is not cached if the feed has reported the end of the session since then, or was interrupted.
//!
//! Only live sessions are cached, never rejections or outages. Time is a parameter.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest as _, Sha256};

use crate::Identity;

/// The feed counts as interrupted when it has sent nothing for this long. It sends a heartbeat about every five
/// seconds.
pub(super) const FEED_TIMEOUT: Duration = Duration::from_secs(12);
/// The maximum number of cached tokens.
const CAPACITY: usize = 65_536;
/// The maximum number of ended sessions that are remembered. Verdicts of validations that were sent before the oldest
/// of them are not cached.
const MAX_ENDED: usize = 4096;

/// A SHA-256 hash of a token. The cache does not hold the tokens themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// The version of the cache before a validation was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadToken(u64);

/// The verdict that a session is live, with its circumstances.
#[derive(Debug, Clone)]
pub(super) struct LiveVerdict {
    pub(super) identity: Identity,
    /// The moment at which the validation was sent.
    pub(super) sent: Instant,
    /// The wall-clock time at `sent`, for the deadlines of the session.
    pub(super) sent_at: SystemTime,
    /// Whether the validation counted as a use of the session.
    pub(super) is_use: bool,
}

/// The cache.
pub(super) struct Cache {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Default)]
struct State {
    entries: HashMap<TokenDigest, Entry>,
    /// The cached tokens of each session.
    sessions: HashMap<Arc<str>, Vec<TokenDigest>>,
    /// The tokens in the order of insertion, with the version of the insertion.
    order: VecDeque<(TokenDigest, u64)>,
    /// Grows with every insertion and every event of the feed.
    version: u64,
    /// The sessions that have ended, with the version of the event.
    ended: HashMap<Arc<str>, u64>,
    ended_order: VecDeque<(Arc<str>, u64)>,
    /// Read tokens below this version are void.
    min_read: u64,
    /// The time of the latest message of the feed, or `None` while the feed is interrupted.
    feed_received: Option<Instant>,
}

struct Entry {
    identity: Identity,
    sent: Instant,
    expires: Instant,
    is_use: bool,
    version: u64,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), capacity: CAPACITY }
    }

    /// Returns a token to take before a validation is sent, or `None` while nothing may be cached.
    pub(super) fn begin_read(&self, now: Instant) -> Option<ReadToken> {
        let state = self.lock();
        state.is_current(now).then_some(ReadToken(state.version))
    }

    /// Inserts a verdict, unless its session has ended since the read token was taken.
    pub(super) fn insert(&self, read: ReadToken, digest: TokenDigest, verdict: LiveVerdict) {
        let mut state = self.lock();
        let session = Arc::clone(&verdict.identity.session_id);
        let has_ended = state.ended.get(&session).is_some_and(|version| *version > read.0);
        let is_newer = |held: &Entry| held.sent > verdict.sent && held.is_use >= verdict.is_use;
        if read.0 < state.min_read || has_ended || state.entries.get(&digest).is_some_and(is_newer) {
            return;
        }
        let Some(expires) = expiry(&verdict) else { return };
        state.version += 1;
        let version = state.version;
        let LiveVerdict { identity, sent, is_use, .. } = verdict;
        if state.entries.insert(digest, Entry { identity, sent, expires, is_use, version }).is_none() {
            state.sessions.entry(session).or_default().push(digest);
        }
        state.order.push_back((digest, version));
        while state.entries.len() > self.capacity || state.order.len() > 2 * self.capacity {
            state.evict_oldest();
        }
    }

    /// Returns the identity of a cached token if the verdict is not older than `max_staleness`. Unless `peek` is set,
    /// the verdict must be one that counted as a use.
    pub(super) fn get(
        &self,
        digest: &TokenDigest,
        peek: bool,
        max_staleness: Duration,
        now: Instant,
    ) -> Option<Identity> {
        let state = self.lock();
        let entry = state.entries.get(digest).filter(|_| state.is_current(now))?;
        let age = now.saturating_duration_since(entry.sent);
        let is_usable = age <= max_staleness && now < entry.expires && (peek || entry.is_use);
        is_usable.then(|| entry.identity.clone())
    }

    /// Removes a session that has ended.
    pub(super) fn session_ended(&self, session_id: &str) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let session: Arc<str> = session_id.into();
        for digest in state.sessions.remove(&session).into_iter().flatten() {
            state.entries.remove(&digest);
        }
        state.ended.insert(Arc::clone(&session), version);
        state.ended_order.push_back((session, version));
        if state.ended_order.len() > MAX_ENDED
            && let Some((oldest, version)) = state.ended_order.pop_front()
        {
            if state.ended.get(&oldest) == Some(&version) {
                state.ended.remove(&oldest);
            }
            state.min_read = state.min_read.max(version);
        }
    }

    /// Records that the feed has sent a message and is up to date.
    pub(super) fn feed_received(&self, now: Instant) {
        self.lock().feed_received = Some(now);
    }

    /// Removes everything and voids all read tokens, because events were or may have been missed. Nothing is cached
    /// until [`feed_received`](Self::feed_received).
    pub(super) fn invalidate_all(&self) {
        let mut state = self.lock();
        let version = state.version + 1;
        *state = State { version, min_read: version, ..State::default() };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_current(&self, now: Instant) -> bool {
        self.feed_received.is_some_and(|received| now.saturating_duration_since(received) <= FEED_TIMEOUT)
    }

    fn evict_oldest(&mut self) {
        let Some((digest, version)) = self.order.pop_front() else { return };
        if self.entries.get(&digest).is_none_or(|entry| entry.version != version) {
            return;
        }
        let Some(entry) = self.entries.remove(&digest) else { return };
        let session = &entry.identity.session_id;
        if let Some(tokens) = self.sessions.get_mut(session) {
            tokens.retain(|token| *token != digest);
            if tokens.is_empty() {
                self.sessions.remove(session);
            }
        }
    }
}

/// Returns when a verdict expires: after one touch interval, so that the session is touched often enough, and at the
/// deadlines of the session at the latest. Returns `None` if it has expired already.
///
/// The touch interval is a twentieth of the idle timeout, at most one minute. The idle timeout is not known here. What
/// remains of it is never more, so the result is never too long.
fn expiry(verdict: &LiveVerdict) -> Option<Instant> {
    let Identity { idle_expires_at, expires_at, .. } = verdict.identity;
    let remaining = |deadline: SystemTime| deadline.duration_since(verdict.sent_at).unwrap_or_default();
    let touch_interval = (remaining(idle_expires_at) / 20).min(Duration::from_mins(1));
    let lifetime = touch_interval.min(remaining(expires_at));
    (!lifetime.is_zero()).then(|| verdict.sent + lifetime)
}

#[cfg(test)]
mod tests;
