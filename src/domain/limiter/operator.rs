//! What operators see of the throttle, and do to it.

use super::{LoginLimiter, Throttle, ThrottleKey, ThrottleRule};
use crate::domain::{
    Error,
    types::{Timestamp, UserId},
    username::Username,
};

/// How an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Failures in a row.
    pub failures: u32,
    /// Passwords that are being checked.
    pub under_way: usize,
    /// Nothing is let through until an operator ends it.
    pub stopped: bool,
    /// When the next attempt is let through, where that is not now.
    pub next_attempt_at: Option<Timestamp>,
}

impl LoginLimiter {
    /// Clears the failures of a name, and of the account that it finds: how many there were.
    pub(crate) async fn clear(&self, username: &Username, user_id: Option<&UserId>) -> Result<u32, Error> {
        let now = self.clock.now();
        let mut before = 0;
        for (key, rule) in self.of_account(username, user_id) {
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

    /// How an account stands: by its name, or by the other names that find it, whichever is worse.
    pub(crate) async fn standing(
        &self,
        username: &Username,
        user_id: Option<&UserId>,
    ) -> Result<Standing, Error> {
        let (now, rule) = (self.clock.now(), self.rules.account);
        let mut worst: Option<Throttle> = None;
        for (key, _) in self.of_account(username, user_id).into_iter().filter(|(_, of)| *of == rule) {
            let state = self.registers.load(&key).await?.state.at(rule, now);
            if worst.as_ref().is_none_or(|worst| worst.failures < state.failures) {
                worst = Some(state);
            }
        }
        let state = worst.unwrap_or_default();
        let next = state.next_attempt(rule);
        Ok(Standing {
            failures: state.failures,
            under_way: state.attempts.len(),
            stopped: state.is_locked(rule),
            next_attempt_at: Some(next).filter(|next| *next > now),
        })
    }

    fn of_account(&self, username: &Username, user_id: Option<&UserId>) -> Vec<(ThrottleKey, ThrottleRule)> {
        let account = self.rules.account;
        let found = user_id.map_or_else(|| ThrottleKey::nobody(username), ThrottleKey::user);
        let known = user_id.map(ThrottleKey::known_clients).zip(self.rules.known_clients());
        [(ThrottleKey::account(username), account), (found, account)].into_iter().chain(known).collect()
    }
}
