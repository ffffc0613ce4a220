//! Why a request was not done. `grpc::status` alone turns these into statuses.

use std::{fmt::Display, sync::Arc, time::Duration};

use super::{
    callers::role::CallerRole, ports::StoreError, rejection::Rejection, sessions::Session, types::Timestamp,
};
use crate::isolation::log_limiter::LogLimiter;

static STORE_UNAVAILABLE: LogLimiter = LogLimiter::new("a store did not answer", 1);
static INTERNAL: LogLimiter = LogLimiter::new("a request failed with an internal error", 20);

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The name of the field in the protocol.
    pub field: &'static str,
    /// What is wrong and what would be right, to be read after the field's name.
    pub description: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: &'static str, description: impl Into<String>) -> Self {
        Self { field, description: description.into() }
    }
}

/// Why a request was not done.
///
/// A bad token is not among these: that is a verdict, an answer like any other.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is missing, too long or ill-formed.
    #[error("{} {}", .0.field, .0.description)]
    Invalid(Violation),
    /// Unknown user or wrong password.
    #[error("unknown user or wrong password")]
    InvalidCredentials,
    /// The right password of a disabled account.
    #[error("the account is disabled")]
    AccountDisabled {
        /// When it will be enabled by itself, if ever.
        until: Option<Timestamp>,
    },
    /// The username is taken.
    #[error("an account with this username exists")]
    AccountExists,
    /// There is no such account.
    #[error("there is no such account")]
    AccountNotFound,
    /// Accounts are only read here.
    #[error("accounts belong to another system (accounts.lookup is set): change them there")]
    AccountsReadOnly,
    /// Accounts are kept elsewhere, and cannot be read from here in this way.
    #[error("{0}")]
    AccountsElsewhere(&'static str),
    /// A caller is needed and none has proved who it is.
    #[error("{0}")]
    CallerUnauthenticated(&'static str),
    /// The caller is known and may not do this.
    #[error("the caller `{caller}` does not have the role `{}`, which this method needs", .role.name())]
    CallerNotAllowed {
        /// Its name.
        caller: Arc<str>,
        /// What it would need.
        role: CallerRole,
    },
    /// The name of a caller is taken.
    #[error("a caller with this name exists: revoke it first, or choose another name")]
    CallerExists,
    /// There is no such caller.
    #[error("there is no caller with this name")]
    CallerNotFound,
    /// Too many failures. Says nothing about the password, nor whether there is such an account.
    #[error("too many failed attempts: {}", if *.stopped { "an operator has to unlock this username" } else { "wait before you try again" })]
    Throttled {
        /// When another attempt can be made, or is worth making.
        retry_after: Duration,
        /// Waiting alone does not help.
        stopped: bool,
    },
    /// The slot is full, and nobody is displaced unasked. Only for the right password.
    #[error("the slot `{}` is taken{}; a login with takeover displaces that session", .holder.slot.as_str(), by(.holder))]
    SessionLimit {
        /// The session that would have to go.
        holder: Box<Session>,
        /// For how long it has not been used.
        idle: Duration,
    },
    /// Two clients push each other out of a slot. Only for the right password.
    #[error("this client and another one keep logging each other out: wait before you try again")]
    KickWar {
        /// When another login is let in.
        retry_after: Duration,
    },
    /// A reader of a stream has fallen too far behind.
    #[error("this reader has fallen too far behind: open the stream again with the last cursor")]
    TooSlow,
    /// The token that the request stands on is not good, or the session that it repeats has ended.
    #[error("{}", .0.message())]
    Rejected(Rejection),
    /// More work is waiting than can be done in time.
    #[error("the server is overloaded: {what}")]
    Overloaded {
        /// What there is too much of.
        what: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// A store did not answer, or not sensibly.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A fault of ours.
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
    /// Logs an error that the caller cannot mend, under the id of the request where there is one. Of an outage the
    /// first, because every request says the same.
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

    /// The `reason` that callers and the audit trail see. See `ErrorReason` in the protocol.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::InvalidCredentials => "INVALID_CREDENTIALS",
            Self::AccountDisabled { .. } => "ACCOUNT_DISABLED",
            Self::AccountExists => "ACCOUNT_EXISTS",
            Self::AccountNotFound => "ACCOUNT_NOT_FOUND",
            Self::AccountsReadOnly | Self::AccountsElsewhere(_) => "ACCOUNTS_READ_ONLY",
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
