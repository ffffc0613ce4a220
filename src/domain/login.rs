//! Login: check a password, open a session, displace the one that held the slot.

use super::{
    Engine, Error, audit::Action, open_session::Proof, origin::Origin, password::Password,
    password_service::PresentedPassword, types::UserId, username::Username,
};

pub use super::open_session::{LoggedIn, SessionRequest};

/// Who wants to log in, and where.
#[derive(Debug, Clone)]
pub struct Login {
    /// Who.
    pub username: Username,
    /// The proof.
    pub password: Password,
    /// What session.
    pub wanted: SessionRequest,
}

impl Engine {
    /// Logs a user in.
    pub async fn login(&self, login: Login, origin: &Origin) -> Result<LoggedIn, Error> {
        let Login { username, password, wanted } = login;
        let mut known = None;
        let outcome = self.log_in(&username, &password, wanted, origin, &mut known).await;
        let entry = self.entry(Action::Login, &outcome, origin);
        let entry = entry.of_login(known.as_ref(), &username, throttled(&outcome));
        self.audit_opened(entry, &outcome, origin);
        outcome
    }

    /// Tells `known` whose account it is, as soon as there is one.
    async fn log_in(
        &self,
        username: &Username,
        password: &Password,
        wanted: SessionRequest,
        origin: &Origin,
        known: &mut Option<UserId>,
    ) -> Result<LoggedIn, Error> {
        // Before anything is asked of a store.
        self.slots.resolve(&wanted.slot)?;
        // An unknown user takes the same way as a known one, under an id that nobody has.
        *known = self.accounts.find(username).await?.map(|account| account.user_id);
        let user_id = &known.clone().unwrap_or_else(UserId::random);
        self.open_session(wanted, &Proof::Password(PresentedPassword { user_id, username, password, origin }))
            .await
    }
}

/// For the audit trail: what kind of refusal it was.
fn throttled<T>(outcome: &Result<T, Error>) -> Option<&'static str> {
    match outcome {
        Err(Error::Throttled { stopped: true, .. }) => Some("locked until an operator unlocks it"),
        Err(Error::Throttled { stopped: false, .. }) => Some("has to wait"),
        _ => None,
    }
}
