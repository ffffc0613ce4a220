//! The refusal delay: a wrong password takes the same time, whatever it was checked against.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The longest delay.
const LONGEST: Duration = Duration::from_secs(2);

/// Holds back the answers to wrong passwords, so that their duration does not reveal which hash was checked.
///
/// Each login attempt costs exactly one hash. If the stored hash has another format or cost than new ones, its duration
/// would reveal that the account exists: the decoy of an unknown user may take 20 ms, a PBKDF2 hash of Django 300 ms,
/// and an old, weak hash 1 ms. A second hash after a cheap one would not hide expensive ones, and attackers could make
/// the server do twice the work. Delaying the answer costs nothing: it is sent when a hash as configured and a hash of
/// another kind would be done, by their recent averages. A right password is never delayed.
///
/// Some differences remain visible: work that takes longer than these averages, which concerns accounts whose hashes
/// are more expensive than most of those not renewed yet; the first checks after a start; and differences below the
/// noise of the machine, which take many attempts to measure.
#[derive(Debug, Default)]
pub(super) struct RefusalDelay {
    /// The average duration of a hash as configured, in microseconds; 0 before the first one.
    usual: AtomicU64,
    /// The average duration of any other hash, in microseconds.
    other: AtomicU64,
    /// The average duration of all hashes, in microseconds.
    any: AtomicU64,
}

impl RefusalDelay {
    /// Records the duration of a hash.
    pub(super) fn record(&self, is_usual: bool, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for average in [if is_usual { &self.usual } else { &self.other }, &self.any] {
            let before = average.load(Ordering::Relaxed);
            let next = if before == 0 { took } else { before - before / 8 + took / 8 };
            // A concurrent update may be lost, which is acceptable for an average.
            average.store(next, Ordering::Relaxed);
        }
    }

    /// The recent average duration of a hash; zero before the first one.
    pub(super) fn average(&self) -> Duration {
        Duration::from_micros(self.any.load(Ordering::Relaxed))
    }

    /// How long to delay the answer after a hash of this duration.
    pub(super) fn after(&self, took: Duration) -> Duration {
        let slowest = self.usual.load(Ordering::Relaxed).max(self.other.load(Ordering::Relaxed));
        Duration::from_micros(slowest).min(LONGEST).saturating_sub(took)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LONGEST, RefusalDelay};

    const USUAL: Duration = Duration::from_millis(20);
    const EXPENSIVE: Duration = Duration::from_millis(300);

    #[test]
    fn refusals_take_as_long_as_the_slower_kind() {
        let delay = RefusalDelay::default();
        assert_eq!(delay.after(USUAL), Duration::ZERO, "nothing is known yet");
        delay.record(true, USUAL);
        assert_eq!(delay.after(Duration::from_millis(1)), Duration::from_millis(19), "a cheap hash");
        assert_eq!(delay.after(USUAL), Duration::ZERO);
        delay.record(false, EXPENSIVE);
        assert_eq!(delay.after(USUAL), Duration::from_millis(280), "a decoy beside expensive hashes");
        assert_eq!(delay.after(EXPENSIVE), Duration::ZERO);
    }

    #[test]
    fn an_outlier_changes_the_delay_little() {
        let delay = RefusalDelay::default();
        (0..50).for_each(|_| delay.record(true, USUAL));
        delay.record(true, USUAL * 5);
        assert!(delay.after(Duration::ZERO) < USUAL * 2);
        (0..50).for_each(|_| delay.record(true, USUAL));
        assert!(delay.after(Duration::ZERO) < USUAL + Duration::from_millis(1));
    }

    #[test]
    fn the_delay_is_limited() {
        let delay = RefusalDelay::default();
        delay.record(false, Duration::from_mins(1));
        assert_eq!(delay.after(Duration::ZERO), LONGEST);
        delay.record(false, Duration::MAX);
        delay.record(false, Duration::MAX);
        assert_eq!(delay.after(Duration::from_secs(3)), Duration::ZERO);
    }
}
