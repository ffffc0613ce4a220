//! The errors of commands: their exit codes, and their form as text and as JSON.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::grpc::pb;

/// The error of a command, by exit code.
pub(super) enum CommandError {
    /// Failed or rejected: exit code 1.
    Failed(String),
    /// Wrong usage: exit code 2.
    Usage(String),
    /// The server or its store does not answer: exit code 3.
    Unavailable(String),
    /// An error with a reason and its own exit code.
    Reported(Box<ReportedError>),
    /// The connection to the server broke, or there was none. [`super::connection_error`] finds out why. Exit code 3.
    Connection(String),
    /// Several errors of the same kind: exit code 1.
    Several(Vec<String>),
}

/// An error with a reason that programs can tell from others.
pub(super) struct ReportedError {
    pub(super) exit_code: u8,
    /// The gRPC code in the form of Connect, such as `permission_denied`.
    pub(super) code: &'static str,
    /// An `ErrorReason` or `RejectionReason`, or for an error of the connection one of its own.
    pub(super) reason: String,
    pub(super) message: String,
    /// The time after which a retry may succeed.
    pub(super) retry_delay: Option<Duration>,
}

impl CommandError {
    /// The rejection of a token.
    pub(super) fn rejected(rejection: &pb::Rejection) -> Self {
        Self::Reported(Box::new(ReportedError {
            exit_code: 1,
            code: "unauthenticated",
            reason: super::output::reason(rejection).to_owned(),
            message: super::output::rejection_text(rejection),
            retry_delay: None,
        }))
    }

    /// A status of the server, with a message for people.
    pub(super) fn of_status(status: &Status, message: String) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason);
        // THROTTLED is an answer of the server about this login, not an outage.
        let is_throttled = reason.as_deref() == Some("THROTTLED");
        let exit_code = match status.code() {
            _ if is_throttled => 1,
            // The server could not answer.
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::Cancelled
            | Code::Aborted => 3,
            Code::InvalidArgument | Code::OutOfRange => 2,
            _ => 1,
        };
        Self::Reported(Box::new(ReportedError {
            exit_code,
            code: code_name(status.code()),
            reason: reason.unwrap_or_default(),
            message,
            retry_delay: status.get_details_retry_info().and_then(|info| info.retry_delay),
        }))
    }

    /// The message for people, with the retry delay.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Failed(message) | Self::Usage(message) | Self::Unavailable(message) => message.clone(),
            Self::Connection(cause) => format!("the connection to the server broke: {cause}"),
            Self::Several(messages) => messages.join("; "),
            Self::Reported(error) => match error.retry_delay {
                Some(delay) => {
                    let rounded_up =
                        Duration::from_secs(delay.as_secs() + u64::from(delay.subsec_nanos() > 0));
                    format!("{} (try again in {})", error.message, humantime::format_duration(rounded_up))
                }
                None => error.message.clone(),
            },
        }
    }

    /// The messages, one for each line of text.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Several(messages) => messages.clone(),
            other => vec![other.message()],
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Several(_) => 1,
            Self::Usage(_) => 2,
            Self::Unavailable(_) | Self::Connection(_) => 3,
            Self::Reported(error) => error.exit_code,
        }
    }

    /// `{"error": {"code", "reason", "message"}}`, with `retry_delay` as protobuf JSON writes a duration.
    pub(super) fn json(&self) -> Value {
        let (code, reason) = match self {
            Self::Failed(_) | Self::Several(_) => ("failed_precondition", "FAILED"),
            Self::Usage(_) => ("invalid_argument", "USAGE"),
            Self::Unavailable(_) | Self::Connection(_) => ("unavailable", "UNAVAILABLE"),
            Self::Reported(error) => (error.code, error.reason.as_str()),
        };
        let message = match self {
            Self::Reported(error) => error.message.clone(),
            other => other.message(),
        };
        let mut error = json!({ "code": code, "reason": reason, "message": message });
        if let Self::Reported(reported) = self
            && let Some(delay) = reported.retry_delay
        {
            error["retry_delay"] = format!("{}s", delay.as_secs_f64()).into();
        }
        json!({ "error": error })
    }
}

/// The name of a code in the Connect protocol, which `--output json` shares with the JSON API.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "canceled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The message of an error about the arguments, without the usage.
pub(super) fn clap_message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let message = message.split("\n\nFor more information").next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn json_has_code_reason_message_and_delay() {
        let mut details = ErrorDetails::with_error_info("THROTTLED", "latchkey", []);
        details.set_retry_info(Some(Duration::from_millis(1500)));
        let status = Status::with_error_details(Code::ResourceExhausted, "wait", details);
        let error = CommandError::of_status(&status, status.message().to_owned());
        assert_eq!(error.exit_code(), 1);
        assert_eq!(error.message(), "wait (try again in 2s)");
        let expected = json!({ "error": {
            "code": "resource_exhausted", "reason": "THROTTLED", "message": "wait", "retry_delay": "1.5s",
        }});
        assert_eq!(error.json(), expected);
        let usage = CommandError::Usage("no such option".into());
        assert_eq!(usage.exit_code(), 2);
        let expected = json!({ "code": "invalid_argument", "reason": "USAGE", "message": "no such option" });
        assert_eq!(usage.json()["error"], expected);
    }

    #[test]
    fn a_server_that_could_not_answer_is_unavailable() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Internal] {
            let status = Status::new(code, "text");
            assert_eq!(CommandError::of_status(&status, String::new()).exit_code(), 3, "{code:?}");
        }
        for (code, exit_code) in
            [(Code::InvalidArgument, 2), (Code::NotFound, 1), (Code::PermissionDenied, 1)]
        {
            let status = Status::new(code, "text");
            assert_eq!(CommandError::of_status(&status, String::new()).exit_code(), exit_code, "{code:?}");
        }
    }
}
