//! What Latchkey says of a token, and that it says nothing.

use std::{error::Error, fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Identity, Rejection};
use crate::proto::{self as pb, validate_response};

/// What is longer is no token, and is not sent: the longest that Latchkey takes has 4 KiB, and larger messages than it
/// reads would break the stream that all share.
const LONGEST: usize = 16 * 1024;

/// What is true of a token: the session, or why it is not good.
pub type Verdict = Result<Identity, Rejection>;

/// There is no verdict, which says nothing about the token: let nobody in, and log nobody out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unavailable {
    /// Of what kind the failure is.
    pub code: Code,
    /// What went wrong, for the log.
    pub message: String,
    /// When Latchkey says that it may be asked again, where it does.
    pub retry_after: Option<Duration>,
}

impl Unavailable {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// Latchkey took longer than it may.
    pub(super) fn too_slow(limit: Duration) -> Self {
        Self::new(Code::DeadlineExceeded, format!("no answer within {limit:?}"))
    }

    /// Whether asking again at once may do better, because what broke was the way to Latchkey.
    pub(super) fn is_broken_connection(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
    }
}

impl From<Status> for Unavailable {
    fn from(status: Status) -> Self {
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        Self { code: status.code(), message: status.message().to_owned(), retry_after }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no verdict: {:?}: {}", self.code, self.message)
    }
}

impl Error for Unavailable {}

/// Why something is no token, where Latchkey need not be asked.
pub(super) fn rejected_unasked(token: &str) -> Option<Rejection> {
    let message = match token.len() {
        0 => "There is no access token.",
        1..=LONGEST => return None,
        _ => "This is not an access token of this service.",
    };
    Some(Rejection {
        reason: pb::RejectionReason::Malformed,
        at: None,
        by_device: String::new(),
        message: message.into(),
        terminal: false,
    })
}

/// The verdict in an answer. What is none lets nobody in.
pub(super) fn verdict(answer: pb::ValidateResponse) -> Result<Verdict, Unavailable> {
    // First of all: never take what has a failure for a verdict.
    if let Some(failure) = answer.failure {
        let retry_after = failure.retry_after.and_then(|delay| Duration::try_from(delay).ok());
        let message = format!("{}: {}", failure.reason, failure.message);
        return Err(Unavailable { code: Code::from_i32(failure.code), message, retry_after });
    }
    match answer.verdict {
        Some(validate_response::Verdict::Session(session)) => Identity::from_session(session)
            .map(Ok)
            .ok_or_else(|| Unavailable::new(Code::DataLoss, "the answer is half a session")),
        Some(validate_response::Verdict::Rejection(rejection)) => Ok(Err(rejection.into())),
        None => Err(Unavailable::new(Code::DataLoss, "the answer is no verdict")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_verdict_lets_nobody_in() {
        assert!(verdict(pb::ValidateResponse::default()).is_err());
        let half = validate_response::Verdict::Session(pb::Session::default());
        assert!(verdict(pb::ValidateResponse { verdict: Some(half), failure: None }).is_err());

        let at = Some(prost_types::Timestamp::default());
        let session = pb::Session {
            session_id: "s".into(),
            user_id: "u".into(),
            issued_at: at,
            expires_at: at,
            idle_expires_at: at,
            ..Default::default()
        };
        let yes = Some(validate_response::Verdict::Session(session));
        assert!(verdict(pb::ValidateResponse { verdict: yes.clone(), failure: None }).unwrap().is_ok());
        let failure =
            Some(pb::Failure { code: 14, reason: "STORE_UNAVAILABLE".into(), ..Default::default() });
        let told = verdict(pb::ValidateResponse { verdict: yes, failure }).unwrap_err();
        assert_eq!(told.code, Code::Unavailable);
    }
}
