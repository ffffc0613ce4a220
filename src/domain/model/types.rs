//! The basic values of the contract. A value of one of these types has been validated.

use std::{
    fmt,
    hash::{Hash, Hasher},
    num::NonZeroU64,
    sync::{Arc, LazyLock},
    time::Duration,
};

use aws_lc_rs::digest;
use data_encoding::{BASE32_NOPAD, Encoding, Specification};
use ecow::EcoString;
use smol_str::SmolStr;

use crate::domain::Violation;

/// A moment in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Converts microseconds since the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Converts seconds since the Unix epoch.
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

    /// The moment `duration` earlier.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// The time since `earlier`, or zero if `earlier` lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A timeout in whole microseconds. It takes half the memory of a `Duration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(u64);

impl Timeout {
    /// Converts microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The timeout in microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The timeout as a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

impl From<Duration> for Timeout {
    fn from(duration: Duration) -> Self {
        Self(micros(duration))
    }
}

/// Orders the logins of a user, which wall clocks cannot do: a number that strictly increases, computed as
/// `max(previous + 1, now in microseconds)`. See ADR 0003.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the next login, at `now`.
    #[must_use]
    pub fn next(self, now: Timestamp) -> Self {
        Self(now.as_micros().max(self.0.saturating_add(1)))
    }
}

/// Names a session with 128 random bits. Its base32 form is the `jti` of the token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// A new id.
    pub fn random() -> Self {
        Self(random())
    }

    /// Wraps the bytes of an id.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The length of the `Display` form, in bytes.
    pub const TEXT_LEN: usize = 26;

    /// Writes the `Display` form into a buffer of the caller.
    pub fn write<'a>(&self, to: &'a mut [u8; Self::TEXT_LEN]) -> &'a str {
        BASE32_LOWER.encode_mut_str(&self.0, to)
    }

    /// Parses the `Display` form.
    pub fn parse(text: &str) -> Option<Self> {
        // The alphabet is strict: a second spelling of an id would be a second name of its session.
        let mut bytes = [0; 16];
        let has_length = text.len() == Self::TEXT_LEN;
        (has_length && BASE32_LOWER.decode_mut(text.as_bytes(), &mut bytes).is_ok()).then_some(Self(bytes))
    }
}

/// Base32 (RFC 4648 section 6) in lower case, without padding.
static BASE32_LOWER: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().unwrap_or(BASE32_NOPAD)
});

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.write(&mut [0; Self::TEXT_LEN]))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The stable, opaque id of an account.
#[derive(Clone, PartialEq, Eq)]
pub struct UserId(UserIdText);

/// An id that Latchkey makes has 26 characters, which libraries for small strings put on the heap. Every token and every
/// entry of a cache holds an id, so it is stored inline. Each text has one representation.
#[derive(Clone, PartialEq, Eq)]
enum UserIdText {
    Short { length: u8, bytes: [u8; UserId::INLINE] },
    Long(Arc<str>),
}

impl UserId {
    /// The longest id, in bytes.
    pub const MAX_LEN: usize = 128;
    /// The longest id that is stored inline, in bytes.
    pub const INLINE: usize = 30;

    /// A new id: 128 random bits in base32.
    pub fn random() -> Self {
        Self::from_text(SessionId::random().write(&mut [0; SessionId::TEXT_LEN]))
    }

    fn from_text(text: &str) -> Self {
        let mut bytes = [0; Self::INLINE];
        Self(match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(start), Ok(length)) => {
                start.copy_from_slice(text.as_bytes());
                UserIdText::Short { length, bytes }
            }
            _ => UserIdText::Long(text.into()),
        })
    }

    /// Accepts an id from a request: 1 to 128 printable ASCII characters.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() {
            Err(Violation::new("user_id", "is missing; AccountService.GetAccount finds it by username"))
        } else if !printable || text.len() > Self::MAX_LEN {
            Err(Violation::new("user_id", "must be 1 to 128 printable ASCII characters"))
        } else {
            Ok(Self::from_text(text))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // It was copied from a text.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            UserIdText::Short { length, bytes } => &bytes[..usize::from(*length)],
            UserIdText::Long(text) => text.as_bytes(),
        }
    }
}

impl Hash for UserId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for UserId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UserId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UserId").field(&self.as_str()).finish()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A kind of client. The session limits apply to each slot of a user. Names are short: a string that stores 15 bytes
/// inline takes less memory than one that stores 23.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(EcoString);

