//! A password that somebody presents, checked as an attempt that counts.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Engine, Error,
    origin::Origin,
    password::{Checked, Password, PasswordHash},
    throttle::Outcome,
    types::UserId,
    username::Username,
};

/// A password that somebody presents.
pub(super) struct Presented<'a> {
    /// Whose it is said to be; an id that nobody has, where the username is unknown.
    pub(super) user_id: &'a UserId,
    /// The name that was typed.
    pub(super) username: &'a Username,
    /// The password that was typed.
    pub(super) password: &'a Password,
    /// From where.
    pub(super) origin: &'a Origin,
}

impl Engine {
    /// Checks a password, once and as an attempt that counts.
    ///
    /// In a task of its own, so that a client which hangs up neither keeps the outcome from being
    /// recorded nor has it recorded as a failure. There are no more of these tasks than places in the
    /// queue of passwords: what finds none ends at once.
    pub(super) async fn try_password(
        &self,
        who: &Presented<'_>,
        stored: Option<&PasswordHash>,
    ) -> Result<Checked, Error> {
        let ticket = self.gate.begin(who.username, who.origin.address).await?;
        let (gate, passwords) = (Arc::clone(&self.gate), Arc::clone(&self.passwords));
        let (user_id, password, stored) = (who.user_id.clone(), who.password.clone(), stored.cloned());
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let checked = passwords.check(&user_id, &password, stored.as_ref()).await;
            let outcome = match &checked {
                Ok(Checked::Right { .. }) => {
                    // The user does not wait for us to forget earlier failures.
                    let _ = answer.send(checked);
                    return gate.finish(ticket, Outcome::Right).await;
                }
                Ok(Checked::Wrong) => Outcome::Wrong,
                Err(_) => Outcome::NotMade,
            };
            // Before the answer: the next attempt must find it.
            gate.finish(ticket, outcome).await;
            let _ = answer.send(checked);
        });
        answered.await.unwrap_or_else(|_| Err(Error::Internal("checking a password failed".into())))
    }
}
