//! A histogram of durations without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The upper bounds of the buckets, in microseconds. The last bucket has none.
const BOUNDS: [u32; BUCKETS - 1] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// The number of buckets.
pub const BUCKETS: usize = 18;

/// Durations by bucket. The library's histogram locks a mutex for each.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// The contents of a histogram at a time.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The number of durations in each bucket.
    pub buckets: [u64; BUCKETS],
    /// The sum of all durations, in nanoseconds.
    pub sum: u64,
}

/// The index of the bucket of a duration.
pub fn bucket_of(duration: Duration) -> usize {
    let nanos = nanos(duration);
    BOUNDS.iter().position(|bound| nanos <= u64::from(*bound) * 1000).unwrap_or(BUCKETS - 1)
}

/// A duration in nanoseconds.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Histogram {
    /// Adds a duration.
    pub fn observe(&self, duration: Duration) {
        self.buckets[bucket_of(duration)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos(duration), Ordering::Relaxed);
    }

    /// Returns the contents.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            buckets: self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed)),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl Snapshot {
    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all durations, in seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.sum).as_secs_f64()
    }

    /// The buckets with their upper bounds in seconds.
    pub fn bounded(&self) -> [(f64, u64); BUCKETS] {
        let bound = |index: usize| BOUNDS.get(index).map_or(f64::INFINITY, |micros| f64::from(*micros) / 1e6);
        std::array::from_fn(|index| (bound(index), self.buckets[index]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for nanos in [0, 50_000, 50_001, 10_000_000_000, 10_000_000_001] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let snapshot = histogram.snapshot();
        let filled: Vec<_> = snapshot.bounded().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.000_05, 2), (0.0001, 1), (10.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(snapshot.count(), 5);
        assert!((snapshot.seconds() - 20.000_100_002).abs() < 1e-9);
    }
}
