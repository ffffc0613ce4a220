//! What the near-cache holds, and when it may be believed.
//!
//! The danger is a read that is overtaken: it is sent, the value changes, the change is told, and only then does
//! the old answer come and is remembered, for nobody will ever tell again. So a read takes a ticket before it is
//! sent, and its answer is not remembered if anything in its part of the cache has been forgotten since. Taking
//! a ticket, forgetting and remembering are each done under one lock a part.
//!
//! What is remembered may be believed as of the moment at which the log was last seen: whatever had changed by
//! then has been told, and was forgotten. What nobody tells of is a register that is gone without a commit: evicted,
//! deleted by hand, lost with a part of the store. So an entry is also believed only for [`MAX_AGE`] after it was read,
//! and a read that finds the register gone forgets it.

use std::{
    hash::BuildHasher as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::domain::{
    ports::{Revision, Versioned},
    sessions::UserSessions,
    types::{Role, UserId},
};

/// How long after it was read an entry may be believed where others write to the store, too.
pub(super) const MAX_AGE: Duration = super::STALENESS_BOUND;

/// So many parts have locks of their own.
const PARTS: usize = 256;
/// What an entry costs besides what its state holds, in bytes: the key, the counts of references, the place in
/// the cache.
const OVERHEAD: u64 = 88;
/// A text of at most so many bytes is kept where it stands.
const INLINE: usize = 23;
/// What counting the references to a longer one takes, in bytes.
const COUNTS: usize = 16;

/// Everything that is remembered.
pub(super) struct Entries {
    /// The keys are from tokens of ours, so that nobody can choose such that meet.
    cache: Cache<UserId, Entry, Bytes, RandomState>,
    /// How often something has been forgotten in each part.
    parts: Box<[Mutex<u64>]>,
    hasher: RandomState,
    /// Until when the log was seen, in microseconds since `begin`; 0 where it is not.
    seen: AtomicU64,
    begin: Instant,
}

/// What was read, and when.
#[derive(Clone)]
struct Entry {
    read: Versioned<UserSessions>,
    /// Of its ticket, in microseconds since `begin`.
    as_of: u64,
}

/// Taken before a read is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadToken {
    forgotten: u64,
    as_of: u64,
}

impl Entries {
    /// At most about so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let expected = usize::try_from(bytes / 400).unwrap_or(usize::MAX);
        Self {
            cache: Cache::with(expected, bytes, Bytes, RandomState::default(), DefaultLifecycle::default()),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            seen: AtomicU64::new(0),
            begin: Instant::now(),
        }
    }

    /// How many entries there are, and about how many bytes they take.
    pub(super) fn held(&self) -> (usize, u64) {
        (self.cache.len(), self.cache.weight())
    }

    /// What is remembered.
    pub(super) fn get(&self, key: &UserId) -> Option<Versioned<UserSessions>> {
        self.cache.get(key).map(|entry| entry.read)
    }

    /// What is remembered, if that is true of a moment at most `max_staleness` before `now`.
    pub(super) fn get_as_of(
        &self,
        key: &UserId,
        now: Instant,
        max_staleness: Duration,
    ) -> Option<Versioned<UserSessions>> {
        // Read first: an entry that is found after it has at least been seen until then.
        let seen = self.seen.load(Ordering::Acquire);
        let now = self.micros(now);
        let age = now.checked_sub(seen).filter(|_| seen > 0)?;
        if Duration::from_micros(age) > max_staleness {
            return None;
        }
        let entry = self.cache.get(key)?;
        is_young(now.saturating_sub(entry.as_of)).then_some(entry.read)
    }

    /// To be taken before a read is sent.
    pub(super) fn begin_read(&self, key: &UserId) -> ReadToken {
        let as_of = self.micros(Instant::now());
        ReadToken { forgotten: *self.part(key), as_of }
    }

    /// Remembers what was read, unless something has been forgotten since its ticket was taken.
    pub(super) fn end_read(&self, key: &UserId, read: &Versioned<UserSessions>, ticket: ReadToken) {
        let part = self.part(key);
        if *part != ticket.forgotten {
            return;
        }
        // A register that holds nothing is not worth a place: nobody with a good token asks for it.
        if read.revision == Revision::ABSENT {
            self.cache.remove(key);
            return;
        }
        // Of two reads that overlap, that of the newer value counts, and of the same value the later one. What was
        // held for long no longer counts: then the store itself has gone back.
        let counts = |held: Entry| {
            (held.read.revision, held.as_of) >= (read.revision, ticket.as_of)
                && is_young(ticket.as_of.saturating_sub(held.as_of))
        };
        if !self.cache.peek(key).is_some_and(counts) {
            self.cache.insert(key.clone(), Entry { read: read.clone(), as_of: ticket.as_of });
        }
    }

    /// Remembers what was written, unless something has been forgotten since its ticket was taken. What was read
    /// before is not to be remembered after.
    pub(super) fn end_commit(&self, key: &UserId, written: Versioned<UserSessions>, ticket: ReadToken) {
        let mut part = self.part(key);
        if *part == ticket.forgotten {
            self.cache.insert(key.clone(), Entry { read: written, as_of: ticket.as_of });
        } else {
            self.cache.remove(key);
        }
        *part += 1;
    }

    /// It has changed, or may have.
    pub(super) fn forget(&self, key: &UserId) {
        let mut part = self.part(key);
        *part += 1;
        self.cache.remove(key);
    }

    /// Everything that had changed by then has been forgotten.
    pub(super) fn seen_until(&self, moment: Instant) {
        self.seen.fetch_max(self.micros(moment).max(1), Ordering::Release);
    }

    /// Anything may have changed.
    pub(super) fn lose_sight(&self) {
        self.seen.store(0, Ordering::Release);
        for part in &self.parts {
            *part.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.cache.clear();
    }

    fn part(&self, key: &UserId) -> MutexGuard<'_, u64> {
        let part = usize::try_from(self.hasher.hash_one(key) % PARTS as u64).unwrap_or_default();
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.begin).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Whether an entry of this age, in microseconds, may be believed.
fn is_young(age: u64) -> bool {
    u128::from(age) <= MAX_AGE.as_micros()
}

/// About what an entry takes.
#[derive(Clone)]
struct Bytes;

impl Weighter<UserId, Entry> for Bytes {
    fn weight(&self, key: &UserId, value: &Entry) -> u64 {
        let state = &*value.read.state;
        let texts = [key.as_str(), &state.profile.username]
            .into_iter()
            .chain(state.profile.roles.iter().map(Role::as_str))
            .chain(state.sessions.iter().flat_map(|session| [session.device.as_str(), session.slot.as_str()]))
            .chain(state.tombstones.iter().flat_map(|grave| [grave.by_device.as_str(), grave.slot.as_str()]))
            .map(|text| if text.len() > INLINE { COUNTS + text.len() } else { 0 })
            .sum::<usize>();
        let structs = size_of::<UserSessions>()
            + size_of_val(&*state.profile.roles)
            + size_of_val(&*state.sessions)
            + size_of_val(&*state.tombstones);
        OVERHEAD + (texts + structs) as u64
    }
}

#[cfg(test)]
mod tests;
