//! Who calls.

use std::{fmt, sync::Arc, time::SystemTime};

use http::Extensions;

use crate::proto as pb;

/// Who calls: the session that Latchkey found live. A copy costs next to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The session's id, the token's `jti`.
    pub session_id: Arc<str>,
    /// The account's stable, opaque id.
    pub user_id: Arc<str>,
    /// What a person types.
    pub username: Arc<str>,
    /// The kind of client in which only the latest login lives.
    pub slot: Arc<str>,
    /// What the client called itself when it logged in.
    pub device: Arc<str>,
    /// Those of the account now, which can be newer than the token's.
    pub roles: Arc<[String]>,
    /// The moment of the login.
    pub issued_at: SystemTime,
    /// When the session ends at the latest.
    pub expires_at: SystemTime,
    /// The session does not end for want of use before this moment.
    pub idle_expires_at: SystemTime,
}

impl Identity {
    /// Whether the user has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|has| has == role)
    }

    /// Who calls the method whose request this is: `Identity::of(request.extensions())`. None in a method that is
    /// open.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The identity that a session is. None where it lacks what every session has.
    pub(super) fn from_session(session: pb::Session) -> Option<Self> {
        let moment = |at: Option<prost_types::Timestamp>| SystemTime::try_from(at?).ok();
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
            issued_at: moment(session.issued_at)?,
            expires_at: moment(session.expires_at)?,
            idle_expires_at: moment(session.idle_expires_at)?,
        })
    }
}

/// The username, for a log.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_what_every_session_has_is_no_identity() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let whole = pb::Session {
            session_id: "s".into(),
            user_id: "u".into(),
            roles: vec!["staff".into()],
            issued_at: at(1),
            expires_at: at(3),
            idle_expires_at: at(2),
            ..Default::default()
        };
        let identity = Identity::from_session(whole.clone()).unwrap();
        assert!(identity.has_role("staff") && !identity.has_role("sta"));
        for lacking in [
            pb::Session { session_id: String::new(), ..whole.clone() },
            pb::Session { user_id: String::new(), ..whole.clone() },
            pb::Session { expires_at: None, ..whole.clone() },
            pb::Session { idle_expires_at: None, ..whole },
        ] {
            assert!(Identity::from_session(lacking).is_none());
        }
    }
}
