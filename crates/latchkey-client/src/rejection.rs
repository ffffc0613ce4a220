//! The verdict that a token is not valid.

use std::{error::Error, fmt, time::SystemTime};

use crate::proto as pb;

/// Explains why an access token is not, or no longer, valid.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The reason. Reasons that this version of the crate does not know become `UnknownSession`.
    pub reason: pb::RejectionReason,
    /// The time at which the session ended, if it is known.
    pub at: Option<SystemTime>,
    /// The device of the login that replaced the session. Empty for other reasons and for devices without a name.
    pub by_device: String,
    /// A sentence that can be shown to the user.
    pub message: String,
    /// Whether the client must not log in again by itself. Show the user a login button instead.
    ///
    /// Two clients that both log in again after they were replaced would displace each other forever.
    pub terminal: bool,
}

impl Rejection {
    /// Returns the reason as the protocol, the HTTP responses and the logs of Latchkey spell it, such as `REPLACED`.
    pub fn name(&self) -> &'static str {
        let name = self.reason.as_str_name();
        name.strip_prefix("REJECTION_REASON_").unwrap_or(name)
    }

    /// Returns whether no other token would help, because the account is disabled.
    ///
    /// Such a rejection is answered with 403 over HTTP and `PERMISSION_DENIED` over gRPC. All others are 401 and
    /// `UNAUTHENTICATED`.
    pub fn is_forbidden(&self) -> bool {
        self.reason == pb::RejectionReason::AccountDisabled
    }
}

impl From<pb::Rejection> for Rejection {
    fn from(rejection: pb::Rejection) -> Self {
        let reason = match rejection.reason() {
            pb::RejectionReason::Unspecified => pb::RejectionReason::UnknownSession,
            known => known,
        };
        Self {
            reason,
            at: rejection.at.and_then(|at| SystemTime::try_from(at).ok()),
            by_device: rejection.by_device,
            message: rejection.message,
            terminal: rejection.terminal,
        }
    }
}

/// Writes the name of the reason and the message.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.message)
    }
}

impl Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_reasons_become_unknown_session() {
        for (number, name) in [(0, "UNKNOWN_SESSION"), (6, "REPLACED"), (99, "UNKNOWN_SESSION")] {
            let rejection = Rejection::from(pb::Rejection { reason: number, ..Default::default() });
            assert_eq!(rejection.name(), name);
        }
    }
}
