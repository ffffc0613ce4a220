//! Counters that each thread keeps in memory of its own.

use std::{
    cell::Cell,
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Threads with memory of their own. Further threads share one place, with atomic additions.
const THREADS: usize = 32;

thread_local! {
    /// The place of this thread; `usize::MAX` until it counts for the first time. It is the same for all counters.
    static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// `N` counters. To add is a load and a store in memory that no other thread writes, and whose cache line no other
/// thread uses.
pub struct ThreadCounters<const N: usize> {
    /// The last one is shared.
    places: Box<[Counters<N>]>,
}

/// Aligned to two cache lines, because processors prefetch them in pairs.
#[repr(align(128))]
struct Counters<const N: usize>([AtomicU64; N]);

impl<const N: usize> ThreadCounters<N> {
    /// Adds to the counter with this index.
    pub fn add(&self, index: usize, amount: u64) {
        let place = PLACE.get();
        let place = if place == usize::MAX { first_place() } else { place };
        let counter = &self.places[place.min(THREADS)].0[index];
        if place < THREADS {
            // Only this thread writes here.
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        } else {
            counter.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// The sum over all threads.
    pub fn get(&self, index: usize) -> u64 {
        self.places.iter().map(|place| place.0[index].load(Ordering::Relaxed)).sum()
    }
}

/// Gives this thread a place, which it keeps for its life and nobody gets afterwards.
#[cold]
fn first_place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let place = NEXT.fetch_add(1, Ordering::Relaxed).min(THREADS);
    PLACE.set(place);
    place
}

impl<const N: usize> Default for ThreadCounters<N> {
    fn default() -> Self {
        Self { places: (0..=THREADS).map(|_| Counters([const { AtomicU64::new(0) }; N])).collect() }
    }
}

impl<const N: usize> fmt::Debug for ThreadCounters<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadCounters").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_addition_is_lost_with_more_threads_than_places() {
        let counters = ThreadCounters::<3>::default();
        std::thread::scope(|scope| {
            for _ in 0..THREADS * 2 {
                scope.spawn(|| (0..1000).for_each(|_| counters.add(1, 2)));
            }
        });
        assert_eq!([0, 1, 2].map(|index| counters.get(index)), [0, THREADS as u64 * 4000, 0]);
    }
}
