//! How long a wrong password takes, whatever it was checked against.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// No answer is held back for longer.
const LONGEST: Duration = Duration::from_secs(2);

/// Makes refusals of different work take the same time.
///
/// Each login attempt costs exactly one hash. Where that is a hash of another format or cost, its time
/// would tell that there is such an account: the decoy of an unknown user takes 20 ms, a PBKDF2 hash of
/// Django 300 ms, an old and weak one 1 ms. A second hash on top of a cheap one would not help against the
/// dear ones, and would let attackers spend our processors twice. So a refusal is held back instead, which
/// costs nothing: until the work of the usual kind would have been done, and until that of the other kinds,
/// as it was lately on average. A right password is never held back.
///
/// What stays visible: work that takes longer than that average, so accounts whose hashes are dearer than
/// those of most accounts that are not renewed yet; the very first checks after a start; and differences
/// below the noise of the machine, which take many attempts to measure.
#[derive(Debug, Default)]
pub(super) struct RefusalDelay {
    /// Microseconds for a hash as configured; 0 before the first.
    usual: AtomicU64,
    /// Microseconds for any other.
    other: AtomicU64,
    /// Microseconds for one of any kind.
    any: AtomicU64,
}

impl RefusalDelay {
    /// Some work took this long.
    pub(super) fn learn(&self, is_usual: bool, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for average in [if is_usual { &self.usual } else { &self.other }, &self.any] {
            let before = average.load(Ordering::Relaxed);
            let next = if before == 0 { took } else { before - before / 8 + took / 8 };
            // Two at once may count as one: it is an average.
            average.store(next, Ordering::Relaxed);
        }
    }

    /// How long a hash took lately, on average; zero before the first.
    pub(super) fn average(&self) -> Duration {
        Duration::from_micros(self.any.load(Ordering::Relaxed))
    }

    /// How long to hold back a refusal after work that took this long.
    pub(super) fn rest(&self, took: Duration) -> Duration {
        let slowest = self.usual.load(Ordering::Relaxed).max(self.other.load(Ordering::Relaxed));
        Duration::from_micros(slowest).min(LONGEST).saturating_sub(took)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LONGEST, RefusalDelay};

    const USUAL: Duration = Duration::from_millis(20);
    const DEAR: Duration = Duration::from_millis(300);

    #[test]
    fn refusals_take_the_time_of_the_slower_kind() {
        let pace = RefusalDelay::default();
        assert_eq!(pace.rest(USUAL), Duration::ZERO, "nothing is known yet");
        pace.learn(true, USUAL);
        assert_eq!(pace.rest(Duration::from_millis(1)), Duration::from_millis(19), "a cheap hash");
        assert_eq!(pace.rest(USUAL), Duration::ZERO);
        pace.learn(false, DEAR);
        assert_eq!(pace.rest(USUAL), Duration::from_millis(280), "a decoy, where others are dear");
        assert_eq!(pace.rest(DEAR), Duration::ZERO);
    }

    #[test]
    fn one_that_is_out_of_the_ordinary_changes_little() {
        let pace = RefusalDelay::default();
        (0..50).for_each(|_| pace.learn(true, USUAL));
        pace.learn(true, USUAL * 5);
        assert!(pace.rest(Duration::ZERO) < USUAL * 2);
        (0..50).for_each(|_| pace.learn(true, USUAL));
        assert!(pace.rest(Duration::ZERO) < USUAL + Duration::from_millis(1));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let pace = RefusalDelay::default();
        pace.learn(false, Duration::from_mins(1));
        assert_eq!(pace.rest(Duration::ZERO), LONGEST);
        pace.learn(false, Duration::MAX);
        pace.learn(false, Duration::MAX);
        assert_eq!(pace.rest(Duration::from_secs(3)), Duration::ZERO);
    }
}
