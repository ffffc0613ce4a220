//! The words of the contract as types: what holds one of these has been checked.

use std::{fmt, time::Duration};

use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};

use super::Violation;

/// A moment, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The moment `secs` seconds after the Unix epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The next whole second, or this moment if it is one.
    #[must_use]
    pub const fn ceil_to_second(self) -> Self {
        Self::from_secs(self.0.div_ceil(1_000_000))
    }

    /// The moment `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// How long it is since `earlier`; zero if that lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A number that strictly increases per user: `max(previous + 1, now in microseconds)`. It orders
/// logins; wall clocks do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the login that comes after this one, at `now`.
    #[must_use]
    pub fn next(self, now: Timestamp) -> Self {
        Self(now.as_micros().max(self.0.saturating_add(1)))
    }
}

/// 128 random bits that name a session; in base32 the token's `jti`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// A new id.
    pub fn random() -> Self {
        Self(random())
    }

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From the form that `Display` gives.
    pub fn parse(text: &str) -> Option<Self> {
        // The strict alphabet: a second spelling of the same id would be a second name for a session.
        let upper = text.to_ascii_uppercase();
        if upper.to_ascii_lowercase() != text {
            return None;
        }
        let bytes = BASE32_NOPAD.decode(upper.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD_NOCASE.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// An account's stable, opaque id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

impl UserId {
    /// The longest id, in bytes.
    pub const MAX_LEN: usize = 128;

    /// A new id: 128 random bits in base32.
    pub fn random() -> Self {
        Self(SessionId::random().to_string())
    }

    /// An id as a caller gave it: 1 to 128 printable ASCII characters.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() {
            Err(Violation::new("user_id", "is missing; AccountService.GetAccount finds it by username"))
        } else if !printable || text.len() > Self::MAX_LEN {
            Err(Violation::new("user_id", "must be 1 to 128 printable ASCII characters"))
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A kind of client in which only the latest login lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(String);

impl Slot {
    /// 1 to 32 characters: lower-case letters, digits, `_` and `-`, a letter or digit first.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let shape = text.bytes().next().is_some_and(plain)
            && text.bytes().all(|byte| plain(byte) || byte == b'_' || byte == b'-');
        if shape && text.len() <= 32 {
            Ok(Self(text.to_owned()))
        } else {
            Err(Violation::new(
                "slot",
                "must be 1 to 32 lower-case letters, digits, `_` or `-`, and begin with a letter or digit",
            ))
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a client calls itself, for the eyes of the user it may displace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device(String);

impl Device {
    /// At most 128 code points, no control characters; may be empty.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        if text.chars().count() > 128 || text.chars().any(char::is_control) {
            return Err(Violation::new(
                "device",
                "must be at most 128 code points without control characters",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// As text; empty where the client gave none.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name that Latchkey passes on to services and gives no meaning of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Role(String);

impl Role {
    /// How many roles an account may have. With [`Role::parse`] it keeps tokens well under 4 KiB.
    pub const MAX_COUNT: usize = 32;

    /// 1 to 64 characters: letters, digits and `_ - . : /`.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Violation::new("roles", "each must be 1 to 64 letters, digits or `_ - . : /`"))
        }
    }

    /// A list of roles, sorted and without repetition.
    pub fn parse_all<T: AsRef<str>>(texts: &[T]) -> Result<Vec<Self>, Violation> {
        let mut roles = texts.iter().map(|text| Self::parse(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        roles.sort();
        roles.dedup();
        if roles.len() > Self::MAX_COUNT {
            return Err(Violation::new("roles", "must be at most 32"));
        }
        Ok(roles)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a token is not, or no longer, good. See `RejectionReason` in the protocol.
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

    /// The number that the protocol and the stores know it by. Numbers are never given out anew.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The reason with this number.
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

    /// The name on every surface.
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

/// Why a token was not accepted: the reason, and what is known of how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The reason.
    pub reason: Reason,
    /// When the session ended, where a session is known.
    pub at: Option<Timestamp>,
    /// The device of the login that took the place, where one did.
    pub by_device: Option<Device>,
}

impl Rejection {
    /// A rejection of which nothing but the reason is known.
    pub const fn bare(reason: Reason) -> Self {
        Self { reason, at: None, by_device: None }
    }

    /// A rejection for what happened at `at`.
    pub const fn at(reason: Reason, at: Timestamp) -> Self {
        Self { reason, at: Some(at), by_device: None }
    }

    /// A sentence in English that can be shown to the user.
    pub fn message(&self) -> String {
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

/// Random bytes of the operating system.
///
/// # Panics
/// If the operating system has no randomness to give: there is no safe way to go on.
#[expect(clippy::expect_used, reason = "no session may ever be named by guessable bytes")]
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}
