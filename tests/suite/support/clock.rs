//! A clock that is set by hand, so that no test waits for time to pass.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use latchkey::domain::{ports::Clock, types::Timestamp};

/// Begins at the present, because Redis expires keys by its own clock.
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the clock begins at the present")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self(AtomicU64::new(u64::try_from(now.as_micros()).unwrap()))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub fn set_back(&self, by: Duration) {
        self.0.fetch_sub(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        // Each reading moves the clock a microsecond on, as real time would.
        Timestamp::from_micros(self.0.fetch_add(1, Ordering::SeqCst))
    }
}
