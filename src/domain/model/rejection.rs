//! Rejections: why a token is not accepted. All surfaces report the same reasons.

use crate::domain::types::{Device, Notice, Timestamp};

/// Why a token is not, or is no longer, good. See `RejectionReason` in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol documents each of them, once")]
pub enum Reason {
    Malformed,
    BadSignature,
    NotYetValid,
    Expired,
    IdleTimeout,
    Replaced,
    Kicked,
    LoggedOut,
    Evicted,
    CredentialsChanged,
    AccountDisabled,
    UnknownSession,
}

impl Reason {
    /// Every reason, in the order of the protocol's numbers, which begin at 1.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::BadSignature,
        Self::NotYetValid,
        Self::Expired,
        Self::IdleTimeout,
        Self::Replaced,
        Self::Kicked,
        Self::LoggedOut,
        Self::Evicted,
        Self::CredentialsChanged,
        Self::AccountDisabled,
        Self::UnknownSession,
    ];

    /// The number of the reason in the protocol and in the stores. Numbers are never reused.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// Returns the reason with this number.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(code).ok()?.checked_sub(1)?).copied()
    }

    /// Whether a client must not log in again by itself, because that would start a kick war.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Replaced | Self::Kicked | Self::LoggedOut | Self::Evicted | Self::AccountDisabled
        )
    }

    /// The name of the reason on every surface.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "MALFORMED",
            Self::BadSignature => "BAD_SIGNATURE",
            Self::NotYetValid => "NOT_YET_VALID",
            Self::Expired => "EXPIRED",
            Self::IdleTimeout => "IDLE_TIMEOUT",
            Self::Replaced => "REPLACED",
            Self::Kicked => "KICKED",
            Self::LoggedOut => "LOGGED_OUT",
            Self::Evicted => "EVICTED",
            Self::CredentialsChanged => "CREDENTIALS_CHANGED",
            Self::AccountDisabled => "ACCOUNT_DISABLED",
            Self::UnknownSession => "UNKNOWN_SESSION",
        }
    }
}

/// A rejection: the reason, and what is known of how the session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The reason.
    pub reason: Reason,
    /// When the session ended, if that is known.
    pub at: Option<Timestamp>,
    /// The device of the login that displaced the session.
    pub by_device: Option<Device>,
    /// The operator's text for the user, shown instead of the default message.
    pub notice: Option<Notice>,
}

/// The cause for which sessions are ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndCause {
    /// The reason.
    pub reason: Reason,
    /// The operator's text for the user, shown instead of the default message.
    pub notice: Option<Notice>,
}

impl From<Reason> for EndCause {
    fn from(reason: Reason) -> Self {
        Self { reason, notice: None }
    }
}

impl EndCause {
    /// The rejection of a session that ends at this moment.
    pub fn at(self, at: Timestamp) -> Rejection {
        Rejection { notice: self.notice, ..Rejection::at(self.reason, at) }
    }
}

impl Rejection {
    /// A rejection with no details.
    pub const fn bare(reason: Reason) -> Self {
        Self { reason, at: None, by_device: None, notice: None }
    }

    /// A rejection because of something that happened at `at`.
    pub const fn at(reason: Reason, at: Timestamp) -> Self {
        Self { reason, at: Some(at), by_device: None, notice: None }
    }

    /// A message that can be shown to the user: the notice, or an English default.
    pub fn message(&self) -> String {
        if let Some(notice) = &self.notice {
            return notice.as_str().to_owned();
        }
        let device = self.by_device.as_ref().map_or("", Device::as_str);
        let by = if device.is_empty() { String::new() } else { format!(" on {device}") };
        match self.reason {
            Reason::Malformed => "This is not an access token of this service.".into(),
            Reason::BadSignature => "The signature of the access token is not valid.".into(),
            Reason::NotYetValid => {
                "The access token is not valid yet: check the clock of the machine that issued it.".into()
            }
            Reason::Expired => "The session has expired. Please log in again.".into(),
            Reason::IdleTimeout => "The session was not used for too long. Please log in again.".into(),
            Reason::Replaced => format!("You were logged out because of a newer login{by}."),
            Reason::Kicked => "The session was ended by an operator.".into(),
            Reason::LoggedOut => "You have logged out.".into(),
            Reason::Evicted => {
                format!("You were logged out because a login{by} reached the limit of sessions.")
            }
            Reason::CredentialsChanged => "The password has changed since. Please log in again.".into(),
            Reason::AccountDisabled => "The account is disabled.".into(),
            Reason::UnknownSession => "The session is not known. Please log in again.".into(),
        }
    }
}
