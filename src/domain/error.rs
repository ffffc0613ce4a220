//! Errors of the domain. Only `grpc::status` turns them into statuses.

use std::{fmt::Display, sync::Arc, time::Duration};

use super::{
    callers::role::CallerRole, ports::StoreError, rejection::Rejection, sessions::Session, types::Timestamp,
};
use crate::isolation::log_limiter::LogLimiter;

static STORE_UNAVAILABLE: LogLimiter = LogLimiter::new("a store did not answer", 1);
static INTERNAL: LogLimiter = LogLimiter::new("a request failed with an internal error", 20);

/// A wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The name of the field in the protocol.
    pub field: &'static str,
    /// What is wrong and what would be right, to be read after the name of the field.
    pub description: String,
}

impl Violation {
    /// Creates a violation.
    pub fn new(field: &'static str, description: impl Into<String>) -> Self {
        Self { field, description: description.into() }
    }
}

/// An error of a request. A rejected token is an error only where a request requires a live session; for Validate it is
/// an answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is missing, too long or malformed.
    #[error("{} {}", .0.field, .0.description)]
    Invalid(Violation),
    /// The user is unknown or the password is wrong.
    #[error("unknown user or wrong password")]
    InvalidCredentials,
    /// The password is right, but the account is disabled.
    #[error("the account is disabled")]
    AccountDisabled {
        /// The time at which the account is enabled by itself, if any.
        until: Option<Timestamp>,
    },
    /// The username is taken.
    #[error("an account with this username exists")]
    AccountExists,
    /// There is no such account.
    #[error("there is no such account")]
    AccountNotFound,
    /// Accounts belong to another system and cannot be changed here.
    #[error("accounts belong to another system (accounts.lookup is set): change them there")]
    AccountsReadOnly,
    /// Accounts belong to another system and cannot be read in this way.
    #[error("{0}")]
    ExternalAccounts(&'static str),
    /// The method requires a caller and none has authenticated.
    #[error("{0}")]
    CallerUnauthenticated(&'static str),
    /// The caller lacks the required role.
    #[error("the caller `{caller}` does not have the role `{}`, which this method needs", .role.name())]
    CallerNotAllowed {
        /// The name of the caller.
        caller: Arc<str>,
        /// The required role.
        role: CallerRole,
    },
    /// The name of a caller is taken.
    #[error("a caller with this name exists: revoke it first, or choose another name")]
    CallerExists,
    /// There is no such caller.
    #[error("there is no caller with this name")]
    CallerNotFound,
    /// Too many login attempts have failed. It says neither whether the password is right nor whether the account
    /// exists.
    #[error("too many failed attempts: {}", if *.locked { "an operator has to unlock this username" } else { "wait before you try again" })]
    Throttled {
        /// The time until the next attempt.
        retry_after: Duration,
        /// An operator has to unlock the username.
        locked: bool,
    },
    /// The slot is full and `session.on_limit` is `deny`. Returned only after the right password.
    #[error("the slot `{}` is taken{}; a login with takeover displaces that session", .holder.slot.as_str(), by(.holder))]
    SessionLimit {
        /// The session that a takeover would displace.
        holder: Box<Session>,
        /// The time since its last use.
        idle: Duration,
    },
    /// This client is a party of a kick war. Returned only after the right password.
    #[error("this client and another one keep logging each other out: wait before you try again")]
    KickWar {
        /// The time until the next login.
        retry_after: Duration,
    },
    /// The reader of a stream has fallen too far behind.
    #[error("this reader has fallen too far behind: open the stream again with the last cursor")]
    TooSlow,
    /// The token of the request was rejected, or the session of a repeated login has ended.
    #[error("{}", .0.message())]
    Rejected(Rejection),
    /// There is more work than can be done in time.
    #[error("the server is overloaded: {what}")]
    Overloaded {
        /// The overloaded resource.
        what: &'static str,
        /// The time until a retry.
        retry_after: Duration,
    },
    /// A store did not answer, or holds invalid data.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug in Latchkey.
    #[error("{0}")]
    Internal(String),
}

fn by(holder: &Session) -> String {
    match holder.device.as_str() {
        "" => String::new(),
        device => format!(" by {device}"),
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Invalid(violation)
    }
}

impl Error {
    /// Logs an error that the client did not cause. Repeated lines are limited, because in an outage every request
    /// fails with the same error.
    pub fn log(&self, request: Option<impl Display>) {
        let id = request.map(tracing::field::display);
        match self {
            Self::Store(StoreError::Unavailable { store, cause }) if STORE_UNAVAILABLE.admits(store) => {
                tracing::warn!(
                    request.id = id,
                    store.name = store,
                    error.message = cause,
                    "a store did not answer"
                );
            }
            Self::Store(StoreError::Corrupt { .. }) | Self::Internal(_) if INTERNAL.admits("") => {
                tracing::error!(request.id = id, error.message = %self, "a request failed with an internal error");
            }
            _ => {}
        }
    }

    /// Whether the request was right and the server could not answer it.
    pub const fn is_of_server(&self) -> bool {
        matches!(self, Self::Overloaded { .. } | Self::Store(_) | Self::Internal(_))
    }

    /// The name of the `ErrorReason` or `RejectionReason` in the protocol.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::InvalidCredentials => "INVALID_CREDENTIALS",
            Self::AccountDisabled { .. } => "ACCOUNT_DISABLED",
            Self::AccountExists => "ACCOUNT_EXISTS",
            Self::AccountNotFound => "ACCOUNT_NOT_FOUND",
            Self::AccountsReadOnly | Self::ExternalAccounts(_) => "ACCOUNTS_READ_ONLY",
            Self::CallerUnauthenticated(_) => "CALLER_UNAUTHENTICATED",
            Self::CallerNotAllowed { .. } => "CALLER_NOT_ALLOWED",
            Self::CallerExists => "CALLER_EXISTS",
            Self::CallerNotFound => "CALLER_NOT_FOUND",
            Self::Throttled { .. } | Self::KickWar { .. } => "THROTTLED",
            Self::SessionLimit { .. } => "SESSION_LIMIT",
            Self::TooSlow => "TOO_SLOW",
            Self::Rejected(rejection) => rejection.reason.name(),
            Self::Overloaded { .. } => "OVERLOADED",
            Self::Store(StoreError::Unavailable { .. }) => "STORE_UNAVAILABLE",
            Self::Store(StoreError::Corrupt { .. }) | Self::Internal(_) => "INTERNAL",
        }
    }
}
