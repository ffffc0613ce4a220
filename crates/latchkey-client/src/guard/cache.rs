//! What a guard remembers, and when it may be believed.
//!
//! The danger is an answer that is overtaken: the question is sent and judged, the session ends, the feed tells of it,
//! and only then does the old yes come and is remembered, for nobody will ever tell again. So a question takes a
//! ticket before it is sent, and its answer is not remembered if its session has been told to have ended since, or if
//! the feed was lost sight of.
//!
//! A yes is remembered and nothing else: no outage, and no rejection. Time is a parameter.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest as _, Sha256};

use crate::Identity;

/// The feed has a heartbeat in five seconds. What has been silent for longer than this is no feed any more.
pub(super) const SILENCE: Duration = Duration::from_secs(12);
/// Sessions that are remembered, at most.
const MOST: usize = 65_536;
/// Sessions that are remembered to have ended, at most. A question that was sent before the oldest of them is not
/// remembered.
const ENDED: usize = 4096;

/// Stands for a token, which is not kept: a hash of the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// Taken before a question is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadToken(u64);

/// A yes, and how it came about.
#[derive(Debug, Clone)]
pub(super) struct CachedVerdict {
    /// Who it is.
    pub(super) identity: Identity,
    /// When the question was sent.
    pub(super) asked: Instant,
    /// The same, by the clock on the wall.
    pub(super) asked_at: SystemTime,
    /// Whether it counted as a use of the session.
    pub(super) used: bool,
}

/// Everything that is remembered.
pub(super) struct Cache {
    state: Mutex<State>,
    most: usize,
}

#[derive(Default)]
struct State {
    entries: HashMap<TokenDigest, Entry>,
    /// The tokens of a session that are remembered.
    sessions: HashMap<Arc<str>, Vec<TokenDigest>>,
    /// In the order in which they were remembered.
    order: VecDeque<(TokenDigest, u64)>,
    /// How many things have happened that count.
    happened: u64,
    /// The sessions that were told to have ended, and when that happened.
    ended: HashMap<Arc<str>, u64>,
    ended_order: VecDeque<(Arc<str>, u64)>,
    /// Tickets that were taken before this are void.
    since: u64,
    /// When the feed was last heard; None where there is none.
    heard: Option<Instant>,
}

struct Entry {
    identity: Identity,
    asked: Instant,
    until: Instant,
    used: bool,
    number: u64,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), most: MOST }
    }

    /// To be taken before a question is sent. None where nothing may be remembered.
    pub(super) fn begin(&self, now: Instant) -> Option<ReadToken> {
        let state = self.lock();
        state.is_heard(now).then_some(ReadToken(state.happened))
    }

    /// Remembers an answer, unless its session was told to have ended since its ticket was taken.
    pub(super) fn keep(&self, ticket: ReadToken, digest: TokenDigest, yes: CachedVerdict) {
        let mut state = self.lock();
        let session = Arc::clone(&yes.identity.session_id);
        let overtaken = state.ended.get(&session).is_some_and(|happened| *happened > ticket.0);
        let older = |held: &Entry| held.asked > yes.asked && held.used >= yes.used;
        if ticket.0 < state.since || overtaken || state.entries.get(&digest).is_some_and(older) {
            return;
        }
        let Some(until) = bound(&yes) else { return };
        state.happened += 1;
        let number = state.happened;
        let CachedVerdict { identity, asked, used, .. } = yes;
        if state.entries.insert(digest, Entry { identity, asked, until, used, number }).is_none() {
            state.sessions.entry(session).or_default().push(digest);
        }
        state.order.push_back((digest, number));
        while state.entries.len() > self.most || state.order.len() > 2 * self.most {
            state.forget_oldest();
        }
    }

    /// Who it is, where that may be told without asking: not older than `max_staleness`, and where it has to count as
    /// a use, only if Latchkey has seen one.
    pub(super) fn get(
        &self,
        digest: &TokenDigest,
        peek: bool,
        max_staleness: Duration,
        now: Instant,
    ) -> Option<Identity> {
        let state = self.lock();
        let entry = state.entries.get(digest).filter(|_| state.is_heard(now))?;
        let age = now.saturating_duration_since(entry.asked);
        let may = age <= max_staleness && now < entry.until && (peek || entry.used);
        may.then(|| entry.identity.clone())
    }

    /// The feed tells that this session has ended.
    pub(super) fn ended(&self, session_id: &str) {
        let mut state = self.lock();
        state.happened += 1;
        let happened = state.happened;
        let session: Arc<str> = session_id.into();
        for digest in state.sessions.remove(&session).into_iter().flatten() {
            state.entries.remove(&digest);
        }
        state.ended.insert(Arc::clone(&session), happened);
        state.ended_order.push_back((session, happened));
        if state.ended_order.len() > ENDED
            && let Some((oldest, at)) = state.ended_order.pop_front()
        {
            if state.ended.get(&oldest) == Some(&at) {
                state.ended.remove(&oldest);
            }
            state.since = state.since.max(at);
        }
    }

    /// The feed was heard: what had ended by the time that this was sent has been told.
    pub(super) fn heard(&self, now: Instant) {
        self.lock().heard = Some(now);
    }

    /// Anything may have ended without being told: nothing is remembered, nor is what is asked now, until the feed is
    /// heard again.
    pub(super) fn lose_sight(&self) {
        let mut state = self.lock();
        let happened = state.happened + 1;
        *state = State { happened, since: happened, ..State::default() };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_heard(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) <= SILENCE)
    }

    fn forget_oldest(&mut self) {
        let Some((digest, number)) = self.order.pop_front() else { return };
        if self.entries.get(&digest).is_none_or(|entry| entry.number != number) {
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

/// Until when a yes may be told: not beyond the deadlines of the session, and not for longer than a touch interval.
///
/// The touch interval is a twentieth of the idle timeout, one minute at the most. What is left of the idle timeout is
/// at most all of it, so that this is never too long.
fn bound(yes: &CachedVerdict) -> Option<Instant> {
    let Identity { idle_expires_at, expires_at, .. } = yes.identity;
    let left = |deadline: SystemTime| deadline.duration_since(yes.asked_at).unwrap_or_default();
    let idle = left(idle_expires_at);
    let touch_interval = (idle / 20).min(Duration::from_mins(1));
    let lasts = touch_interval.min(left(expires_at));
    (!lasts.is_zero()).then(|| yes.asked + lasts)
}

#[cfg(test)]
mod tests;
