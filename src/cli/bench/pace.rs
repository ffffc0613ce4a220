//! Calls at a rate, whether the server keeps up or not.
//!
//! A call that is due while all lines are busy waits, and its latency counts from when it was due: a load that
//! asks less while the server is slow would measure the fast moments only.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

pub(super) struct Pace {
    begin: Instant,
    rate: u32,
    due: Semaphore,
    taken: AtomicU64,
}

impl Pace {
    pub(super) fn new(begin: Instant, rate: u32) -> Self {
        Self { begin, rate, due: Semaphore::new(0), taken: AtomicU64::new(0) }
    }

    /// Says when calls are due, until the end; then nothing is due any more. For a thread of its own: the
    /// timers of the runtime have steps of a millisecond.
    pub(super) fn keep(&self, duration: Duration) {
        let mut given = 0;
        loop {
            let elapsed = self.begin.elapsed();
            if elapsed >= duration {
                break;
            }
            let due = self.count(elapsed);
            self.due.add_permits(usize::try_from(due - given).unwrap_or_default());
            given = due;
            std::thread::sleep(self.offset(given).saturating_sub(self.begin.elapsed()));
        }
        self.due.close();
    }

    /// Waits for the next call: when it was due. Nothing after the end.
    pub(super) async fn turn(&self) -> Option<Instant> {
        self.turns(1).await?.next()
    }

    /// Waits for the next call, and takes those that are due with it, so many at the most: when they were due.
    pub(super) async fn turns(&self, most: usize) -> Option<impl Iterator<Item = Instant>> {
        self.due.acquire().await.ok()?.forget();
        let more = most.saturating_sub(1).min(self.due.available_permits());
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        // Another line may have been faster.
        let more = self.due.try_acquire_many(more).map_or(0, |permits| {
            permits.forget();
            u64::from(more)
        });
        let first = self.taken.fetch_add(1 + more, Ordering::Relaxed);
        Some((first..=first + more).map(|number| self.begin + self.offset(number)))
    }

    /// How many calls are due by then, the one at the beginning included.
    pub(super) fn count(&self, elapsed: Duration) -> u64 {
        let count = elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        u64::try_from(count).unwrap_or(u64::MAX - 1) + 1
    }

    /// When a call is due.
    fn offset(&self, number: u64) -> Duration {
        let nanos = (u128::from(number) * 1_000_000_000).div_ceil(u128::from(self.rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_a_second_are_due_at_even_distances() {
        for rate in [1, 3, 1000, 999_983] {
            let pace = Pace::new(Instant::now(), rate);
            for number in [0, 1, 2, 10, 123_456] {
                let at = pace.offset(number);
                assert_eq!(pace.count(at), number + 1, "{rate}");
                let before = at.saturating_sub(Duration::from_nanos(1));
                assert!(number == 0 || pace.count(before) == number, "{rate}");
            }
        }
    }

    #[tokio::test]
    async fn latency_counts_from_when_a_call_was_due() {
        let begin = Instant::now();
        let pace = Pace::new(begin, 100);
        pace.due.add_permits(2);
        assert_eq!(pace.turn().await, Some(begin));
        assert_eq!(pace.turn().await, Some(begin + Duration::from_millis(10)));
        pace.due.add_permits(3);
        let due: Vec<_> = pace.turns(2).await.unwrap().collect();
        assert_eq!(due, [20, 30].map(|millis| begin + Duration::from_millis(millis)));
        let due: Vec<_> = pace.turns(2).await.unwrap().collect();
        assert_eq!(due, [begin + Duration::from_millis(40)]);
        pace.due.close();
        assert_eq!(pace.turn().await, None);
    }
}
