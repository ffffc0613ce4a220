//! Why a token is not good.

use std::{error::Error, fmt, time::SystemTime};

use crate::proto as pb;

/// Why a token is not, or no longer, good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The reason. What this version does not know is `UnknownSession`.
    pub reason: pb::RejectionReason,
    /// When the session ended, where one is known.
    pub at: Option<SystemTime>,
    /// The device of the login that took the place; empty where none did, or it had no name.
    pub by_device: String,
    /// A sentence that can be shown to the user.
    pub message: String,
    /// Whether a client must not log in again by itself: show a button.
    pub terminal: bool,
}

impl Rejection {
    /// The reason, as every surface names it: `REPLACED`.
    pub fn name(&self) -> &'static str {
        let name = self.reason.as_str_name();
        name.strip_prefix("REJECTION_REASON_").unwrap_or(name)
    }

    /// Whether no token would open the account: 403 in HTTP, `PERMISSION_DENIED` in gRPC.
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
    fn a_reason_of_a_newer_latchkey_is_an_unknown_session() {
        for (number, name) in [(0, "UNKNOWN_SESSION"), (6, "REPLACED"), (99, "UNKNOWN_SESSION")] {
            let rejection = Rejection::from(pb::Rejection { reason: number, ..Default::default() });
            assert_eq!(rejection.name(), name);
        }
    }
}
