//! Remembers which tokens have been verified, by a hash of all their bytes: 16 bytes for each.
//!
//! Readers and writers share the slots without a lock. If two meet in a slot they can mix the halves of two hashes. Then
//! both tokens are verified again, because a mixture is the hash of a presented token only by chance.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use arc_swap::ArcSwap;

/// A generation of a shard is created while a request waits, so it is small.
const SHARDS: usize = 64;
/// The slots in which a hash may be: one cache line.
const WAYS: usize = 4;
/// The slots of the first generation of a shard: 1 KiB.
const MIN_SLOTS: usize = 64;
/// The slots of the largest: 512 KiB.
const MAX_SLOTS: usize = 1 << 15;

/// The keyed hash of a whole token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenHash(pub(super) [u64; 2]);

/// The hashes of verified tokens: of more than a million, in at most 64 MiB.
pub(super) struct VerifiedTokens {
    shards: Box<[Shard]>,
    /// The slots of the largest generation of a shard.
    max_slots: usize,
}

/// A generation that is full is copied to a larger one. The largest becomes the previous generation, and the next begins
/// empty: a hash that is used moves there from the previous one, and the others are forgotten with it.
struct Shard {
    generations: ArcSwap<Generations>,
    is_growing: AtomicBool,
}

struct Generations {
    current: Arc<Generation>,
    previous: Arc<Generation>,
}

struct Generation {
    slots: Box<[[AtomicU64; 2]]>,
    used: AtomicUsize,
}

impl VerifiedTokens {
    pub(super) fn new() -> Self {
        Self::with_max_slots(MAX_SLOTS)
    }

    fn with_max_slots(max_slots: usize) -> Self {
        let shard = |_| Shard {
            generations: ArcSwap::from_pointee(Generations {
                current: Arc::new(Generation::new(MIN_SLOTS)),
                previous: Arc::new(Generation::new(WAYS)),
            }),
            is_growing: AtomicBool::new(false),
        };
        Self { shards: (0..SHARDS).map(shard).collect(), max_slots }
    }

    pub(super) fn contains(&self, hash: TokenHash) -> bool {
        let shard = self.shard(hash);
        let generations = shard.generations.load();
        if generations.current.contains(hash) {
            return true;
        }
        let is_known = generations.previous.contains(hash);
        if is_known {
            shard.insert(hash, self.max_slots);
        }
        is_known
    }

    pub(super) fn insert(&self, hash: TokenHash) {
        self.shard(hash).insert(hash, self.max_slots);
    }

    fn shard(&self, hash: TokenHash) -> &Shard {
        &self.shards[index(hash.0[1], SHARDS)]
    }

    /// The number of hashes in the current generations.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.generations.load().current.used.load(Relaxed)).sum()
    }
}

impl Shard {
    fn insert(&self, hash: TokenHash, max_slots: usize) {
        let generations = self.generations.load();
        generations.current.insert(hash);
        if generations.current.is_full() && !self.is_growing.swap(true, Relaxed) {
            // Another thread may have been here since the load.
            if Arc::ptr_eq(&generations.current, &self.generations.load().current) {
                self.generations.store(Arc::new(generations.next(max_slots)));
            }
            self.is_growing.store(false, Relaxed);
        }
    }
}

impl Generations {
    /// What another thread inserts meanwhile may be forgotten.
    fn next(&self, max_slots: usize) -> Self {
        let slots = self.current.slots.len();
        if slots >= max_slots {
            let current = Arc::new(Generation::new(slots));
            return Self { current, previous: Arc::clone(&self.current) };
        }
        let larger = Generation::new(slots * 2);
        for slot in &self.current.slots {
            let words = slot.each_ref().map(|word| word.load(Relaxed));
            if words[0] != 0 {
                larger.insert(TokenHash(words));
            }
        }
        Self { current: Arc::new(larger), previous: Arc::clone(&self.previous) }
    }
}

impl Generation {
    fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| Default::default()).collect(), used: AtomicUsize::new(0) }
    }

    fn bucket(&self, hash: TokenHash) -> &[[AtomicU64; 2]] {
        let first = index(hash.0[0], self.slots.len() / WAYS) * WAYS;
        &self.slots[first..first + WAYS]
    }

    fn contains(&self, TokenHash(words): TokenHash) -> bool {
        self.bucket(TokenHash(words))
            .iter()
            .any(|slot| slot.each_ref().map(|word| word.load(Relaxed)) == words)
    }

    fn insert(&self, hash: TokenHash) {
        let TokenHash(words) = hash;
        if self.contains(hash) {
            return;
        }
        let bucket = self.bucket(hash);
        let empty = bucket.iter().find(|slot| slot[0].load(Relaxed) == 0);
        if empty.is_some() {
            self.used.fetch_add(1, Relaxed);
        }
        // In a full bucket the new hash replaces any other.
        let slot = empty.unwrap_or(&bucket[index(words[1].rotate_left(32), WAYS)]);
        slot[0].store(words[0], Relaxed);
        slot[1].store(words[1], Relaxed);
    }

    /// Beyond one half too many buckets are full.
    fn is_full(&self) -> bool {
        self.used.load(Relaxed) > self.slots.len() / 2
    }
}

/// A part of a hash as an index below `length`.
fn index(part: u64, length: usize) -> usize {
    usize::try_from(part % length as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> TokenHash {
        // SplitMix64, as random as the keyed hash.
        TokenHash([1, 2].map(|salt: u64| {
            let mut mixed = number.wrapping_mul(2).wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }))
    }

    #[test]
    fn a_hash_is_known_once_it_is_inserted() {
        let verified = VerifiedTokens::new();
        assert!(!verified.contains(hash(1)));
        verified.insert(hash(1));
        verified.insert(hash(1));
        assert!(verified.contains(hash(1)) && !verified.contains(hash(2)));
        assert_eq!(verified.len(), 1);
        let TokenHash([first, second]) = hash(1);
        assert!(!verified.contains(TokenHash([first, second ^ 1 << 40])));
        assert!(!verified.contains(TokenHash([first ^ 1 << 40, second])));
    }

    #[test]
    fn most_hashes_are_known_up_to_half_of_the_slots() {
        let verified = VerifiedTokens::with_max_slots(1 << 10);
        let half = 1 << 15;
        (0..half).for_each(|number| verified.insert(hash(number)));
        let known = (0..half).filter(|number| verified.contains(hash(*number))).count();
        assert!(known > 29_000, "{known} of {half}");
        assert!((half..2 * half).all(|number| !verified.contains(hash(number))));
    }

    #[test]
    fn hashes_that_are_used_outlive_those_that_are_not() {
        let verified = VerifiedTokens::with_max_slots(1 << 10);
        for number in 0..150_000 {
            verified.insert(hash(number));
            let used = hash(number % 100);
            if number % 16 == 0 && !verified.contains(used) {
                verified.insert(used);
            }
        }
        let known = |from, to| (from..to).filter(|number| verified.contains(hash(*number))).count();
        assert_eq!(known(1000, 50_000), 0);
        assert!(known(140_000, 150_000) > 9000);
        assert!(known(0, 100) > 20, "one in four of them is used: {}", known(0, 100));
    }

    #[test]
    fn threads_that_insert_at_once_lose_nothing_but_what_overlaps() {
        let verified = VerifiedTokens::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let verified = &verified;
                scope.spawn(move || {
                    (0..10_000).for_each(|number| verified.insert(hash(thread * 10_000 + number)));
                });
            }
        });
        let known = (0..40_000).filter(|number| verified.contains(hash(*number))).count();
        assert!(known > 34_000, "{known}");
    }
}
