//! The user and session behind a request.

use std::{fmt, sync::Arc, time::SystemTime};

use http::Extensions;

use crate::proto as pb;

/// The user and the live session that a valid access token names.
///
/// [`Client::validate`](crate::Client::validate) returns it, and a [`Guard`](crate::Guard) stores it in the
/// extensions of each request that it lets through. Clones share their contents and are cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The id of the session, which is the `jti` claim of the token.
    pub session_id: Arc<str>,
    /// The stable, opaque id of the account, which is the `sub` claim of the token.
    pub user_id: Arc<str>,
    /// The name that the user types to log in. It can change; use `user_id` to refer to a user.
    pub username: Arc<str>,
    /// The slot of the session: the kind of client in which only the latest login is live, such as `web`.
    pub slot: Arc<str>,
    /// The name that the client gave itself at login, such as `Firefox on Linux`. It can be empty.
    pub device: Arc<str>,
    /// The current roles of the account. They can be newer than those in the token.
    pub roles: Arc<[String]>,
    /// The time of the login.
    pub issued_at: SystemTime,
    /// The absolute deadline of the session. Nothing extends it.
    pub expires_at: SystemTime,
    /// The earliest time at which the idle timeout can end the session. Each use moves it forward.
    pub idle_expires_at: SystemTime,
}

impl Identity {
    /// Returns whether the user has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|has| has == role)
    }

    /// Returns the identity that a [`Guard`](crate::Guard) has stored in the extensions of a request.
    ///
    /// Returns `None` for open paths and for services without a guard.
    ///
    /// ```
    /// use latchkey_client::Identity;
    /// use tonic::{Request, Status};
    ///
    /// fn user_id(request: &Request<()>) -> Result<&str, Status> {
    ///     let caller = Identity::of(request.extensions());
    ///     let caller = caller.ok_or_else(|| Status::internal("the method is not guarded"))?;
    ///     Ok(&caller.user_id)
    /// }
    /// # assert!(user_id(&Request::new(())).is_err());
    /// ```
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Converts a session. Returns `None` if one of the required fields is missing.
    pub(super) fn from_session(session: pb::Session) -> Option<Self> {
        let time = |at: Option<prost_types::Timestamp>| SystemTime::try_from(at?).ok();
        if session.session_id.is_empty() || session.user_id.is_empty() {
            return None;
        }
        Some(Self {
            session_id: session.session_id.into(),
            user_id: session.user_id.into(),
            username: session.username.into(),
            slot: session.slot.into(),
            device: session.device.into(),
            roles: session.roles.into(),
            issued_at: time(session.issued_at)?,
            expires_at: time(session.expires_at)?,
            idle_expires_at: time(session.idle_expires_at)?,
        })
    }
}

/// Writes the username.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> pb::Session {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        pb::Session {
            session_id: "s".into(),
            user_id: "u".into(),
            roles: vec!["staff".into()],
            issued_at: at(1),
            expires_at: at(3),
            idle_expires_at: at(2),
            ..Default::default()
        }
    }

    #[test]
    fn roles_are_compared_as_a_whole() {
        let identity = Identity::from_session(session()).unwrap();
        assert!(identity.has_role("staff") && !identity.has_role("sta"));
    }

    #[test]
    fn a_session_without_a_required_field_is_no_identity() {
        for incomplete in [
            pb::Session { session_id: String::new(), ..session() },
            pb::Session { user_id: String::new(), ..session() },
            pb::Session { issued_at: None, ..session() },
            pb::Session { expires_at: None, ..session() },
            pb::Session { idle_expires_at: None, ..session() },
        ] {
            assert!(Identity::from_session(incomplete).is_none());
        }
    }
}
