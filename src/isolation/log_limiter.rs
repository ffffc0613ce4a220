//! Log lines that requests cause: the first are written, the rest are counted.
//!
//! During an outage every request fails for the same reason. A line for each would say no more than the first one,
//! fill disks and push out what matters.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A row of equal events is over when there was none for this long.
const QUIET: Duration = Duration::from_secs(10);
/// While it goes on, the count is reported this often, and lines are written again.
const INTERVAL: Duration = Duration::from_mins(1);

/// Those that have been used.
static IN_USE: Mutex<Vec<&'static LogLimiter>> = Mutex::new(Vec::new());

/// Limits the lines of one kind of event. Make it a `static`.
#[derive(Debug)]
pub struct LogLimiter {
    event: &'static str,
    burst: u32,
    rows: Mutex<Vec<Row>>,
}

/// Equal events about one subject, in a row.
#[derive(Debug)]
struct Row {
    subject: &'static str,
    written: u32,
    left_out: u64,
    /// When the count was last reported.
    reported: Instant,
    /// When there was last a line.
    lined: Instant,
    last: Instant,
}

impl LogLimiter {
    /// Of each row of events, the first `burst` get a line of their own.
    pub const fn new(event: &'static str, burst: u32) -> Self {
        Self { event, burst, rows: Mutex::new(Vec::new()) }
    }

    /// Whether an event about `subject` gets a line of its own. Otherwise it is counted.
    pub fn admits(&'static self, subject: &'static str) -> bool {
        self.admits_at(subject, Instant::now())
    }

    fn admits_at(&'static self, subject: &'static str, now: Instant) -> bool {
        let mut rows = self.rows();
        if rows.is_empty() {
            let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
            if !in_use.iter().any(|limiter| std::ptr::eq(*limiter, self)) {
                in_use.push(self);
            }
        }
        let at = rows.iter().position(|row| row.subject == subject).unwrap_or_else(|| {
            rows.push(Row { subject, written: 0, left_out: 0, reported: now, lined: now, last: now });
            rows.len() - 1
        });
        let row = &mut rows[at];
        let age = |at| now.saturating_duration_since(at);
        if age(row.last) >= QUIET || age(row.lined) >= INTERVAL {
            row.written = 0;
        }
        row.last = now;
        if row.written < self.burst {
            row.written += 1;
            row.lined = now;
            return true;
        }
        row.left_out += 1;
        false
    }

    /// What is to be reported now: subjects, and how many events about them have no line.
    fn due(&self, now: Instant) -> Vec<(&'static str, u64)> {
        let mut due = Vec::new();
        self.rows().retain_mut(|row| {
            let over = now.saturating_duration_since(row.last) >= QUIET;
            if over || now.saturating_duration_since(row.reported) >= INTERVAL {
                let left_out = mem::take(&mut row.left_out);
                if left_out > 0 {
                    due.push((row.subject, left_out));
                }
                row.reported = now;
            }
            !over
        });
        due
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs how many events had no line of their own, where that is due. To be called every second or so.
pub fn report() {
    let limiters = IN_USE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for limiter in limiters {
        for (subject, left_out) in limiter.due(Instant::now()) {
            tracing::warn!(
                log.event = limiter.event,
                log.subject = subject,
                log.left_out = left_out,
                "the same happened again and again; further lines were left out"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_and_the_rest_are_counted_until_it_is_over() {
        static LIMITER: LogLimiter = LogLimiter::new("an event", 2);
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        let logged = (0..1000).filter(|_| LIMITER.admits_at("a", begun)).count();
        assert_eq!(logged, 2);
        assert!(LIMITER.admits_at("b", begun), "another subject has lines of its own");
        assert!(LIMITER.due(at(9)).is_empty());
        assert_eq!(LIMITER.due(at(10)), [("a", 998)]);
        assert!(LIMITER.admits_at("a", at(11)), "what happens later is another row");
        // Also where nobody asks what is due.
        assert!(LIMITER.admits_at("c", begun) && LIMITER.admits_at("c", begun));
        assert!(!LIMITER.admits_at("c", at(9)) && LIMITER.admits_at("c", at(19)));
        assert_eq!(LIMITER.due(at(100)), [("c", 1)]);

        let lines = (12..=80).filter(|secs| LIMITER.admits_at("a", at(*secs))).count();
        assert_eq!(lines, 2 + 2, "what goes on has fresh lines every minute");
        assert_eq!(LIMITER.due(at(80)), [("a", 65)], "and its count is reported");
        assert!(LIMITER.due(at(200)).is_empty(), "there is nothing to add");
    }
}
