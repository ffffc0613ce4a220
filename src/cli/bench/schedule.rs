//! Requests at a fixed rate (open loop), whether the server keeps up or not.
//!
//! A request that is due while the connection is busy waits, and its latency counts from the time at which it was due.
//! Otherwise a load would send less while the server is slow, and measure the fast moments only (coordinated omission).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// The largest number of times per second at which requests are due. Each costs a timer and system calls on both sides, so with
/// more of them the load would reach its limit before the server.
const MAX_BATCHES_PER_SECOND: u32 = 5_000;
/// How long after the end requests that were due before it may still be sent.
const GRACE: Duration = Duration::from_millis(10);

pub(super) struct Schedule {
    begin: Instant,
    rate: u32,
    /// The number of requests that are due at a time, all of them on one connection. The connections take turns.
    batch: u32,
    connections: Vec<Due>,
}

/// The requests of one connection.
struct Due {
    /// One permit for each request that is due and not sent.
    permits: Semaphore,
    sent: AtomicU64,
}

impl Schedule {
    /// `max_in_flight` limits the requests that are due at a time.
    pub(super) fn new(begin: Instant, rate: u32, connections: u16, max_in_flight: u32) -> Self {
        let due = || Due { permits: Semaphore::new(0), sent: AtomicU64::new(0) };
        let connections = (0..connections).map(|_| due()).collect();
        Self { begin, rate, batch: rate.div_ceil(MAX_BATCHES_PER_SECOND).min(max_in_flight), connections }
    }

    /// Adds permits when requests are due, until the end. Blocks, and needs a thread of its own: the timers of the runtime have a
    /// resolution of a millisecond.
    pub(super) fn run(&self, duration: Duration) {
        let mut turns = self.connections.iter().cycle();
        let mut next = 0;
        loop {
            let elapsed = self.begin.elapsed();
            while self.offset(next) <= elapsed && self.offset(next) < duration {
                let Some(connection) = turns.next() else { return };
                connection.permits.add_permits(self.batch as usize);
                next += 1;
            }
            if elapsed >= duration {
                break;
            }
            std::thread::sleep(self.offset(next).min(duration).saturating_sub(self.begin.elapsed()));
        }
        std::thread::sleep(GRACE);
        for connection in &self.connections {
            connection.permits.close();
        }
    }

    /// Waits for the next request of a connection, and returns when it was due; `None` after the end.
    pub(super) async fn next(&self, connection: usize) -> Option<Instant> {
        self.next_batch(connection, 1).await?.next()
    }

    /// Waits for the next request of a connection, and returns when it and up to `max - 1` others that are due now were due.
    pub(super) async fn next_batch(
        &self,
        connection: usize,
        max: usize,
    ) -> Option<impl Iterator<Item = Instant>> {
        let Due { permits, sent } = &self.connections[connection];
        permits.acquire().await.ok()?.forget();
        let more = max.saturating_sub(1).min(permits.available_permits());
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        // Another task of the connection may have been faster.
        let more = permits.try_acquire_many(more).map_or(0, |acquired| {
            acquired.forget();
            u64::from(more)
        });
        let first = sent.fetch_add(1 + more, Ordering::Relaxed);
        Some((first..=first + more).map(move |number| {
            let before = number / u64::from(self.batch) * self.connections.len() as u64;
            self.begin + self.offset(before + connection as u64)
        }))
    }

    /// The number of requests that are due before this time.
    pub(super) fn count(&self, elapsed: Duration) -> u64 {
        let batches =
            (elapsed.as_nanos() * u128::from(self.rate)).div_ceil(1_000_000_000 * u128::from(self.batch));
        u64::try_from(batches).unwrap_or(u64::MAX).saturating_mul(u64::from(self.batch))
    }

    /// The time at which a batch is due.
    fn offset(&self, number: u64) -> Duration {
        let nanos = u128::from(number) * u128::from(self.batch) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_evenly_spaced() {
        for (rate, batch) in [(1, 1), (3, 1), (5_000, 1), (5_001, 2), (42_000, 9), (999_983, 100)] {
            let schedule = Schedule::new(Instant::now(), rate, 1, 100);
            assert_eq!(schedule.batch, batch);
            for number in [0, 1, 2, 10, 123_456] {
                let at = schedule.offset(number);
                let calls = number * u64::from(batch);
                assert_eq!(schedule.count(at), calls, "{rate}");
                assert_eq!(schedule.count(at + Duration::from_nanos(1)), calls + u64::from(batch), "{rate}");
            }
            let second = schedule.count(Duration::from_secs(1));
            assert!((rate.into()..u64::from(rate + batch)).contains(&second), "{rate}: {second}");
        }
    }

    #[tokio::test]
    async fn latency_counts_from_the_time_at_which_a_request_was_due() {
        let begin = Instant::now();
        // Two at a time, every 200 microseconds.
        let schedule = Schedule::new(begin, 10_000, 2, 32);
        let due = |batch: u32| begin + Duration::from_micros(200) * batch;
        for (connection, calls) in [(0, 4), (1, 2)] {
            schedule.connections[connection].permits.add_permits(calls);
        }
        assert_eq!(schedule.next(0).await, Some(due(0)));
        assert_eq!(schedule.next_batch(0, 2).await.unwrap().collect::<Vec<_>>(), [due(0), due(2)]);
        assert_eq!(schedule.next_batch(1, 5).await.unwrap().collect::<Vec<_>>(), [due(1), due(1)]);
        assert_eq!(schedule.next_batch(0, 5).await.unwrap().collect::<Vec<_>>(), [due(2)]);
        schedule.run(Duration::ZERO);
        assert_eq!(schedule.next(0).await, None);
    }

    #[test]
    fn a_late_thread_catches_up() {
        let late = Duration::from_millis(50);
        let schedule = Schedule::new(Instant::now().checked_sub(late).unwrap(), 10_000, 3, 32);
        schedule.run(late + Duration::from_millis(5));
        let given: usize = schedule.connections.iter().map(|due| due.permits.available_permits()).sum();
        assert_eq!(given as u64, schedule.count(late + Duration::from_millis(5)));
    }
}
