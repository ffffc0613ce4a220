//! Checks presented passwords as attempts of the login limiter, and hashes new ones.
//!
//! From its turn in the password queue on, an attempt runs in a task of its own, so a client that hangs up does not
//! change how it counts. Before its turn, nothing is recorded. Then the attempt is taken back if its hash has not
//! begun; otherwise it counts.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::{
    Error, Violation,
    audit::{self, Action, Entry, LimitedAudit},
    limiter::{Begun, LoginLimiter, Observation, Penalty, ThrottleStatus},
    origin::Origin,
    password::{HashingTurn, NewPassword, Password, PasswordCheck, PasswordHash, Passwords, Requester},
    ports::{Accounts, Clock},
    sessions::{ClientMark, UserSessions},
    throttle::{Outcome, Subject},
    types::UserId,
    username::Username,
};
use crate::{isolation::log_limiter::LogLimiter, trace};

/// A password that a client presents for a user.
pub(super) struct PresentedPassword<'a> {
    /// The id of the account; an id that nobody has if the username is unknown.
    pub(super) user_id: &'a UserId,
    pub(super) username: &'a Username,
    pub(super) password: &'a Password,
    pub(super) origin: &'a Origin,
}

/// The result of an attempt.
enum Attempted {
    /// The password was checked.
    Checked(PasswordCheck),
    /// Other attempts on the same account are in progress. The turn was not used.
    Busy(HashingTurn),
}

/// Checks and hashes passwords.
pub struct PasswordService {
    hasher: Arc<Passwords>,
    limiter: Arc<LoginLimiter>,
    accounts: Arc<dyn Accounts>,
    audit: LimitedAudit,
    clock: Arc<dyn Clock>,
}

impl PasswordService {
    /// Creates the service.
    pub fn new(
        hasher: Passwords,
        limiter: LoginLimiter,
        accounts: Arc<dyn Accounts>,
        audit: LimitedAudit,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { hasher: Arc::new(hasher), limiter: Arc::new(limiter), accounts, audit, clock }
    }

    /// The hashing threads and their queue.
    pub fn hasher(&self) -> &Passwords {
        &self.hasher
    }

    /// Checks a new password of a user against the policy.
    pub(super) fn check_policy(
        &self,
        password: NewPassword,
        username: &Username,
    ) -> Result<Password, Violation> {
        self.hasher.policy().check(password, username)
    }

    pub(super) async fn hash(&self, password: Password) -> Result<PasswordHash, Error> {
        trace::step("password hash", self.hasher.hash(password)).await
    }

    /// Forgets the failures of a username and of its account; returns how many there were.
    pub(super) async fn clear_failures(
        &self,
        username: &Username,
        user_id: Option<&UserId>,
    ) -> Result<u32, Error> {
        self.limiter.clear(username, user_id).await
    }

    /// The state of a username in the login limiter.
    pub(super) async fn throttle_status(&self, username: &Username) -> Result<ThrottleStatus, Error> {
        let has_other_names = self.accounts.has_other_names();
        let found = if has_other_names { self.accounts.find(username).await? } else { None };
        self.limiter.status(username, found.map(|account| account.user_id).as_ref()).await
    }

    /// Checks a password as one attempt.
    pub(super) async fn check(
        &self,
        presented: &PresentedPassword<'_>,
        sessions: &UserSessions,
        stored: Option<&PasswordHash>,
    ) -> Result<PasswordCheck, Error> {
        let subject = self.subject(presented, sessions, stored.is_some());
        let mut observation = self.limiter.observe(&subject).await?;
        let mut place = self.hasher.admit(Requester::from(presented.origin))?;
        let mut queued = None;
        loop {
            let turn = trace::step("password queue", place.turn()).await?;
            match self.attempt(turn, observation, presented, stored).await? {
                Attempted::Checked(checked) => return Ok(checked),
                Attempted::Busy(turn) => place = turn.release(),
            }
            if queued.is_none() {
                queued = Some(self.limiter.queue(presented.username).await);
            }
            observation = self.limiter.wait_until_free(&subject).await?;
        }
    }

