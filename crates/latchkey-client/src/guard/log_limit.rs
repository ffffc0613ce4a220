//! Log lines of an outage, of which every request would cause one.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one line through in each interval.
pub(super) struct LogLimit(Mutex<Option<Instant>>);

impl LogLimit {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether to write the line that `now` gives occasion to.
    pub(super) fn admits(&self, now: Instant) -> bool {
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
    fn one_line_in_each_interval_is_admitted() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        let admitted =
            [0, 1, 9, 10, 11, 25].map(|seconds| limit.admits(start + Duration::from_secs(seconds)));
        assert_eq!(admitted, [true, false, false, true, false, true]);
    }
}
