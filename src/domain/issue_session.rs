//! `IssueSession`: a session for a user whom a trusted service has authenticated itself.

use super::{
    Engine, Error,
    accounts::AccountKey,
    audit::Action,
    login::{LoggedIn, SessionRequest},
    open_session::Proof,
    origin::Origin,
    types::UserId,
};

impl Engine {
    /// Opens a session without a password: the same as a login in everything else.
    pub async fn issue_session(
        &self,
        subject: &AccountKey,
        wanted: SessionRequest,
        origin: &Origin,
    ) -> Result<LoggedIn, Error> {
        let mut known = None;
        let outcome = self.vouch(subject, wanted, origin, &mut known).await;
        let mut entry = self.entry(Action::IssueSession, &outcome, origin);
        if let Some(user_id) = &known {
            entry = entry.user(user_id);
        }
        match (&outcome, subject) {
            (Ok(logged_in), _) => entry = entry.named(logged_in.session.username()),
            (Err(_), AccountKey::Name(username)) => entry = entry.named(username.as_str()),
            (Err(_), AccountKey::Id(_)) => {}
        }
        self.audit_opened(entry, &outcome, origin);
        outcome
    }

    async fn vouch(
        &self,
        subject: &AccountKey,
        wanted: SessionRequest,
        origin: &Origin,
        known: &mut Option<UserId>,
    ) -> Result<LoggedIn, Error> {
        self.slots.resolve(&wanted.slot)?;
        let account = self.account(subject).await?;
        let user_id = &*known.insert(account.user_id);
        let username = match subject {
            AccountKey::Name(username) => Some(username),
            AccountKey::Id(_) => None,
        };
        self.open_session(wanted, &Proof::Vouched { user_id, username, origin }).await
    }
}
