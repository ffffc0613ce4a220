//! The only table from errors to statuses, and the only place that logs them.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    MAX_REQUEST,
    pb::{ERROR_DOMAIN as DOMAIN, ErrorReason},
    request_id::RequestId,
};
use crate::{
    admission::Scope,
    domain::{Error, ports::StoreError, rejection::Rejection, sessions::Session},
    gateway::{Cause, Denial},
    isolation::{log_limiter::LogLimiter, panics::Panic},
};

/// When to try a store again that does not answer.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// When a reader that was too slow may come again.
const SLOW_RETRY: Duration = Duration::from_secs(1);

/// Streams that end with the server come again within so long, so that they do not come all at once.
const RECONNECTS: Duration = Duration::from_secs(5);

/// The answer to a request.
pub(super) fn answer<T>(outcome: Result<T, Error>, request: &RequestId) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(|error| of(error, request))
}

/// The status of an error. What the caller cannot mend is logged, under the id of the request.
pub(super) fn of(error: Error, request: &RequestId) -> Status {
    error.log(Some(request));
    let message = error.to_string();
    match error {
        Error::Invalid(violation) => {
            let mut details = info(ErrorReason::InvalidRequest);
            details.add_bad_request_violation(violation.field, violation.description);
            Status::with_error_details(Code::InvalidArgument, message, details)
        }
        Error::InvalidCredentials => status(Code::Unauthenticated, message, ErrorReason::InvalidCredentials),
        Error::AccountDisabled { until } => {
            let mut metadata = HashMap::new();
            if let Some(until) = until {
                metadata.insert("disabled_until_unix".to_owned(), until.as_secs().to_string());
            }
            let mut details = ErrorDetails::new();
            details.set_error_info(name(ErrorReason::AccountDisabled), DOMAIN, metadata);
            Status::with_error_details(Code::PermissionDenied, message, details)
        }
        Error::AccountExists => status(Code::AlreadyExists, message, ErrorReason::AccountExists),
        Error::AccountNotFound => status(Code::NotFound, message, ErrorReason::AccountNotFound),
        Error::AccountsReadOnly | Error::AccountsElsewhere(_) => {
            status(Code::FailedPrecondition, message, ErrorReason::AccountsReadOnly)
        }
        Error::CallerUnauthenticated(_) => {
            status(Code::Unauthenticated, message, ErrorReason::CallerUnauthenticated)
        }
        Error::CallerNotAllowed { role, .. } => {
            let metadata = HashMap::from([("role".to_owned(), role.name().to_owned())]);
            let mut details = ErrorDetails::new();
            details.set_error_info(name(ErrorReason::CallerNotAllowed), DOMAIN, metadata);
            Status::with_error_details(Code::PermissionDenied, message, details)
        }
        Error::CallerExists => status(Code::AlreadyExists, message, ErrorReason::CallerExists),
        Error::CallerNotFound => status(Code::NotFound, message, ErrorReason::CallerNotFound),
        Error::Throttled { retry_after, .. } | Error::KickWar { retry_after } => {
            exhausted(message, ErrorReason::Throttled, retry_after)
        }
        Error::SessionLimit { holder, idle } => session_limit(message, &holder, idle),
        Error::TooSlow => exhausted(message, ErrorReason::TooSlow, SLOW_RETRY),
        Error::Rejected(rejection) => rejected(Code::Unauthenticated, &rejection),
        Error::Overloaded { retry_after, .. } => overloaded(&message, retry_after),
        Error::Store(StoreError::Unavailable { store, .. }) => {
            let mut details = info(ErrorReason::StoreUnavailable);
            details.set_retry_info(Some(STORE_RETRY));
            // What the store said stays in the log.
            let message = format!("the {store} store is unavailable: try again");
            Status::with_error_details(Code::Unavailable, message, details)
        }
        Error::Store(StoreError::Corrupt { .. }) | Error::Internal(_) => {
            let message = format!("internal error; the log has it under request {request}");
            status(Code::Internal, message, ErrorReason::Internal)
        }
    }
}

/// The request, or the body of its answer, panicked.
pub(super) fn panicked(panic: &Panic, request: Option<RequestId>) -> Status {
    static PANICS: LogLimiter = LogLimiter::new("a request panicked", 20);
    let request = request.unwrap_or_else(RequestId::random);
    if PANICS.admits("") {
        tracing::error!(request.id = %request, error.message = %panic, "a request panicked");
    }
    let message = format!("internal error; the log has it under request {request}");
    request.on(status(Code::Internal, message, ErrorReason::Internal))
}

