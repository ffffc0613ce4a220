//! Rate limit for log lines that every request would write during an outage.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_secs(10);

/// Admits one log line per interval.
pub(crate) struct LogLimiter(Mutex<Option<Instant>>);

impl LogLimiter {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns whether to write the line.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_is_admitted() {
        let (limiter, start) = (LogLimiter::new(), Instant::now());
        let admitted =
            [0, 1, 9, 10, 11, 25].map(|seconds| limiter.admits(start + Duration::from_secs(seconds)));
        assert_eq!(admitted, [true, false, false, true, false, true]);
    }
}
