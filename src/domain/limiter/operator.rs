//! The view of operators: the throttle of a username, and unlocking it.

use super::{LoginLimiter, Throttle, ThrottleKey, ThrottleRule};
use crate::domain::{
    Error,
    types::{Timestamp, UserId},
    username::Username,
};

/// The state of a username in the login limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottleStatus {
    /// The number of failures in a row.
    pub failures: u32,
    /// The number of attempts in progress.
    pub attempts: usize,
    /// The username is locked until an operator unlocks it.
    pub locked: bool,
    /// The time of the next possible attempt, if none is possible now.
    pub next_attempt_at: Option<Timestamp>,
}

impl LoginLimiter {
    /// Clears the failures of a username and of its account. Returns how many there were.
    pub(in crate::domain) async fn clear(
        &self,
        username: &Username,
        user_id: Option<&UserId>,
    ) -> Result<u32, Error> {
        let now = self.clock.now();
        let mut before = 0;
        for (key, rule) in self.registers_of(username, user_id) {
            let read = self.registers.load(&key).await?;
            before = before.max(read.state.at(rule, now).failures);
            let clear = |state: &Throttle, now| {
                let failed = state.at(rule, now).failures > 0;
                failed.then(|| state.cleared(rule, now))
            };
            self.change(&key, rule, read, clear).await?;
        }
        Ok(before)
    }

    /// The state of a username. If its account can be found by other usernames, this is the state with more failures.
    pub(in crate::domain) async fn status(
        &self,
        username: &Username,
        user_id: Option<&UserId>,
    ) -> Result<ThrottleStatus, Error> {
        let (now, rule) = (self.clock.now(), self.rules.account);
        let mut worst: Option<Throttle> = None;
        for (key, _) in self.registers_of(username, user_id).into_iter().filter(|(_, of)| *of == rule) {
            let state = self.registers.load(&key).await?.state.at(rule, now);
            if worst.as_ref().is_none_or(|worst| worst.failures < state.failures) {
                worst = Some(state);
            }
        }
        let state = worst.unwrap_or_default();
        let next = state.next_attempt(rule);
        Ok(ThrottleStatus {
            failures: state.failures,
            attempts: state.attempts.len(),
            locked: state.is_locked(rule),
            next_attempt_at: Some(next).filter(|next| *next > now),
        })
    }

    fn registers_of(
        &self,
        username: &Username,
        user_id: Option<&UserId>,
    ) -> Vec<(ThrottleKey, ThrottleRule)> {
        let account = self.rules.account;
        let found = user_id.map_or_else(|| ThrottleKey::nobody(username), ThrottleKey::user);
        let known = user_id.map(ThrottleKey::known_clients).zip(self.rules.known_clients());
        [(ThrottleKey::account(username), account), (found, account)].into_iter().chain(known).collect()
    }
}