    fn subject<'a>(
        &self,
        presented: &PresentedPassword<'a>,
        sessions: &UserSessions,
        exists: bool,
    ) -> Subject<'a> {
        let PresentedPassword { user_id, username, origin, .. } = *presented;
        let mark = origin.address.map(|address| ClientMark::of(user_id, address));
        Subject {
            username,
            user_id: Some(user_id).filter(|_| exists),
            has_other_names: self.accounts.has_other_names(),
            address: origin.address,
            is_known: mark.is_some_and(|mark| sessions.is_known_client(mark)),
            has_known_clients: sessions.has_known_clients(),
        }
    }

    /// Makes one attempt with a turn of the password queue.
    async fn attempt(
        &self,
        turn: HashingTurn,
        observation: Observation,
        presented: &PresentedPassword<'_>,
        stored: Option<&PasswordHash>,
    ) -> Result<Attempted, Error> {
        let (limiter, hasher) = (Arc::clone(&self.limiter), Arc::clone(&self.hasher));
        let (audit, clock, origin) = (self.audit.clone(), Arc::clone(&self.clock), presented.origin.clone());
        let (username, exists) = (presented.username.clone(), stored.is_some());
        let (user_id, password) = (presented.user_id.clone(), presented.password.clone());
        let stored = stored.cloned();
        let (sender, receiver) = oneshot::channel();
        // Dropped together with the request that waits.
        let request = Arc::new(());
        let waiting = Arc::downgrade(&request);
        let attempt = async move {
            if waiting.strong_count() == 0 {
                return;
            }
            let permit = match limiter.begin(observation).await {
                Ok(Begun::Permitted(permit)) => permit,
                Ok(Begun::Busy) => return drop(sender.send(Ok(Attempted::Busy(turn)))),
                Err(error) => return drop(sender.send(Err(error))),
            };
            let is_wanted = move || waiting.strong_count() > 0;
            let stored = stored.as_ref().filter(|_| !permit.must_fail());
            let checked = hasher.check_in(turn, is_wanted, &user_id, &password, stored);
            let checked = trace::step("password hash", checked).await;
            let outcome = match &checked {
                Ok(PasswordCheck::Right { .. }) => {
                    // The user does not wait until earlier failures are cleared.
                    let _ = sender.send(checked.map(Attempted::Checked));
                    limiter.finish(permit, Outcome::Right).await;
                    return;
                }
                Ok(PasswordCheck::Wrong) => Outcome::Wrong,
                Err(_) => Outcome::NotChecked,
            };
            // Recorded before the answer, so that the next attempt finds it.
            let action = match limiter.finish(permit, outcome).await {
                Penalty::Nothing => None,
                Penalty::Slowed => Some(Action::AccountSlowed),
                Penalty::Locked => Some(Action::AccountLocked),
            };
            if let Some(action) = action {
                let entry = Entry::new(clock.now(), action, audit::Outcome::Done, &origin);
                audit.record(entry.of_login(Some(&user_id).filter(|_| exists), &username, None));
            }
            let _ = sender.send(checked.map(Attempted::Checked));
        };
        tokio::spawn(attempt.in_current_span());
        let result = receiver.await;
        drop(request);
        result.unwrap_or_else(|_| Err(Error::Internal("the task that checked a password has failed".into())))
    }

    /// Replaces an outdated hash by one of the configured format and cost, in the background. While the hashing threads
    /// are busy, it is left to the next login.
    pub(super) fn renew(&self, presented: &PresentedPassword<'_>, old: &PasswordHash) {
        if !self.accounts.renews_hashes() {
            return;
        }
        let Some(renewed) = self.hasher.renew(presented.password, old) else { return };
        let (accounts, old) = (Arc::clone(&self.accounts), old.clone());
        let (username, user_id) = (presented.username.clone(), presented.user_id.clone());
        tokio::spawn(async move {
            let outcome = match renewed.await {
                Ok(new) => accounts.rehash(&username, &user_id, &old, &new).await.map_err(Error::from),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                static NOT_RENEWED: LogLimiter = LogLimiter::new("failed to renew a password hash", 5);
                if NOT_RENEWED.admits("") {
                    tracing::warn!(user.id = %user_id, error.message = %error, "failed to renew a password hash; the next login tries again");
                }
            }
        });
    }
}
