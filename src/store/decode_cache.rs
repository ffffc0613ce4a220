//! Remembers the state that bytes were decoded to.
//!
//! Requests that always read the store load the same users again and again, and decoding is most of the cost. The
//! cache does not replace the read: the store has to return the same bytes each time.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{
    binding,
    codec::{self, CodecError},
};
use crate::domain::sessions::UserSessions;

/// The number of sets that states are divided into.
const SETS: usize = 4096;
const SET_SHIFT: u32 = u32::BITS - SETS.ilog2();
/// The number of cached states of each set. In total that is about 4 MiB if each has one session.
const WAYS: usize = 2;
/// The number of registers that each set remembers without caching them.
const CANDIDATES: usize = 4;

/// The states of registers, with the bytes that they were decoded from.
///
/// A state is cached if its register was read twice within a short time, so that users who are read once cost nothing
/// but the look.
pub struct DecodeCache(Box<[Mutex<Set>]>);

/// States of registers with the same [`set_of`].
#[derive(Default)]
struct Set {
    /// The latest first.
    entries: [Option<Entry>; WAYS],
    /// The hashes of registers that were read and not cached, the latest first.
    candidates: [u32; CANDIDATES],
}

struct Entry {
    hash: u32,
    bytes: Bytes,
    state: Arc<UserSessions>,
}

impl DecodeCache {
    /// Decodes a state, or returns the cached state if the bytes are the same.
    pub fn decode(&self, bytes: Bytes) -> Result<Arc<UserSessions>, CodecError> {
        // Values of old versions are not bound to a register. They are bound when they are next written.
        let Some(hash) = binding::bound_to(&bytes) else {
            return codec::decode_sessions(&bytes).map(Arc::new);
        };
        let set = &self.0[set_of(hash)];
        let lock = || set.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = lock().get(&bytes) {
            return Ok(state);
        }
        let state = Arc::new(codec::decode_sessions(&bytes)?);
        let replaced = lock().note(hash, bytes, &state);
        // Freed without the lock.
        drop(replaced);
        Ok(state)
    }
}

/// The set of a hash. All bits of the hash take part, because some are alike for names that are alike.
fn set_of(hash: u32) -> usize {
    ((hash ^ (hash >> 16)).wrapping_mul(0x7feb_352d) >> SET_SHIFT) as usize
}

impl Set {
    fn get(&mut self, bytes: &Bytes) -> Option<Arc<UserSessions>> {
        let is_same = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.bytes == bytes);
        let way = self.entries.iter().position(is_same)?;
        self.entries[..=way].rotate_right(1);
        self.entries[0].as_ref().map(|entry| Arc::clone(&entry.state))
    }

    /// Caches a state if its register was cached or was read not long ago. Returns what is no longer cached.
    fn note(&mut self, hash: u32, bytes: Bytes, state: &Arc<UserSessions>) -> Option<Entry> {
        let is_of_register = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.hash == hash);
        let way = self.entries.iter().position(is_of_register);
        if way.is_none() && !self.candidates.contains(&hash) {
            self.candidates.rotate_right(1);
            self.candidates[0] = hash;
            return None;
        }
        self.entries[..=way.unwrap_or(WAYS - 1)].rotate_right(1);
        self.entries[0].replace(Entry { hash, bytes, state: Arc::clone(state) })
    }
}

impl Default for DecodeCache {
    fn default() -> Self {
        Self((0..SETS).map(|_| Mutex::default()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::Generation;

    fn state(generation: u64) -> UserSessions {
        UserSessions { generation: Generation(generation), ..Default::default() }
    }

    fn read(cache: &DecodeCache, user: &str, generation: u64) -> Arc<UserSessions> {
        let bytes = binding::bind(user, &codec::encode_sessions(&state(generation)));
        let read = cache.decode(bytes).unwrap();
        assert_eq!(*read, state(generation));
        read
    }

    #[test]
    fn the_same_bytes_are_decoded_twice_at_most_and_others_again() {
        let cache = DecodeCache::default();
        let first = read(&cache, "alice", 1);
        let second = read(&cache, "alice", 1);
        assert!(!Arc::ptr_eq(&first, &second), "a state is cached that was read once");
        assert!(Arc::ptr_eq(&second, &read(&cache, "alice", 1)));
        read(&cache, "bob", 2);
        let newer = read(&cache, "alice", 3);
        assert!(Arc::ptr_eq(&newer, &read(&cache, "alice", 3)));
        read(&cache, "alice", 1);

        let corrupt = cache.decode(binding::bind("alice", &[0]));
        assert!(matches!(corrupt, Err(CodecError::Corrupt(_))));
        read(&cache, "alice", 1);
    }

    #[test]
    fn users_that_are_read_again_and_again_stay_cached_among_others() {
        let cache = DecodeCache::default();
        let hot: Vec<_> = (0..100).map(|number| format!("hot{number}")).collect();
        let mut cached = 0;
        for round in 0..20 {
            for user in &hot {
                let before = read(&cache, user, 1);
                cached += u32::from(Arc::ptr_eq(&before, &read(&cache, user, 1)));
            }
            for number in 0..1000 {
                read(&cache, &format!("cold{round}-{number}"), 1);
            }
        }
        assert!(cached > 1800, "{cached} of 2000");
    }
}