/// The token that a request stands on is not good.
fn rejected(code: Code, rejection: &Rejection) -> Status {
    let terminal = rejection.reason.is_terminal().to_string();
    let mut metadata = HashMap::from([("terminal".to_owned(), terminal)]);
    if let Some(at) = rejection.at {
        metadata.insert("at_unix".to_owned(), at.as_secs().to_string());
    }
    if let Some(device) = &rejection.by_device {
        metadata.insert("by_device".to_owned(), device.as_str().to_owned());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(rejection.reason.name(), DOMAIN, metadata);
    Status::with_error_details(code, rejection.message(), details)
}

/// What a gRPC client is told whom a gateway turns away.
pub(super) fn denied(denial: &Denial) -> Status {
    let code = if denial.is_forbidden() { Code::PermissionDenied } else { Code::Unauthenticated };
    if let Cause::Rejected(rejection) = &denial.cause {
        return rejected(code, rejection);
    }
    let mut metadata = HashMap::from([("terminal".to_owned(), denial.is_terminal().to_string())]);
    match &denial.cause {
        Cause::WrongSlot(slot) => metadata.insert("slot".to_owned(), slot.as_str().to_owned()),
        Cause::MissingRole(role) => metadata.insert("role".to_owned(), role.as_str().to_owned()),
        Cause::Rejected(_) | Cause::NoToken | Cause::Unclear(_) => None,
    };
    let details = ErrorDetails::with_error_info(denial.reason(), DOMAIN, metadata);
    Status::with_error_details(code, denial.message(), details)
}

/// More is asked of the server than it can do in time.
pub(super) fn overloaded(message: &str, retry_after: Duration) -> Status {
    exhausted(message, ErrorReason::Overloaded, retry_after)
}

/// The client, its connection or all clients together have as much of something as they may.
pub(super) fn too_many(what: &str, scope: Scope) -> Status {
    let whose = match scope {
        Scope::Total => "at a time",
        Scope::Client => "at a time from this address",
        Scope::Connection => "at a time on this connection",
    };
    overloaded(&format!("too many {what} {whose}"), Duration::from_secs(1))
}

/// The message of a request did not arrive in time. Nothing was done.
pub(super) fn message_late() -> Status {
    let message = "the message of the request did not arrive within server.body_timeout";
    status(Code::DeadlineExceeded, message, ErrorReason::DeadlineExceeded)
}

/// Not now, but later.
fn exhausted(message: impl Into<String>, reason: ErrorReason, retry_after: Duration) -> Status {
    let mut details = info(reason);
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Who holds the slot, for a client that asks its user whether to take over.
fn session_limit(message: String, holder: &Session, idle: Duration) -> Status {
    let mut metadata = HashMap::from([
        ("slot".to_owned(), holder.slot.as_str().to_owned()),
        ("issued_at_unix".to_owned(), holder.issued_at.as_secs().to_string()),
        ("idle_seconds".to_owned(), idle.as_secs().to_string()),
    ]);
    if !holder.device.as_str().is_empty() {
        metadata.insert("device".to_owned(), holder.device.as_str().to_owned());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(name(ErrorReason::SessionLimit), DOMAIN, metadata);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// The status of a stream whose next message could not be read. What the library says of a message that is too large
/// (`OUT_OF_RANGE`; `RESOURCE_EXHAUSTED` where it was compressed) or not the right one (INTERNAL) has no details.
pub(super) fn of_message(status: Status) -> Status {
    let codes = [Code::OutOfRange, Code::ResourceExhausted, Code::Internal];
    if codes.contains(&status.code()) && status.details().is_empty() { undecodable() } else { status }
}

/// The message is too large, or not the one that the method takes.
pub(super) fn undecodable() -> Status {
    let message =
        format!("the request is not the message that this method takes, or larger than {MAX_REQUEST} bytes");
    let mut details = info(ErrorReason::InvalidRequest);
    details.add_bad_request_violation("", message.clone());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A web page calls whose site is not named.
pub(super) fn foreign_origin(message: &str) -> Status {
    status(Code::PermissionDenied, message, ErrorReason::InvalidRequest)
}

/// The call took longer than any call may.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the call took longer than its grpc-timeout or server.request_timeout allows; it may or may not have taken effect";
    status(Code::DeadlineExceeded, message, ErrorReason::DeadlineExceeded)
}

/// The next message of a stream did not come in time.
pub(super) fn stalled() -> Status {
    let message = "no message came for longer than server.request_timeout; what came before has taken effect";
    status(Code::DeadlineExceeded, message, ErrorReason::DeadlineExceeded)
}

/// A stream ends because the server does, or its connection.
pub(super) fn shutting_down() -> Status {
    let mut details = info(ErrorReason::ShuttingDown);
    details.set_retry_info(Some(RECONNECTS.mul_f64(rand::random())));
    Status::with_error_details(
        Code::Unavailable,
        "the server is stopping, or this connection has reached server.connection_age: connect again",
        details,
    )
}

fn status(code: Code, message: impl Into<String>, reason: ErrorReason) -> Status {
    Status::with_error_details(code, message, info(reason))
}

fn info(reason: ErrorReason) -> ErrorDetails {
    ErrorDetails::with_error_info(name(reason), DOMAIN, HashMap::new())
}

fn name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}
