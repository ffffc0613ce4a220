//! Calls at a rate, whether the server keeps up or not.
//!
//! A call that is due while all lines are busy waits, and its latency counts from when it was due: a load that
//! asks less while the server is slow would measure the fast moments only.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// As often as this something is due, at the most: each time costs a timer and system calls on both sides, and the load
/// would come to its limit before the server.
const BUNCHES: u32 = 5_000;
/// So long after the end the lines may still take what was due before it.
const GRACE: Duration = Duration::from_millis(10);

pub(super) struct Schedule {
    begin: Instant,
    rate: u32,
    /// So many calls are due at a time, all of them on one connection. The connections take turns.
    bunch: u32,
    connections: Vec<Due>,
}

/// What is due on one connection.
struct Due {
    /// And not begun.
    calls: Semaphore,
    begun: AtomicU64,
}

impl Schedule {
    /// For connections that can each have so many calls under way: more are never due at a time.
    pub(super) fn new(begin: Instant, rate: u32, connections: u16, most: u32) -> Self {
        let due = || Due { calls: Semaphore::new(0), begun: AtomicU64::new(0) };
        let connections = (0..connections).map(|_| due()).collect();
        Self { begin, rate, bunch: rate.div_ceil(BUNCHES).min(most), connections }
    }

    /// Says when calls are due, until the end; then nothing is due any more. For a thread of its own: the
    /// timers of the runtime have steps of a millisecond.
    pub(super) fn keep(&self, duration: Duration) {
        let mut turns = self.connections.iter().cycle();
        let mut next = 0;
        loop {
            let elapsed = self.begin.elapsed();
            while self.offset(next) <= elapsed && self.offset(next) < duration {
                let Some(connection) = turns.next() else { return };
                connection.calls.add_permits(self.bunch as usize);
                next += 1;
            }
            if elapsed >= duration {
                break;
            }
            std::thread::sleep(self.offset(next).min(duration).saturating_sub(self.begin.elapsed()));
        }
        std::thread::sleep(GRACE);
        for connection in &self.connections {
            connection.calls.close();
        }
    }

    /// Waits for the next call of a connection: when it was due. Nothing after the end.
    pub(super) async fn turn(&self, connection: usize) -> Option<Instant> {
        self.turns(connection, 1).await?.next()
    }

    /// Waits for the next call of a connection, and takes those that are due with it, so many at the most: when they were
    /// due.
    pub(super) async fn turns(
        &self,
        connection: usize,
        most: usize,
    ) -> Option<impl Iterator<Item = Instant>> {
        let Due { calls, begun } = &self.connections[connection];
        calls.acquire().await.ok()?.forget();
        let more = most.saturating_sub(1).min(calls.available_permits());
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        // Another line may have been faster.
        let more = calls.try_acquire_many(more).map_or(0, |permits| {
            permits.forget();
            u64::from(more)
        });
        let first = begun.fetch_add(1 + more, Ordering::Relaxed);
        Some((first..=first + more).map(move |call| {
            let before = call / u64::from(self.bunch) * self.connections.len() as u64;
            self.begin + self.offset(before + connection as u64)
        }))
    }

    /// How many calls are due before then.
    pub(super) fn count(&self, elapsed: Duration) -> u64 {
        let bunches =
            (elapsed.as_nanos() * u128::from(self.rate)).div_ceil(1_000_000_000 * u128::from(self.bunch));
        u64::try_from(bunches).unwrap_or(u64::MAX).saturating_mul(u64::from(self.bunch))
    }

    /// When a bunch of calls is due.
    fn offset(&self, number: u64) -> Duration {
        let nanos = u128::from(number) * u128::from(self.bunch) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_due_at_even_distances() {
        for (rate, bunch) in [(1, 1), (3, 1), (5_000, 1), (5_001, 2), (42_000, 9), (999_983, 100)] {
            let pace = Schedule::new(Instant::now(), rate, 1, 100);
            assert_eq!(pace.bunch, bunch);
            for number in [0, 1, 2, 10, 123_456] {
                let at = pace.offset(number);
                let calls = number * u64::from(bunch);
                assert_eq!(pace.count(at), calls, "{rate}");
                assert_eq!(pace.count(at + Duration::from_nanos(1)), calls + u64::from(bunch), "{rate}");
            }
            let second = pace.count(Duration::from_secs(1));
            assert!((rate.into()..u64::from(rate + bunch)).contains(&second), "{rate}: {second}");
        }
    }

    #[tokio::test]
    async fn latency_counts_from_when_a_call_was_due() {
        let begin = Instant::now();
        // Two at a time, every 200 microseconds.
        let pace = Schedule::new(begin, 10_000, 2, 32);
        let due = |bunch: u32| begin + Duration::from_micros(200) * bunch;
        for (connection, calls) in [(0, 4), (1, 2)] {
            pace.connections[connection].calls.add_permits(calls);
        }
        assert_eq!(pace.turn(0).await, Some(due(0)));
        assert_eq!(pace.turns(0, 2).await.unwrap().collect::<Vec<_>>(), [due(0), due(2)]);
        assert_eq!(pace.turns(1, 5).await.unwrap().collect::<Vec<_>>(), [due(1), due(1)]);
        assert_eq!(pace.turns(0, 5).await.unwrap().collect::<Vec<_>>(), [due(2)]);
        pace.keep(Duration::ZERO);
        assert_eq!(pace.turn(0).await, None);
    }

    #[test]
    fn what_was_due_meanwhile_is_made_up_for() {
        let late = Duration::from_millis(50);
        let pace = Schedule::new(Instant::now().checked_sub(late).unwrap(), 10_000, 3, 32);
        pace.keep(late + Duration::from_millis(5));
        let given: usize = pace.connections.iter().map(|due| due.calls.available_permits()).sum();
        assert_eq!(given as u64, pace.count(late + Duration::from_millis(5)));
    }
}
