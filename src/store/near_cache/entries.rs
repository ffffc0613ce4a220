//! The entries of the near-cache and the rules by which they are filled, invalidated and used.
//!
//! Taking a ticket, invalidating and filling each hold the lock of the key's shard, so that they are totally ordered
//! for each key. The test tries all orders in which two reads, changes and a commit can meet.

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
    sessions::{OneOrMany, UserSessions},
    types::{Role, UserId},
};

/// The longest time after its read for which an entry is used if other processes write to the store.
pub(super) const MAX_AGE: Duration = super::STALENESS_BOUND;

const SHARDS: usize = 256;
/// The size of an entry without its state, in bytes: the key and the place in the cache (72 and 8), the reference counts
/// of the state, and what the allocator adds.
const OVERHEAD: u64 = 104;
/// The length up to which a name is stored inline.
const INLINE: usize = 23;
/// The same for the name of a slot.
const INLINE_SLOT: usize = 15;
/// The size of what precedes a longer string, or a list, on the heap, in bytes.
const HEADER: usize = 16;

pub(super) struct Entries {
    /// The keys come from tokens that Latchkey has signed, so nobody can choose keys that collide.
    cache: Cache<UserId, Entry, Bytes, RandomState>,
    /// The number of invalidations in each shard.
    shards: Box<[Mutex<u64>]>,
    hasher: RandomState,
    /// The time up to which the log has been read, in microseconds since `start`; 0 if the log is not followed.
    current_as_of: AtomicU64,
    start: Instant,
}

#[derive(Clone)]
struct Entry {
    value: Versioned<UserSessions>,
    /// When the read was sent, in microseconds since `start`.
    as_of: u64,
}

/// Marks the start of a read. It is void once the shard of the key has had an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadTicket {
    invalidations: u64,
    as_of: u64,
}

