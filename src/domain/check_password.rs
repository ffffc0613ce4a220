//! A password that somebody presents, checked as an attempt that counts.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Engine, Error,
    audit::{self, Action, Entry},
    limiter::{Observation, Penalty},
    origin::Origin,
    password::{Checked, HashingTurn, Password, PasswordHash, Requester},
    sessions::{ClientMark, UserSessions},
    throttle::{Outcome, Subject},
    types::UserId,
    username::Username,
};

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
    Checked(Checked),
    /// Others on the same account are being checked. The turn was not used.
    Busy(HashingTurn),
}

impl Engine {
    /// Checks a password, once and as an attempt that counts.
    ///
    /// A client that hangs up while it waits leaves the queue, and nothing was counted. From its turn on, its attempt
    /// runs in a task of its own, so that hanging up neither keeps the outcome from being recorded nor has it
    /// recorded as a failure: a hash that has not begun by then is not begun, and the attempt is taken back; one that
    /// has begun counts.
    pub(super) async fn try_password(
        &self,
        who: &PresentedPassword<'_>,
        sessions: &UserSessions,
        stored: Option<&PasswordHash>,
    ) -> Result<Checked, Error> {
        let subject = self.subject(who, sessions, stored.is_some());
        let mut looked = self.gate.look(&subject).await?;
        let mut place = self.passwords.admit(Requester::from(who.origin))?;
        let mut line = None;
        loop {
            let turn = place.turn().await?;
            match self.attempt(turn, looked, who, stored).await? {
                Tried::Checked(checked) => return Ok(checked),
                Tried::Busy(turn) => place = turn.put_off(),
            }
            if line.is_none() {
                line = Some(self.gate.line(who.username).await);
            }
            looked = self.gate.until_free(&subject).await?;
        }
    }

    fn subject<'a>(&self, who: &PresentedPassword<'a>, sessions: &UserSessions, exists: bool) -> Subject<'a> {
        let mark = who.origin.address.map(|address| ClientMark::of(who.user_id, address));
        Subject {
            username: who.username,
            user_id: Some(who.user_id).filter(|_| exists),
            has_other_names: self.accounts.has_other_names(),
            address: who.origin.address,
            is_known: mark.is_some_and(|mark| sessions.knows(mark)),
            has_known_clients: sessions.knows_any(),
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
        let (gate, passwords) = (Arc::clone(&self.gate), Arc::clone(&self.passwords));
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
            let ticket = match gate.begin(looked).await {
                Ok(Some(ticket)) => ticket,
                Ok(None) => return drop(answer.send(Ok(Tried::Busy(turn)))),
                Err(error) => return drop(answer.send(Err(error))),
            };
            let is_wanted = move || waiting.strong_count() > 0;
            let stored = stored.as_ref().filter(|_| !ticket.is_for_nothing());
            let checked = passwords.check_in(turn, is_wanted, &user_id, &password, stored).await;
            let outcome = match &checked {
                Ok(Checked::Right { .. }) => {
                    // The user does not wait for us to forget earlier failures.
                    let _ = answer.send(checked.map(Tried::Checked));
                    gate.finish(ticket, Outcome::Right).await;
                    return;
                }
                Ok(Checked::Wrong) => Outcome::Wrong,
                Err(_) => Outcome::NotMade,
            };
            // Before the answer: the next attempt must find it.
            let action = match gate.finish(ticket, outcome).await {
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
}
