//! A password that somebody presents, checked as an attempt that counts.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Error, Violation,
    audit::{self, Action, Entry, LimitedAudit},
    limiter::{LoginLimiter, Observation, Penalty, Standing},
    origin::Origin,
    password::{HashingTurn, NewPassword, Password, PasswordCheck, PasswordHash, Passwords, Requester},
    ports::{Accounts, Clock},
    sessions::{ClientMark, UserSessions},
    throttle::{Outcome, Subject},
    types::UserId,
    username::Username,
};
use crate::isolation::log_limiter::LogLimiter;

/// A password that somebody presents.
pub(super) struct PresentedPassword<'a> {
    /// Whose it is said to be; an id that nobody has, where the username is unknown.
    pub(super) user_id: &'a UserId,
    /// The name that was typed.
    pub(super) username: &'a Username,
    /// The password that was typed.
    pub(super) password: &'a Password,
    /// From where.
    pub(super) origin: &'a Origin,
}

/// What became of an attempt.
enum Tried {
    /// The password was checked.
    Checked(PasswordCheck),
    /// Others on the same account are being checked. The turn was not used.
    Busy(HashingTurn),
}

/// Checks passwords as attempts that are counted, and hashes new ones.
pub struct PasswordService {
    hasher: Arc<Passwords>,
    limiter: Arc<LoginLimiter>,
    accounts: Arc<dyn Accounts>,
    audit: LimitedAudit,
    clock: Arc<dyn Clock>,
}

impl PasswordService {
    /// A service that hashes with `hasher` and limits attempts by `limiter`.
    pub fn new(
        hasher: Passwords,
        limiter: LoginLimiter,
        accounts: Arc<dyn Accounts>,
        audit: LimitedAudit,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { hasher: Arc::new(hasher), limiter: Arc::new(limiter), accounts, audit, clock }
    }

    /// The threads that hash.
    pub fn hasher(&self) -> &Passwords {
        &self.hasher
    }

    /// Checks that a password may be a new one of this user.
    pub(super) fn check_policy(
        &self,
        password: NewPassword,
        username: &Username,
    ) -> Result<Password, Violation> {
        self.hasher.policy().check(password, username)
    }

