//! Jitter: random delays, so that many clients do not retry at the same moment.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// Returns half of the delay plus a random part of the other half ("equal jitter").
pub(crate) fn equal(delay: Duration) -> Duration {
    let half = delay / 2;
    half + up_to(half)
}

/// Returns a random delay below the limit ("full jitter").
pub(crate) fn up_to(limit: Duration) -> Duration {
    // Each `RandomState` has different keys. That is random enough for delays and saves a dependency.
    let [a, b, c, d, ..] = RandomState::new().hash_one(()).to_ne_bytes();
    let random = u32::from_ne_bytes([a, b, c, d]);
    limit.mul_f64(f64::from(random) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_spread_over_the_whole_range() {
        let second = Duration::from_secs(1);
        let full: Vec<_> = (0..1000).map(|_| up_to(second)).collect();
        assert!(full.iter().all(|delay| *delay < second));
        for tenth in 0..10 {
            let range = second / 10 * tenth..second / 10 * (tenth + 1);
            assert!(full.iter().any(|delay| range.contains(delay)), "{range:?}");
        }
        let half = second / 2;
        assert!((0..1000).map(|_| equal(second)).all(|delay| delay >= half && delay < second));
        assert_eq!(equal(Duration::ZERO), Duration::ZERO);
    }
}