impl Slot {
    /// Accepts 1 to 32 lower-case letters, digits, `_` and `-`, beginning with a letter or digit.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let shape = text.bytes().next().is_some_and(plain)
            && text.bytes().all(|byte| plain(byte) || byte == b'_' || byte == b'-');
        if shape && text.len() <= 32 {
            Ok(Self(text.into()))
        } else {
            Err(Violation::new(
                "slot",
                "must be 1 to 32 lower-case letters, digits, `_` or `-`, and begin with a letter or digit",
            ))
        }
    }

    /// The name of the slot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a client names its device, shown to the users of the sessions that it displaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device(SmolStr);

impl Device {
    /// Accepts at most 128 code points without control characters. The name may be empty.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        if !is_printable(text, 128) {
            return Err(Violation::new(
                "device",
                "must be at most 128 code points without control characters",
            ));
        }
        Ok(Self(text.into()))
    }

    /// The name, which is empty if the client gave none.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text from an operator for the user whose session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice(SmolStr);

impl Notice {
    /// Accepts at most 200 code points without control characters. Returns `None` for an empty text.
    pub fn parse(text: &str) -> Result<Option<Self>, Violation> {
        if !is_printable(text, 200) {
            return Err(Violation::new(
                "message",
                "must be at most 200 code points without control characters",
            ));
        }
        Ok(Some(Self(text.into())).filter(|notice| !notice.0.is_empty()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The hash of an idempotency key, which names a login of one user so that repeating it within a minute repeats its
/// answer. 64 bits are enough to tell apart the few logins of a user within a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginKey(NonZeroU64);

impl LoginKey {
    /// Wraps a hash. 0 stands for 1.
    pub fn from_hash(hash: u64) -> Self {
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }

    /// The hash, which is not 0.
    pub const fn hash(self) -> u64 {
        self.0.get()
    }

    /// Hashes 1 to 128 visible ASCII characters. Returns `None` for an empty text.
    pub fn parse(text: &str) -> Result<Option<Self>, Violation> {
        if text.len() > 128 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Violation::new(
                "idempotency_key",
                "must be at most 128 visible ASCII characters, such as a UUID",
            ));
        }
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_ref()[..8]);
        Ok(Some(Self::from_hash(u64::from_be_bytes(first))).filter(|_| !text.is_empty()))
    }
}

/// A name that Latchkey passes on to services without giving it a meaning.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Role(SmolStr);

impl Role {
    /// How many roles an account may have. Together with the length of a role this keeps tokens well under 4 KiB.
    pub const MAX_COUNT: usize = 32;

    /// Accepts 1 to 64 letters, digits and `_ - . : /`.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(Violation::new("roles", "each must be 1 to 64 letters, digits or `_ - . : /`"))
        }
    }

    /// Parses a list of roles, sorted and without duplicates.
    pub fn parse_all<T: AsRef<str>>(texts: &[T]) -> Result<Vec<Self>, Violation> {
        let mut roles = texts.iter().map(|text| Self::parse(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        roles.sort();
        roles.dedup();
        if roles.len() > Self::MAX_COUNT {
            return Err(Violation::new("roles", "must be at most 32"));
        }
        Ok(roles)
    }

    /// The name of the role.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The verified contents of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: the user.
    pub user_id: UserId,
    /// `jti`: the session.
    pub session_id: SessionId,
    /// `gen`: the generation of the session.
    pub generation: Generation,
    /// `slot`: the slot of the session.
    pub slot: Slot,
    /// The later of `iat` and `nbf`: the token is not valid before.
    pub not_before: Timestamp,
    /// `exp`: the absolute deadline of the session.
    pub expires_at: Timestamp,
}

/// Whether a text has at most `max` code points, without control characters.
fn is_printable(text: &str, max: usize) -> bool {
    // Most texts are short and ASCII, which is decided without decoding them.
    let is_plain = text.len() <= max && text.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    is_plain || (text.chars().count() <= max && !text.chars().any(char::is_control))
}

/// Returns random bytes from the operating system.
///
/// # Panics
/// Panics if the operating system cannot provide randomness, because there is no safe way to continue.
#[expect(clippy::expect_used, reason = "no session may be named by guessable bytes")]
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_the_form_of_an_oauth_scope() {
        // RFC 6749 section 3.3.
        let is_in_scopes = |c: char| matches!(c, '!' | '#'..='[' | ']'..='~');
        for byte in 0..=u8::MAX {
            let c = char::from(byte);
            assert!(Role::parse(&c.to_string()).is_err() || is_in_scopes(c), "{c:?}");
        }
        assert!(Role::parse("").is_err());
    }
}
