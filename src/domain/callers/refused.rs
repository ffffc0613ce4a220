//! Calls that were refused, in the audit trail: all of them while they are few, and how many when they are
//! not, so that a flood of bad keys does not flood the trail.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::domain::{
    Engine, Error,
    audit::{Action, Entry, Outcome},
    origin::Origin,
    types::Timestamp,
};

/// How long is counted before there are entries again.
const WINDOW: Duration = Duration::from_mins(1);
/// So many entries in a window; what comes after them is counted.
const ENTRIES: u32 = 20;

/// What has been refused of late. One count for those that nobody knows and one for those that somebody
/// does, so that a flood of the first does not hide the second.
#[derive(Debug, Default)]
pub struct Refusals([Mutex<Window>; 2]);

#[derive(Debug, Default)]
struct Window {
    since: Timestamp,
    entries: u32,
    held_back: u64,
    reason: &'static str,
}

impl Window {
    /// Whether this one becomes an entry.
    fn admit(&mut self, reason: &'static str) -> bool {
        self.reason = reason;
        if self.entries < ENTRIES {
            self.entries += 1;
            return true;
        }
        self.held_back += 1;
        false
    }

    /// Begins anew once it is over: how many it held back.
    fn turn(&mut self, now: Timestamp) -> Option<u64> {
        if now.since(self.since) < WINDOW && now >= self.since {
            return None;
        }
        let held_back = self.held_back;
        *self = Self { since: now, entries: 0, held_back: 0, reason: self.reason };
        Some(held_back).filter(|count| *count > 0)
    }
}

impl Engine {
    /// Records that a call of `method` was refused with this error.
    pub fn call_refused(&self, error: &Error, origin: &Origin, method: &str) {
        let window = &self.refusals.0[usize::from(origin.caller.is_some())];
        let now = self.clock.now();
        let (before, told) = {
            let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
            (window.turn(now).map(|count| (count, window.reason)), window.admit(error.reason()))
        };
        self.summarise(before, now);
        if told {
            let entry = Entry::new(now, Action::Call, Outcome::of(error), origin);
            self.audit.record(entry.detail(format!("method: {method}")));
        }
    }

    /// Records how many calls were refused without an entry of their own, once a minute at the most.
    pub fn tell_refused_calls(&self) {
        let now = self.clock.now();
        for window in &self.refusals.0 {
            let before = {
                let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
                window.turn(now).map(|count| (count, window.reason))
            };
            self.summarise(before, now);
        }
    }

    fn summarise(&self, held_back: Option<(u64, &'static str)>, now: Timestamp) {
        if let Some((count, reason)) = held_back {
            let entry = Entry::new(now, Action::Call, Outcome::Refused(reason), &Origin::default());
            self.audit.record(entry.detail(format!("{count} more were refused, and have no entries")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_entries_and_a_count() {
        let mut window = Window::default();
        let begun = Timestamp::from_secs(1_000_000);
        assert_eq!(window.turn(begun), None);
        let told = (0..1000).filter(|_| window.admit("X")).count();
        assert_eq!(told, 20);
        assert_eq!(window.turn(begun.after(Duration::from_secs(59))), None);
        assert_eq!(window.turn(begun.after(Duration::from_mins(1))), Some(980));
        assert!(window.admit("X"), "the next minute has entries again");
        assert_eq!(window.turn(begun.after(Duration::from_secs(121))), None, "there is nothing to add");
        window.admit("X");
        assert_eq!(window.turn(begun), None, "a clock that steps back begins a new minute");
        assert_eq!(window.entries, 0);
    }
}
