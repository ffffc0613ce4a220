//! Logging in and out.

use std::{fmt, time::SystemTime};

use tonic::Status;

use super::{Identity, Rejection};
use crate::proto as pb;

/// Who logs in, and where.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// What a person types.
    pub username: String,
    /// The password, exactly as typed.
    pub password: String,
    /// A name of the client that a displaced user would recognise.
    pub device: String,
    /// The slot; empty means the first of the configured ones.
    pub slot: String,
    /// Names this login, for repeating it; empty means that every login is a new one.
    pub idempotency_key: String,
    /// Displace whoever holds the slot although the server's `session.on_limit` is `deny`.
    pub takeover: bool,
}

/// A session was opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct LoggedIn {
    /// The access token: a secret.
    pub token: String,
    /// The session.
    pub identity: Identity,
    /// The live sessions that this login ended, the oldest first.
    pub displaced: Vec<Displaced>,
}

/// A session that a login pushed out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Displaced {
    /// Its id.
    pub session_id: String,
    /// Its slot.
    pub slot: String,
    /// Its device.
    pub device: String,
    /// When it was opened.
    pub issued_at: Option<SystemTime>,
}

/// Which sessions Logout ends.
pub use pb::LogoutScope as Scope;

/// What a logout has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoggedOut {
    /// How many live sessions it ended.
    pub ended: u32,
    /// What had happened to the token, where it was already dead. Nothing was ended then.
    pub rejection: Option<Rejection>,
}

impl Login {
    /// With this name, password and device.
    pub fn new(username: impl Into<String>, password: impl Into<String>, device: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            device: device.into(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        pb::LoginRequest::from(self.clone()).fmt(f)
    }
}

impl fmt::Debug for LoggedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, identity, displaced } = self;
        f.debug_struct("LoggedIn")
            .field("identity", identity)
            .field("displaced", displaced)
            .finish_non_exhaustive()
    }
}

impl From<Login> for pb::LoginRequest {
    fn from(login: Login) -> Self {
        let Login { username, password, device, slot, idempotency_key, takeover } = login;
        Self { username, password, slot, device, idempotency_key, takeover }
    }
}

impl From<pb::DisplacedSession> for Displaced {
    fn from(displaced: pb::DisplacedSession) -> Self {
        let pb::DisplacedSession { session_id, slot, device, issued_at } = displaced;
        let issued_at = issued_at.and_then(|at| SystemTime::try_from(at).ok());
        Self { session_id, slot, device, issued_at }
    }
}

impl TryFrom<pb::LoginResponse> for LoggedIn {
    type Error = Status;

    fn try_from(answer: pb::LoginResponse) -> Result<Self, Status> {
        let identity = answer.session.and_then(Identity::from_session);
        let identity = identity.ok_or_else(|| Status::data_loss("the answer has no session"))?;
        let displaced = answer.displaced.into_iter().map(Displaced::from).collect();
        Ok(Self { token: answer.token, identity, displaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_password_nor_token() {
        let login = Login::new("anna", "hunter2", "phone");
        assert!(!format!("{login:?}").contains("hunter2"));
        let at = Some(prost_types::Timestamp::default());
        let session = Some(pb::Session {
            session_id: "s".into(),
            user_id: "u".into(),
            issued_at: at,
            expires_at: at,
            idle_expires_at: at,
            ..Default::default()
        });
        let answer = pb::LoginResponse { token: "hunter2".into(), session, displaced: Vec::new() };
        let logged_in = LoggedIn::try_from(answer).unwrap();
        assert!(!format!("{logged_in:?}").contains("hunter2"));
        assert!(LoggedIn::try_from(pb::LoginResponse::default()).is_err());
    }
}
