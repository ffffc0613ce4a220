//! The statuses of errors. This is the only place that maps errors to statuses and logs them.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    codec::MAX_REQUEST,
    pb::{ERROR_DOMAIN as DOMAIN, ErrorReason},
    request_id::RequestId,
};
use crate::{
    admission::Scope,
    domain::{Error, ports::StoreError, rejection::Rejection, sessions::Session},
    gateway::{Cause, Denial},
    isolation::{log_limiter::LogLimiter, panics::Panic},
};

/// The retry delay of clients while a store is unavailable.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The retry delay of a reader that was too slow.
const SLOW_RETRY: Duration = Duration::from_secs(1);

/// The maximum retry delay of streams that the shutdown ends. The delay is random, so that they do not all return at
/// once.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(5);

/// Returns the status of an error. Logs the error with the request id if the client cannot correct it.
pub(super) fn from_error(error: Error, id: &RequestId) -> Status {
    error.log(Some(id));
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
        Error::AccountsReadOnly | Error::ExternalAccounts(_) => {
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
            // Only the log contains the message of the store.
            let message = format!("the {store} store is unavailable: try again");
            Status::with_error_details(Code::Unavailable, message, details)
        }
        Error::Store(StoreError::Corrupt { .. }) | Error::Internal(_) => {
            let message = internal_error(id);
            status(Code::Internal, message, ErrorReason::Internal)
        }
    }
}

/// Returns the status of an error of a request that changes something. If a store is unavailable, it says that the change
/// may have been made: without an answer of the store, or without the confirmation of replicas.
pub(super) fn from_error_of_change(error: Error, id: &RequestId) -> Status {
    let is_unknown = matches!(error, Error::Store(StoreError::Unavailable { .. }));
    let status = from_error(error, id);
    if !is_unknown {
        return status;
    }
    let message = format!(
        "{}; whether the change was made is unknown, so repeat a Login with the same idempotency_key",
        status.message()
    );
    Status::with_error_details(Code::Unavailable, message, status.get_error_details())
}

/// A request, or the body of its response, panicked.
pub(super) fn panicked(panic: &Panic, id: Option<RequestId>) -> Status {
    static PANICS: LogLimiter = LogLimiter::new("a request panicked", 20);
    let id = id.unwrap_or_else(RequestId::random);
    if PANICS.admits("") {
        tracing::error!(request.id = %id, error.message = %panic, "a request panicked");
    }
    id.add_to(status(Code::Internal, internal_error(&id), ErrorReason::Internal))
}

fn internal_error(id: &RequestId) -> String {
    format!("internal error; see the log for request {id}")
}

/// The token of a request was rejected.
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

/// A gateway denies the request of a gRPC client.
pub(super) fn denied(denial: &Denial) -> Status {
    let code = if denial.is_forbidden() { Code::PermissionDenied } else { Code::Unauthenticated };
    if let Cause::Rejected(rejection) = &denial.cause {
        return rejected(code, rejection);
    }
    let mut metadata = HashMap::from([("terminal".to_owned(), denial.is_terminal().to_string())]);
    match &denial.cause {
        Cause::WrongSlot(slot) => metadata.insert("slot".to_owned(), slot.as_str().to_owned()),
        Cause::MissingRole(role) => metadata.insert("role".to_owned(), role.as_str().to_owned()),
        Cause::Rejected(_) | Cause::NoToken | Cause::Malformed(_) => None,
    };
    let details = ErrorDetails::with_error_info(denial.reason(), DOMAIN, metadata);
    Status::with_error_details(code, denial.message(), details)
}

/// The server has no capacity for the request.
pub(super) fn overloaded(message: &str, retry_after: Duration) -> Status {
    exhausted(message, ErrorReason::Overloaded, retry_after)
}

/// A limit of a connection, of a client or of all clients was reached.
pub(super) fn too_many(what: &str, scope: Scope) -> Status {
    let scope = match scope {
        Scope::Total => "at a time",
        Scope::Client => "at a time from this address",
        Scope::Connection => "at a time on this connection",
    };
    overloaded(&format!("too many {what} {scope}"), Duration::from_secs(1))
}

/// The message of a request did not arrive in time. The method was not called.
pub(super) fn message_timeout() -> Status {
    let message = "the message of the request did not arrive within server.body_timeout";
    status(Code::DeadlineExceeded, message, ErrorReason::DeadlineExceeded)
}

/// The client must retry later.
fn exhausted(message: impl Into<String>, reason: ErrorReason, retry_after: Duration) -> Status {
    let mut details = info(reason);
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// The slot is full. The details describe the session in it, for a client that asks its user whether to take over.
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

/// Returns the status of a stream whose next message could not be read. The statuses of the library have no details:
/// `OUT_OF_RANGE`, or `RESOURCE_EXHAUSTED` if compressed, for a message that is too large, and INTERNAL for a malformed
/// one.
pub(super) fn from_decode_error(status: Status) -> Status {
    let codes = [Code::OutOfRange, Code::ResourceExhausted, Code::Internal];
    if codes.contains(&status.code()) && status.details().is_empty() { undecodable() } else { status }
}

/// The message is too large or malformed.
pub(super) fn undecodable() -> Status {
    let message = format!(
        "the request is not a message of the type of this method, or larger than {MAX_REQUEST} bytes"
    );
    let mut details = info(ErrorReason::InvalidRequest);
    details.add_bad_request_violation("", message.clone());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A message in JSON is larger than any message may be.
pub(crate) fn message_too_large() -> Status {
    let message = format!("the request is larger than {MAX_REQUEST} bytes");
    let mut details = info(ErrorReason::InvalidRequest);
    details.add_bad_request_violation("", message.clone());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A field of a message in JSON is wrong or, if `field` is empty, the message as a whole.
pub(crate) fn invalid_message(field: &str, description: impl Into<String>) -> Status {
    let description = description.into();
    let message = format!("{field} {description}").trim_start().to_owned();
    let mut details = info(ErrorReason::InvalidRequest);
    details.add_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A request over HTTP reaches no method.
pub(crate) fn not_served(code: Code, message: impl Into<String>) -> Status {
    status(code, message, ErrorReason::InvalidRequest)
}

/// The call comes from a web page of an origin that is not allowed.
pub(crate) fn foreign_origin(message: &str) -> Status {
    status(Code::PermissionDenied, message, ErrorReason::InvalidRequest)
}

/// The call exceeded its deadline.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the call took longer than its grpc-timeout or server.request_timeout allows; it may or may not have taken effect";
    status(Code::DeadlineExceeded, message, ErrorReason::DeadlineExceeded)
}

/// The next message of a stream did not arrive in time.
pub(super) fn stalled() -> Status {
    let message = "no message arrived within server.request_timeout; the messages before have taken effect";
    status(Code::DeadlineExceeded, message, ErrorReason::DeadlineExceeded)
}

/// A stream ends because the server stops or closes the connection.
pub(super) fn shutting_down() -> Status {
    let mut details = info(ErrorReason::ShuttingDown);
    details.set_retry_info(Some(MAX_RECONNECT_DELAY.mul_f64(rand::random())));
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
