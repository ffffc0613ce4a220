//! Counts how often limits are reached, and logs when that begins and ends.

use std::{
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Limit, RESOURCES, Resource, Scope};

/// Interval at which the counters are compared.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// A limit counts as no longer reached after this long.
const CALM_AFTER: Duration = Duration::from_secs(5);

const SCOPES: usize = Scope::ALL.len();

#[derive(Default)]
pub(super) struct UsageReport {
    refused: [[AtomicU64; SCOPES]; RESOURCES],
    evicted: AtomicU64,
    reset_floods: AtomicU64,
    /// The last client over a limit, for the log.
    last_client: Mutex<Option<IpAddr>>,
    states: Mutex<[[State; SCOPES]; RESOURCES]>,
}

/// Tracks whether a limit is being reached.
#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// The count at the last update.
    count: u64,
    /// The time at which it began, and the count before.
    since: Option<(Instant, u64)>,
    last_refusal: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Begins,
    Ends { refused: u64, after: Duration },
}

impl State {
    fn update(&mut self, refused: u64, now: Instant) -> Option<Change> {
        let before = std::mem::replace(&mut self.count, refused);
        if refused > before {
            self.last_refusal = Some(now);
            if self.since.is_none() {
                self.since = Some((now, before));
                return Some(Change::Begins);
            }
            return None;
        }
        let calm = self.last_refusal.is_some_and(|last| now.duration_since(last) >= CALM_AFTER);
        let (since, before) = self.since.filter(|_| calm)?;
        self.since = None;
        Some(Change::Ends { refused: refused - before, after: now.duration_since(since) })
    }
}

impl UsageReport {
    pub(super) fn count(&self, resource: Resource, scope: Scope, address: IpAddr) {
        self.refused[resource as usize][scope as usize].fetch_add(1, Ordering::Relaxed);
        if let Ok(mut last) = self.last_client.try_lock() {
            *last = Some(address);
        }
    }

    pub(super) fn count_evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_reset_flood(&self) {
        self.reset_floods.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, resource: Resource, scope: Scope) -> u64 {
        self.refused[resource as usize][scope as usize].load(Ordering::Relaxed)
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    pub(super) fn reset_floods(&self) -> u64 {
        self.reset_floods.load(Ordering::Relaxed)
    }

    /// Logs the limits that began or ceased to be reached since the last call.
    pub(super) fn log_changes(&self, limit: impl Fn(Resource) -> Limit) {
        let now = Instant::now();
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in Resource::ALL {
            for scope in Scope::ALL {
                let refused = self.refused(resource, scope);
                if let Some(change) = states[resource as usize][scope as usize].update(refused, now) {
                    self.log(resource, scope, limit(resource), &change);
                }
            }
        }
    }

    fn log(&self, resource: Resource, scope: Scope, limit: Limit, change: &Change) {
        let value = match scope {
            Scope::Total => limit.total,
            Scope::Client => limit.client,
            Scope::Connection => limit.connection,
        };
        let (resource, setting, scope) = (resource.name(), resource.setting(), scope.name());
        match change {
            Change::Begins => {
                let last = *self.last_client.lock().unwrap_or_else(PoisonError::into_inner);
                tracing::warn!(
                    limit.resource = resource,
                    limit.scope = scope,
                    limit.value = value,
                    limit.setting = setting,
                    client.address = last.map(tracing::field::display),
                    "a limit is reached; requests beyond it get an error"
                );
            }
            Change::Ends { refused, after } => tracing::warn!(
                limit.resource = resource,
                limit.scope = scope,
                refused,
                duration_s = after.as_secs(),
                "a limit is no longer reached"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_reached_is_logged_once_and_its_end_with_a_count() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut state = State::default();
        assert_eq!(state.update(0, at(0)), None);
        assert_eq!(state.update(10, at(1)), Some(Change::Begins));
        assert_eq!(state.update(20, at(2)), None);
        assert_eq!(state.update(20, at(5)), None, "a short pause does not end it");
        assert_eq!(state.update(30, at(6)), None);
        assert_eq!(state.update(30, at(10)), None);
        let end = Change::Ends { refused: 30, after: Duration::from_secs(10) };
        assert_eq!(state.update(30, at(11)), Some(end));
        assert_eq!(state.update(30, at(100)), None);
        assert_eq!(state.update(31, at(101)), Some(Change::Begins));
        let end = Change::Ends { refused: 1, after: Duration::from_secs(6) };
        assert_eq!(state.update(31, at(107)), Some(end));
    }
}