    pub(super) async fn hash(&self, password: Password) -> Result<PasswordHash, Error> {
        self.hasher.hash(password).await
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
    pub(super) async fn standing(&self, username: &Username) -> Result<Standing, Error> {
        let others = self.accounts.has_other_names();
        let found = if others { self.accounts.find(username).await? } else { None };
        self.limiter.standing(username, found.map(|account| account.user_id).as_ref()).await
    }

    /// Checks a password, once and as an attempt that counts.
    ///
    /// A client that hangs up while it waits leaves the queue, and nothing was counted. From its turn on, its attempt
    /// runs in a task of its own, so that hanging up neither keeps the outcome from being recorded nor has it
    /// recorded as a failure: a hash that has not begun by then is not begun, and the attempt is taken back; one that
    /// has begun counts.
    pub(super) async fn check(
        &self,
        who: &PresentedPassword<'_>,
        sessions: &UserSessions,
        stored: Option<&PasswordHash>,
    ) -> Result<PasswordCheck, Error> {
        let subject = self.subject(who, sessions, stored.is_some());
        let mut looked = self.limiter.look(&subject).await?;
        let mut place = self.hasher.admit(Requester::from(who.origin))?;
        let mut line = None;
        loop {
            let turn = place.turn().await?;
            match self.attempt(turn, looked, who, stored).await? {
                Tried::Checked(checked) => return Ok(checked),
                Tried::Busy(turn) => place = turn.release(),
            }
            if line.is_none() {
                line = Some(self.limiter.line(who.username).await);
            }
            looked = self.limiter.until_free(&subject).await?;
        }
    }

    fn subject<'a>(&self, who: &PresentedPassword<'a>, sessions: &UserSessions, exists: bool) -> Subject<'a> {
        let mark = who.origin.address.map(|address| ClientMark::of(who.user_id, address));
        Subject {
            username: who.username,
            user_id: Some(who.user_id).filter(|_| exists),
            has_other_names: self.accounts.has_other_names(),
            address: who.origin.address,
            is_known: mark.is_some_and(|mark| sessions.is_known_client(mark)),
            has_known_clients: sessions.has_known_clients(),
        }
    }

    /// Checks a password in its turn.
    async fn attempt(
        &self,
        turn: HashingTurn,
        looked: Observation,
        who: &PresentedPassword<'_>,
        stored: Option<&PasswordHash>,
    ) -> Result<Tried, Error> {
        let (limiter, hasher) = (Arc::clone(&self.limiter), Arc::clone(&self.hasher));
        let (audit, clock, origin) = (self.audit.clone(), Arc::clone(&self.clock), who.origin.clone());
        let (username, exists) = (who.username.clone(), stored.is_some());
        let (user_id, password, stored) = (who.user_id.clone(), who.password.clone(), stored.cloned());
        let (answer, answered) = oneshot::channel();
        // Dropped with whoever waits for the answer.
        let waits = Arc::new(());
        let waiting = Arc::downgrade(&waits);
        tokio::spawn(async move {
            if waiting.strong_count() == 0 {
                return;
            }
            let ticket = match limiter.begin(looked).await {
                Ok(Some(ticket)) => ticket,
                Ok(None) => return drop(answer.send(Ok(Tried::Busy(turn)))),
                Err(error) => return drop(answer.send(Err(error))),
            };
            let is_wanted = move || waiting.strong_count() > 0;
            let stored = stored.as_ref().filter(|_| !ticket.is_for_nothing());
            let checked = hasher.check_in(turn, is_wanted, &user_id, &password, stored).await;
            let outcome = match &checked {
                Ok(PasswordCheck::Right { .. }) => {
                    // The user does not wait for us to forget earlier failures.
                    let _ = answer.send(checked.map(Tried::Checked));
                    limiter.finish(ticket, Outcome::Right).await;
                    return;
                }
                Ok(PasswordCheck::Wrong) => Outcome::Wrong,
                Err(_) => Outcome::NotChecked,
            };
            // Before the answer: the next attempt must find it.
            let action = match limiter.finish(ticket, outcome).await {
                Penalty::Nothing => None,
                Penalty::Slowed => Some(Action::AccountSlowed),
                Penalty::Locked => Some(Action::AccountLocked),
            };
            if let Some(action) = action {
                let entry = Entry::new(clock.now(), action, audit::Outcome::Done, &origin);
                audit.record(entry.of_login(Some(&user_id).filter(|_| exists), &username, None));
            }
            let _ = answer.send(checked.map(Tried::Checked));
        });
        let outcome = answered.await;
        drop(waits);
        outcome.unwrap_or_else(|_| Err(Error::Internal("checking a password failed".into())))
    }

    /// Brings a hash to the configured kind and cost, in the background: no login fails with it, and none
    /// gives up its place for it. Where the threads are busy it is left to the next login.
    pub(super) fn renew(&self, who: &PresentedPassword<'_>, old: &PasswordHash) {
        if !self.accounts.renews_hashes() {
            return;
        }
        let Some(renewed) = self.hasher.renew(who.password, old) else { return };
        let (accounts, old) = (Arc::clone(&self.accounts), old.clone());
        let (username, user_id) = (who.username.clone(), who.user_id.clone());
        tokio::spawn(async move {
            let outcome = match renewed.await {
                Ok(new) => accounts.rehash(&username, &user_id, &old, &new).await.map_err(Error::from),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                static UNRENEWED: LogLimiter = LogLimiter::new("a password hash could not be renewed", 5);
                if UNRENEWED.admits("") {
                    tracing::warn!(user.id = %user_id, error.message = %error, "a password hash could not be renewed; the next login tries again");
                }
            }
        });
    }
}
