//! Verdicts about tokens, and the error that there is none.

use std::{error::Error, fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Identity, Rejection};
use crate::proto::{self as pb, validate_response};

/// Longer tokens are rejected without a request. Latchkey accepts at most 4 KiB, and a message above its size limit
/// would break the stream that all requests of a guard share.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The answer of Latchkey about an access token.
///
/// A rejection is an answer and not an error: only the rejection says that the user has to log in again. Use
/// [`into_result`](Self::into_result) to handle it with `?`.
///
/// ```
/// use latchkey_client::Verdict;
///
/// fn greeting(verdict: &Verdict) -> String {
///     match verdict {
///         Verdict::Live(identity) => format!("Hello, {}", identity.username),
///         Verdict::Rejected(rejection) => rejection.message.clone(),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a rejected token must not grant access"]
pub enum Verdict {
    /// The token is valid and its session is live.
    Live(Identity),
    /// The token is not, or no longer, valid.
    Rejected(Rejection),
}

impl Verdict {
    /// Returns whether the session is live.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }

    /// Returns the identity if the session is live.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Live(identity) => Some(identity),
            Self::Rejected(_) => None,
        }
    }

    /// Returns the rejection if the token is not valid.
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Live(_) => None,
            Self::Rejected(rejection) => Some(rejection),
        }
    }

    /// Converts the verdict to a result, with the rejection as the error.
    pub fn into_result(self) -> Result<Identity, Rejection> {
        match self {
            Self::Live(identity) => Ok(identity),
            Self::Rejected(rejection) => Err(rejection),
        }
    }
}

/// Latchkey gave no verdict, because it is unreachable, too slow, or refused to serve this caller.
///
/// This says nothing about the token: deny access, and do not log the user out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unavailable {
    /// The status code of the failed call.
    pub code: Code,
    /// A description for developers. Do not show it to users.
    pub message: String,
    /// The time after which Latchkey asks to be called again, if it says so.
    pub retry_after: Option<Duration>,
}

impl Unavailable {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    pub(super) fn timed_out(timeout: Duration) -> Self {
        Self::new(Code::DeadlineExceeded, format!("no answer within {timeout:?}"))
    }

    /// Returns whether the connection failed, so that an immediate retry over another one may succeed.
    pub(super) fn is_connection_failure(&self) -> bool {
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
        write!(f, "no verdict from Latchkey: {:?}: {}", self.code, self.message)
    }
}

impl Error for Unavailable {}

/// Rejects texts that cannot be tokens without a request to Latchkey.
pub(super) fn reject_locally(token: &str) -> Option<Rejection> {
    let message = match token.len() {
        0 => "There is no access token.",
        1..=MAX_TOKEN_BYTES => return None,
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

/// A response with a failure, without a verdict or with an incomplete session is `Unavailable`.
impl TryFrom<pb::ValidateResponse> for Verdict {
    type Error = Unavailable;

    fn try_from(response: pb::ValidateResponse) -> Result<Self, Unavailable> {
        // The failure comes first: a response with a failure is never a verdict, whatever else it contains.
        if let Some(failure) = response.failure {
            let retry_after = failure.retry_after.and_then(|delay| Duration::try_from(delay).ok());
            let message = format!("{}: {}", failure.reason, failure.message);
            return Err(Unavailable { code: Code::from_i32(failure.code), message, retry_after });
        }
        match response.verdict {
            Some(validate_response::Verdict::Session(session)) => Identity::from_session(session)
                .map(Self::Live)
                .ok_or_else(|| Unavailable::new(Code::DataLoss, "the response has an incomplete session")),
            Some(validate_response::Verdict::Rejection(rejection)) => Ok(Self::Rejected(rejection.into())),
            None => Err(Unavailable::new(Code::DataLoss, "the response has no verdict")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> validate_response::Verdict {
        let at = Some(prost_types::Timestamp::default());
        validate_response::Verdict::Session(pb::Session {
            session_id: "s".into(),
            user_id: "u".into(),
            issued_at: at,
            expires_at: at,
            idle_expires_at: at,
            ..Default::default()
        })
    }

    fn response(verdict: Option<validate_response::Verdict>) -> pb::ValidateResponse {
        pb::ValidateResponse { verdict, failure: None }
    }

    #[test]
    fn a_session_is_live_and_a_rejection_is_rejected() {
        let verdict = Verdict::try_from(response(Some(live()))).unwrap();
        assert!(verdict.is_live() && verdict.rejection().is_none());
        assert_eq!(&*verdict.identity().unwrap().user_id, "u");
        assert!(verdict.into_result().is_ok());

        let rejection = validate_response::Verdict::Rejection(pb::Rejection::default());
        let verdict = Verdict::try_from(response(Some(rejection))).unwrap();
        assert!(!verdict.is_live() && verdict.identity().is_none());
        assert_eq!(verdict.rejection().unwrap().name(), "UNKNOWN_SESSION");
        assert!(verdict.into_result().is_err());
    }

    #[test]
    fn a_response_without_a_complete_verdict_is_unavailable() {
        let incomplete = validate_response::Verdict::Session(pb::Session::default());
        for verdict in [None, Some(incomplete)] {
            assert_eq!(Verdict::try_from(response(verdict)).unwrap_err().code, Code::DataLoss);
        }
    }

    #[test]
    fn a_failure_takes_precedence_over_a_verdict() {
        let failure = pb::Failure { code: 14, reason: "STORE_UNAVAILABLE".into(), ..Default::default() };
        let response = pb::ValidateResponse { verdict: Some(live()), failure: Some(failure) };
        assert_eq!(Verdict::try_from(response).unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn empty_and_oversized_tokens_are_rejected_locally() {
        for (length, is_rejected) in
            [(0, true), (1, false), (MAX_TOKEN_BYTES, false), (MAX_TOKEN_BYTES + 1, true)]
        {
            assert_eq!(reject_locally(&"x".repeat(length)).is_some(), is_rejected, "{length}");
        }
    }
}
