//! `IssueSession`: opens a session for a user whom a trusted service has authenticated.

use super::{
    Engine, Error,
    accounts::AccountKey,
    audit::Action,
    login::{LoggedIn, SessionRequest},
    open_session::Authentication,
    origin::Origin,
    types::UserId,
};

impl Engine {
    /// Opens a session as a login does, but without a password.
    pub async fn issue_session(
        &self,
        subject: &AccountKey,
        request: SessionRequest,
        origin: &Origin,
    ) -> Result<LoggedIn, Error> {
        let mut found = None;
        let outcome = self.issue(subject, request, origin, &mut found).await;
        let mut entry = self.entry(Action::IssueSession, &outcome, origin);
        if let Some(user_id) = &found {
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

    async fn issue(
        &self,
        subject: &AccountKey,
        request: SessionRequest,
        origin: &Origin,
        found: &mut Option<UserId>,
    ) -> Result<LoggedIn, Error> {
        self.slots.resolve(&request.slot)?;
        let by_issuer = |user_id, username| Authentication::ByIssuer { user_id, username, origin };
        match subject {
            AccountKey::Name(username) => {
                let account = self.account(subject).await?;
                let user_id = &*found.insert(account.user_id);
                self.open_session(request, &by_issuer(user_id, Some(username))).await
            }
            // The account is read once, after the register.
            AccountKey::Id(user_id) => {
                self.check_account_key(subject)?;
                let outcome = self.open_session(request, &by_issuer(user_id, None)).await;
                let is_known = !matches!(outcome, Err(Error::AccountNotFound | Error::Store(_)));
                *found = is_known.then(|| user_id.clone());
                outcome
            }
        }
    }
}
