//! Singleflight: concurrent requests with the same token share one validation.
//!
//! A validation that has been sent may already have been decided, and a session that ended since must be rejected. So a
//! request that arrives later does not join that validation. It waits for the next one, which all requests share that
//! have arrived in the meantime. It joins the current validation only if its `max_staleness` allows for the age of it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::cache::TokenDigest;
use crate::{Unavailable, ValidateOptions, Verdict};

/// The result of a validation.
pub(super) type ValidateResult = Result<Verdict, Unavailable>;
/// Requests with the same key can share a validation.
pub(super) type Key = (TokenDigest, ValidateOptions);

type Waiters = Vec<oneshot::Sender<ValidateResult>>;

/// The validations in progress.
#[derive(Default)]
pub(super) struct Singleflight(Mutex<HashMap<Key, Call>>);

struct Call {
    started: Instant,
    /// The requests that wait for the current validation.
    current: Waiters,
    /// The requests that wait for the next one.
    next: Waiters,
}

/// The part that a request has in a validation, with the receiver of the result.
pub(super) enum Joined {
    /// The request has to run the validation.
    Leader(oneshot::Receiver<ValidateResult>),
    /// Another request runs it.
    Follower(oneshot::Receiver<ValidateResult>),
}

impl Singleflight {
    /// Joins the current validation if it started at most `max_age` ago, or else the next one.
    pub(super) fn join(&self, key: Key, now: Instant, max_age: Duration) -> Joined {
        let (sender, receiver) = oneshot::channel();
        match self.lock().entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(Call { started: now, current: vec![sender], next: Vec::new() });
                Joined::Leader(receiver)
            }
            Entry::Occupied(mut call) => {
                let call = call.get_mut();
                let is_recent = !max_age.is_zero() && now.saturating_duration_since(call.started) <= max_age;
                if is_recent {
                    call.current.push(sender);
                } else {
                    call.next.push(sender);
                }
                Joined::Follower(receiver)
            }
        }
    }

    /// Sends the result to the requests that wait for the current validation. Returns whether others wait for the next
    /// one, which the leader has to run then.
    pub(super) fn complete(&self, key: &Key, result: &ValidateResult, now: Instant) -> bool {
        let mut calls = self.lock();
        let Some(call) = calls.get_mut(key) else { return false };
        let mut next = std::mem::take(&mut call.next);
        next.retain(|waiter| !waiter.is_closed());
        let has_next = !next.is_empty();
        call.started = now;
        let completed = std::mem::replace(&mut call.current, next);
        if !has_next {
            calls.remove(key);
        }
        drop(calls);
        for waiter in completed {
            let _ = waiter.send(result.clone());
        }
        has_next
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn result(message: &str) -> ValidateResult {
        Err(Unavailable::new(Code::Unavailable, message))
    }

    fn received(joined: Joined) -> Option<String> {
        let (Joined::Leader(mut receiver) | Joined::Follower(mut receiver)) = joined;
        receiver.try_recv().ok().map(|result| result.unwrap_err().message)
    }

    #[test]
    fn later_requests_share_the_next_validation() {
        let calls = Singleflight::default();
        let key = (TokenDigest::of("token"), ValidateOptions::default());
        let now = Instant::now();
        let first = calls.join(key, now, Duration::ZERO);
        assert!(matches!(first, Joined::Leader(_)));
        let second = calls.join(key, now, Duration::ZERO);
        let third = calls.join(key, now, Duration::ZERO);
        assert!(matches!((&second, &third), (Joined::Follower(_), Joined::Follower(_))));

        assert!(calls.complete(&key, &result("one"), now), "two requests wait for the next validation");
        assert_eq!(received(first).as_deref(), Some("one"));
        assert!(!calls.complete(&key, &result("two"), now));
        assert_eq!(received(second).as_deref(), Some("two"));
        assert_eq!(received(third).as_deref(), Some("two"));
        assert!(matches!(calls.join(key, now, Duration::ZERO), Joined::Leader(_)), "the call is removed");
    }

    #[test]
    fn requests_that_accept_a_stale_verdict_join_the_current_validation() {
        let calls = Singleflight::default();
        let key = (TokenDigest::of("token"), ValidateOptions::default());
        let (now, max_age) = (Instant::now(), Duration::from_secs(1));
        let _leader = calls.join(key, now, max_age);
        let recent = calls.join(key, now + max_age, max_age);
        let late = calls.join(key, now + max_age * 2, max_age);
        assert!(calls.complete(&key, &result("one"), now));
        assert_eq!(received(recent).as_deref(), Some("one"));
        assert_eq!(received(late), None);
    }

    #[test]
    fn no_validation_runs_for_cancelled_requests() {
        let calls = Singleflight::default();
        let key = (TokenDigest::of("token"), ValidateOptions::default());
        let now = Instant::now();
        let _leader = calls.join(key, now, Duration::ZERO);
        drop(calls.join(key, now, Duration::ZERO));
        assert!(!calls.complete(&key, &result("one"), now));
    }
}
