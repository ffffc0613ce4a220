//! Remembers commits that were acknowledged, to find out whether a primary has lost them.
//!
//! A replica that becomes the primary may lack the last commits, and so may a server that restarts. Each process
//! remembers its own commits, the latest of each register, and compares revisions on every new connection before it is
//! used. What a server lost is committed again, with its events, unless the register has changed since. So a lost
//! logout does not bring its session back, and a lost login stays the latest.
//!
//! Only a commit that was acknowledged by a process that has ended since, and that no replica has received, stays lost.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{domain::types::Timestamp, store::backend::EncodedChange};

/// The most memory for commits, approximately.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A commit is forgotten this long before the latest one. Replicas are seconds behind, not minutes.
const MAX_AGE: Duration = Duration::from_mins(10);

/// The memory of an entry besides its value and events.
const OVERHEAD: usize = 200;

/// A commit that was acknowledged.
#[derive(Debug, Clone)]
pub(super) struct RecentCommit {
    pub(super) key: Arc<str>,
    pub(super) change: Arc<EncodedChange>,
}

/// The latest acknowledged commit of each register.
#[derive(Default)]
pub(super) struct RecentCommits(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    by_key: HashMap<Arc<str>, (u64, Arc<EncodedChange>)>,
    /// In the order in which they were acknowledged. An entry counts only if `by_key` has its number.
    order: VecDeque<(u64, Instant, Arc<str>)>,
    last_number: u64,
    bytes: usize,
}

impl RecentCommits {
    /// Remembers a commit.
    pub(super) fn insert(&self, key: &str, change: EncodedChange, now: Instant) {
        let mut inner = self.lock();
        let known = inner.by_key.get(key).map(|(_, known)| known.value.revision);
        // Two commits may be acknowledged in another order than they were made.
        if known.is_some_and(|known| known >= change.value.revision) {
            return;
        }
        let key: Arc<str> = key.into();
        inner.last_number += 1;
        let number = inner.last_number;
        inner.bytes += size(&key, &change);
        if let Some((_, replaced)) = inner.by_key.insert(Arc::clone(&key), (number, Arc::new(change))) {
            inner.bytes -= size(&key, &replaced);
        }
        inner.order.push_back((number, now, key));
        inner.evict(now);
    }

    /// Returns the commits that a server must still have at `now`.
    pub(super) fn alive(&self, now: Timestamp) -> Vec<RecentCommit> {
        let inner = self.lock();
        let commits = inner.by_key.iter().filter(|(_, (_, change))| change.keep_until > now);
        commits
            .map(|(key, (_, change))| RecentCommit { key: Arc::clone(key), change: Arc::clone(change) })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn evict(&mut self, now: Instant) {
        while let Some((number, at, key)) = self.order.front() {
            let is_current = self.by_key.get(key).is_some_and(|(current, _)| current == number);
            if is_current && self.bytes <= MAX_BYTES && now.saturating_duration_since(*at) <= MAX_AGE {
                return;
            }
            if is_current && let Some((_, change)) = self.by_key.remove(key) {
                self.bytes -= size(key, &change);
            }
            self.order.pop_front();
        }
    }
}

fn size(key: &str, change: &EncodedChange) -> usize {
    OVERHEAD
        + key.len()
        + change.value.bytes.len()
        + change.events.iter().map(bytes::Bytes::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::EncodedValue;

    fn change(revision: u64, length: usize) -> EncodedChange {
        let value = EncodedValue { revision, bytes: vec![0; length].into() };
        EncodedChange { expected: 0, value, keep_until: Timestamp::from_micros(100), events: Vec::new() }
    }

    fn revisions(commits: &RecentCommits) -> Vec<(String, u64)> {
        let alive = commits.alive(Timestamp::from_micros(99));
        let mut alive: Vec<_> =
            alive.iter().map(|commit| (commit.key.to_string(), commit.change.value.revision)).collect();
        alive.sort();
        alive
    }

    #[test]
    fn the_latest_commit_of_each_register_is_remembered_while_it_matters() {
        let commits = RecentCommits::default();
        let start = Instant::now();
        for (key, revision) in [("a", 2), ("b", 1), ("a", 1), ("a", 5)] {
            commits.insert(key, change(revision, 10), start);
        }
        assert_eq!(revisions(&commits), [("a".to_owned(), 5), ("b".to_owned(), 1)]);
        assert_eq!(commits.alive(Timestamp::from_micros(100)).len(), 0, "the registers may be gone");

        commits.insert("c", change(1, 10), start + MAX_AGE + Duration::from_secs(1));
        assert_eq!(revisions(&commits), [("c".to_owned(), 1)]);
    }

    #[test]
    fn memory_is_bounded() {
        let commits = RecentCommits::default();
        let start = Instant::now();
        for number in 0..100_u64 {
            commits.insert(&format!("user {number:02}"), change(1, MAX_BYTES / 40), start);
            commits.insert("busy", change(number + 1, MAX_BYTES / 40), start);
        }
        let inner = commits.lock();
        assert!(inner.bytes <= MAX_BYTES && inner.bytes > MAX_BYTES / 2, "{}", inner.bytes);
        let total: usize = inner.by_key.iter().map(|(key, (_, change))| size(key, change)).sum();
        assert_eq!(inner.bytes, total);
        assert!(inner.by_key.contains_key("busy") && inner.by_key.contains_key("user 99"));
        assert!(inner.order.len() <= 100, "{}", inner.order.len());
    }
}
