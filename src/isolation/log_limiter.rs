//! Limits log lines that requests cause: the first are written, the rest are counted.
//!
//! During an outage every request fails for the same reason. A line for each would fill disks and hide other lines.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A series of equal events has ended when there was none for this long.
const SERIES_GAP: Duration = Duration::from_secs(10);
/// While a series lasts, its count is reported at this interval, and lines are written again.
const REPORT_INTERVAL: Duration = Duration::from_mins(1);

/// The limiters that have been used.
static IN_USE: Mutex<Vec<&'static LogLimiter>> = Mutex::new(Vec::new());

/// Limits the log lines of one kind of event. It must be a `static`.
#[derive(Debug)]
pub struct LogLimiter {
    event: &'static str,
    burst: u32,
    series: Mutex<Vec<Series>>,
}

/// Consecutive events about one subject.
#[derive(Debug)]
struct Series {
    subject: &'static str,
    written: u32,
    suppressed: u64,
    last_reported: Instant,
    last_written: Instant,
    last_event: Instant,
}

impl LogLimiter {
    /// The first `burst` events of each series are logged.
    pub const fn new(event: &'static str, burst: u32) -> Self {
        Self { event, burst, series: Mutex::new(Vec::new()) }
    }

    /// Returns whether to log an event about `subject`. Otherwise the event is counted.
    pub fn admits(&'static self, subject: &'static str) -> bool {
        self.admits_at(subject, Instant::now())
    }

    fn admits_at(&'static self, subject: &'static str, now: Instant) -> bool {
        let mut all = self.series();
        if all.is_empty() {
            let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
            if !in_use.iter().any(|limiter| std::ptr::eq(*limiter, self)) {
                in_use.push(self);
            }
        }
        let index = all.iter().position(|series| series.subject == subject).unwrap_or_else(|| {
            all.push(Series {
                subject,
                written: 0,
                suppressed: 0,
                last_reported: now,
                last_written: now,
                last_event: now,
            });
            all.len() - 1
        });
        let series = &mut all[index];
        let age = |at| now.saturating_duration_since(at);
        if age(series.last_event) >= SERIES_GAP || age(series.last_written) >= REPORT_INTERVAL {
            series.written = 0;
        }
        series.last_event = now;
        if series.written < self.burst {
            series.written += 1;
            series.last_written = now;
            return true;
        }
        series.suppressed += 1;
        false
    }

    /// Returns the counts to report now: subjects, and the number of suppressed events about each.
    fn take_counts(&self, now: Instant) -> Vec<(&'static str, u64)> {
        let mut counts = Vec::new();
        self.series().retain_mut(|series| {
            let ended = now.saturating_duration_since(series.last_event) >= SERIES_GAP;
            if ended || now.saturating_duration_since(series.last_reported) >= REPORT_INTERVAL {
                let suppressed = mem::take(&mut series.suppressed);
                if suppressed > 0 {
                    counts.push((series.subject, suppressed));
                }
                series.last_reported = now;
            }
            !ended
        });
        counts
    }

    fn series(&self) -> MutexGuard<'_, Vec<Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the numbers of suppressed events that are due. Called about every second.
pub fn report() {
    let limiters = IN_USE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for limiter in limiters {
        for (subject, suppressed) in limiter.take_counts(Instant::now()) {
            tracing::warn!(
                log.event = limiter.event,
                log.subject = subject,
                log.left_out = suppressed,
                "repeated log lines were suppressed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_events_of_a_series_are_logged_and_the_rest_are_counted() {
        static LIMITER: LogLimiter = LogLimiter::new("an event", 2);
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        let logged = (0..1000).filter(|_| LIMITER.admits_at("a", begun)).count();
        assert_eq!(logged, 2);
        assert!(LIMITER.admits_at("b", begun), "another subject has lines of its own");
        assert!(LIMITER.take_counts(at(9)).is_empty());
        assert_eq!(LIMITER.take_counts(at(10)), [("a", 998)]);
        assert!(LIMITER.admits_at("a", at(11)), "a later event begins another series");
        // The same holds if no counts are taken in between.
        assert!(LIMITER.admits_at("c", begun) && LIMITER.admits_at("c", begun));
        assert!(!LIMITER.admits_at("c", at(9)) && LIMITER.admits_at("c", at(19)));
        assert_eq!(LIMITER.take_counts(at(100)), [("c", 1)]);

        let lines = (12..=80).filter(|secs| LIMITER.admits_at("a", at(*secs))).count();
        assert_eq!(lines, 2 + 2, "a long series is logged again every minute");
        assert_eq!(LIMITER.take_counts(at(80)), [("a", 65)], "and its count is reported");
        assert!(LIMITER.take_counts(at(200)).is_empty(), "there is nothing to add");
    }
}