impl Entries {
    /// Holds at most about `max_bytes`.
    pub(super) fn new(max_bytes: u64) -> Self {
        let expected = usize::try_from(max_bytes / 300).unwrap_or(usize::MAX);
        Self {
            cache: Cache::with(
                expected,
                max_bytes,
                Bytes,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            current_as_of: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// Returns the number of entries and their approximate size in bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.cache.len(), self.cache.weight())
    }

    /// Returns an entry of any age, which is exact if no other process writes to the store.
    pub(super) fn get(&self, key: &UserId) -> Option<Versioned<UserSessions>> {
        self.cache.get(key).map(|entry| entry.value)
    }

    /// Returns the entry if it was correct at some time at most `max_staleness` before `now`.
    pub(super) fn get_as_of(
        &self,
        key: &UserId,
        now: Instant,
        max_staleness: Duration,
    ) -> Option<Versioned<UserSessions>> {
        // Loaded before the entry: an entry that is found afterwards is correct at least as of this time.
        let as_of = self.current_as_of.load(Ordering::Acquire);
        let now = self.micros(now);
        // The log may have been read further since `now`.
        let staleness = Duration::from_micros(now.saturating_sub(as_of));
        if as_of == 0 || staleness > max_staleness {
            return None;
        }
        let entry = self.cache.get(key)?;
        is_within_max_age(now.saturating_sub(entry.as_of)).then_some(entry.value)
    }

    /// Has to be called before a read or commit is sent.
    pub(super) fn begin_read(&self, key: &UserId) -> ReadTicket {
        let as_of = self.micros(Instant::now());
        ReadTicket { invalidations: *self.shard(key), as_of }
    }

    /// Caches what was read, unless the ticket is void.
    pub(super) fn end_read(&self, key: &UserId, read: &Versioned<UserSessions>, ticket: ReadTicket) {
        let invalidations = self.shard(key);
        if *invalidations != ticket.invalidations {
            return;
        }
        // An absent register is not worth an entry: no live token refers to it.
        if read.revision == Revision::ABSENT {
            self.cache.remove(key);
            return;
        }
        // Of two overlapping reads the higher revision wins, then the later read. A lower revision replaces an entry
        // beyond its maximum age: then the store has been rolled back.
        let is_newer = |cached: Entry| {
            (cached.value.revision, cached.as_of) >= (read.revision, ticket.as_of)
                && is_within_max_age(ticket.as_of.saturating_sub(cached.as_of))
        };
        if !self.cache.peek(key).is_some_and(is_newer) {
            self.cache.insert(key.clone(), Entry { value: read.clone(), as_of: ticket.as_of });
        }
    }

    /// Caches what was committed, unless the ticket is void, and voids all earlier tickets.
    pub(super) fn end_commit(&self, key: &UserId, committed: Versioned<UserSessions>, ticket: ReadTicket) {
        self.end_commits(vec![(key, committed, ticket)]);
    }

    /// As [`end_commit`](Self::end_commit) for commits that were made together. They do not void the tickets of each
    /// other, so that a batch stays cached.
    pub(super) fn end_commits(&self, mut commits: Vec<(&UserId, Versioned<UserSessions>, ReadTicket)>) {
        commits.sort_by_cached_key(|(key, ..)| self.shard_index(key));
        for of_shard in commits.chunk_by(|(a, ..), (b, ..)| self.shard_index(a) == self.shard_index(b)) {
            let mut invalidations = self.shard(of_shard[0].0);
            for (key, committed, ticket) in of_shard {
                if *invalidations == ticket.invalidations {
                    let entry = Entry { value: committed.clone(), as_of: ticket.as_of };
                    self.cache.insert((*key).clone(), entry);
                } else {
                    self.cache.remove(*key);
                }
            }
            *invalidations += 1;
        }
    }

    /// Removes an entry whose register has changed or may have changed.
    pub(super) fn invalidate(&self, key: &UserId) {
        let mut invalidations = self.shard(key);
        *invalidations += 1;
        self.cache.remove(key);
    }

    /// Records that the entries of all registers that changed before `as_of` have been invalidated.
    pub(super) fn mark_current(&self, as_of: Instant) {
        self.current_as_of.fetch_max(self.micros(as_of).max(1), Ordering::Release);
    }

    /// Removes all entries and voids all tickets, because any register may have changed.
    pub(super) fn invalidate_all(&self) {
        self.current_as_of.store(0, Ordering::Release);
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.cache.clear();
    }

    fn shard(&self, key: &UserId) -> MutexGuard<'_, u64> {
        self.shards[self.shard_index(key)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_index(&self, key: &UserId) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default()
    }

    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }
}

fn is_within_max_age(age_micros: u64) -> bool {
    u128::from(age_micros) <= MAX_AGE.as_micros()
}

/// Weighs entries by their approximate size.
#[derive(Clone)]
struct Bytes;

impl Weighter<UserId, Entry> for Bytes {
    fn weight(&self, key: &UserId, entry: &Entry) -> u64 {
        let state = &*entry.value.state;
        let names = [&*state.profile.username]
            .into_iter()
            .chain(state.profile.roles.iter().map(Role::as_str))
            .chain(state.sessions.iter().map(|session| session.device.as_str()))
            .chain(state.tombstones.iter().map(|tombstone| tombstone.by_device.as_str()))
            .map(|name| on_heap(name, INLINE));
        let slots = state
            .sessions
            .iter()
            .map(|session| &session.slot)
            .chain(state.tombstones.iter().map(|tombstone| &tombstone.slot))
            .map(|slot| on_heap(slot.as_str(), INLINE_SLOT));
        let strings = on_heap(key.as_str(), UserId::INLINE) + names.chain(slots).sum::<usize>();
        let more_sessions = match &state.sessions {
            OneOrMany::One(_) => 0,
            OneOrMany::Many(sessions) => size_of_val(&**sessions),
        };
        let structs = size_of::<UserSessions>()
            + more_sessions
            + on_heap_list(&state.profile.roles)
            + on_heap_list(&state.tombstones);
        OVERHEAD + (strings + structs) as u64
    }
}

fn on_heap(text: &str, inline: usize) -> usize {
    if text.len() > inline { HEADER + text.len() } else { 0 }
}

fn on_heap_list<T>(list: &[T]) -> usize {
    if list.is_empty() { 0 } else { HEADER + size_of_val(list) }
}

#[cfg(test)]
mod tests;
