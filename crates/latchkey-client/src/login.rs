//! Logging in and out.

use std::{fmt, time::SystemTime};

use tonic::Status;

use super::{Identity, Rejection};
use crate::proto as pb;

/// The request of [`Client::login`](crate::Client::login).
///
/// `Debug` does not print the password.
///
/// ```
/// use latchkey_client::Login;
///
/// let login = Login {
///     slot: "mobile".into(),
///     ..Login::new("anna", "correct horse battery staple", "Anna's phone")
/// };
/// # assert_eq!(login.username, "anna");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The username, 1 to 254 code points. It is compared without regard to case.
    pub username: String,
    /// The password exactly as typed, at most 4,096 bytes.
    pub password: String,
    /// A name of the client that the user would recognise, such as `Firefox on Linux`. At most 128 code points, without
    /// control characters.
    pub device: String,
    /// The slot to log in to. Empty means the first configured slot.
    pub slot: String,
    /// Identifies this login when it is sent again: 1 to 128 visible ASCII characters, such as a UUID. Empty means that
    /// every call is a new login.
    ///
    /// A call with the same key within 60 seconds returns the session of the first call and displaces nobody.
    pub idempotency_key: String,
    /// Displaces the current session of the slot even if the server's `session.on_limit` is `deny`.
    pub takeover: bool,
}

/// The session that a login has opened.
///
/// `Debug` does not print the token.
#[derive(Clone)]
#[non_exhaustive]
pub struct LoggedIn {
    /// The access token. It is a secret: do not log it.
    pub token: String,
    /// The user and the session that was opened.
    pub identity: Identity,
    /// The live sessions that this login has ended, oldest first.
    pub displaced: Vec<Displaced>,
}

/// A session that a login has displaced.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Displaced {
    /// The id of the session.
    pub session_id: String,
    /// The slot of the session.
    pub slot: String,
    /// The device of the session. It can be empty.
    pub device: String,
    /// The time of the login that opened the session.
    pub issued_at: Option<SystemTime>,
}

/// The sessions that a logout ends: that of the token, all others of the user, or all.
pub use pb::LogoutScope as Scope;

/// The result of [`Client::logout`](crate::Client::logout).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoggedOut {
    /// The number of live sessions that the call has ended.
    pub ended: u32,
    /// Why the token was not valid, if it was not. No session was ended then.
    pub rejection: Option<Rejection>,
}

impl Login {
    /// Creates a login to the first configured slot, without an idempotency key and without a takeover.
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
        let Self { username, password: _, device, slot, idempotency_key, takeover } = self;
        f.debug_struct("Login")
            .field("username", username)
            .field("device", device)
            .field("slot", slot)
            .field("idempotency_key", idempotency_key)
            .field("takeover", takeover)
            .finish_non_exhaustive()
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

/// A response without a complete session is `DATA_LOSS`.
impl TryFrom<pb::LoginResponse> for LoggedIn {
    type Error = Status;

    fn try_from(response: pb::LoginResponse) -> Result<Self, Status> {
        let identity = response.session.and_then(Identity::from_session);
        let identity = identity.ok_or_else(|| Status::data_loss("the response has an incomplete session"))?;
        let displaced = response.displaced.into_iter().map(Displaced::from).collect();
        Ok(Self { token: response.token, identity, displaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_password_nor_token() {
        let login = Login::new("anna", "hunter2", "phone");
        let shown = format!("{login:?}");
        assert!(shown.contains("anna") && !shown.contains("hunter2"), "{shown}");

        let at = Some(prost_types::Timestamp::default());
        let session = Some(pb::Session {
            session_id: "s".into(),
            user_id: "u".into(),
            issued_at: at,
            expires_at: at,
            idle_expires_at: at,
            ..Default::default()
        });
        let response = pb::LoginResponse { token: "hunter2".into(), session, displaced: Vec::new() };
        let logged_in = LoggedIn::try_from(response).unwrap();
        assert!(!format!("{logged_in:?}").contains("hunter2"));
    }

    #[test]
    fn a_response_without_a_session_is_an_error() {
        let status = LoggedIn::try_from(pb::LoginResponse::default()).unwrap_err();
        assert_eq!(status.code(), tonic::Code::DataLoss);
    }
}
