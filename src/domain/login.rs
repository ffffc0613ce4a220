//! `Login`: checks a password and opens a session, which displaces the one in its slot.

use super::{
    Engine, Error, audit::Action, open_session::Authentication, origin::Origin, password::Password,
    password_service::PresentedPassword, types::UserId, username::Username,
};

pub use super::open_session::{LoggedIn, SessionRequest};

/// A login request.
#[derive(Debug, Clone)]
pub struct Login {
    /// The username.
    pub username: Username,
    /// The password.
    pub password: Password,
    /// The session to open.
    pub session: SessionRequest,
}

impl Engine {
    /// Logs a user in.
    pub async fn login(&self, login: Login, origin: &Origin) -> Result<LoggedIn, Error> {
        let Login { username, password, session } = login;
        let mut found = None;
        let outcome = self.log_in(&username, &password, session, origin, &mut found).await;
        self.metrics.logins.count(&outcome);
        let entry = self.entry(Action::Login, &outcome, origin);
        let entry = entry.of_login(found.as_ref(), &username, throttle_detail(&outcome));
        self.audit_opened(entry, &outcome, origin);
        outcome
    }

    /// Sets `found` to the id of the account, for the audit trail.
    async fn log_in(
        &self,
        username: &Username,
        password: &Password,
        session: SessionRequest,
        origin: &Origin,
        found: &mut Option<UserId>,
    ) -> Result<LoggedIn, Error> {
        // Checked before a store is used.
        self.slots.resolve(&session.slot)?;
        // An unknown username takes the same path with an id that nobody has, at the same cost.
        *found = self.accounts.find(username).await?.map(|account| account.user_id);
        let user_id = &found.clone().unwrap_or_else(UserId::random);
        let presented = PresentedPassword { user_id, username, password, origin };
        self.open_session(session, &Authentication::Password(presented)).await
    }
}

/// Describes a throttled login for the audit trail.
fn throttle_detail<T>(outcome: &Result<T, Error>) -> Option<&'static str> {
    match outcome {
        Err(Error::Throttled { locked: true, .. }) => Some("locked until an operator unlocks it"),
        Err(Error::Throttled { locked: false, .. }) => Some("has to wait"),
        _ => None,
    }
}
