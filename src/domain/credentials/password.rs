//! Passwords: Argon2id (RFC 9106) for new hashes, and other formats for existing ones.
//!
//! [`Passwords`] hashes and checks on threads of its own, [`PasswordPolicy`] decides about new passwords, and `formats`
//! parses stored hashes.

mod common;
mod formats;
mod memory_pool;
mod policy;
mod pool;
mod queue;
mod refusal_delay;
mod threads;

use std::fmt;

use zeroize::Zeroizing;

pub(crate) use self::queue::HashingTurn;
pub use self::{
    formats::{Argon2Params, UnsupportedHash},
    policy::{NewPassword, PasswordPolicy},
    pool::{PasswordCheck, Passwords},
    queue::Requester,
};
use crate::domain::Violation;

/// The longest password that is checked, in bytes, as in Django. Every hash format reduces a password to a fixed size
/// first, so a long one costs no more than a short one.
const MAX_BYTES: usize = 4096;

/// A password as typed. `Debug` does not show it.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Accepts a password to check, from the field `password`: 1 to 4,096 bytes. See [`PasswordPolicy`] for new
    /// passwords.
    pub fn presented(text: String) -> Result<Self, Violation> {
        Self::presented_in("password", text)
    }

    /// Accepts a password to check, from the field of this name: 1 to 4,096 bytes.
    pub fn presented_in(field: &'static str, text: String) -> Result<Self, Violation> {
        Self::of(field, Zeroizing::new(text))
    }

    fn of(field: &'static str, text: Zeroizing<String>) -> Result<Self, Violation> {
        if text.is_empty() {
            Err(Violation::new(field, "is missing"))
        } else if text.len() > MAX_BYTES {
            Err(Violation::new(field, format!("must be at most {MAX_BYTES} bytes")))
        } else {
            Ok(Self(text))
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}

/// A password hash as stored. It is a secret, because it can be attacked offline.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Wraps a stored hash. See [`check_supported`](Self::check_supported) for whether passwords can be checked against
    /// it.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The hash as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether two Argon2 hashes are the same, ignoring white space around them and the prefix that Django writes.
    pub fn is_same(&self, other: &Self) -> bool {
        fn bare(text: &str) -> &str {
            let text = text.trim();
            text.strip_prefix("argon2").filter(|rest| rest.starts_with('$')).unwrap_or(text)
        }
        bare(&self.0) == bare(&other.0)
    }

    /// Whether the hash is in a format of Django, which begins with the name of the algorithm or with `!`.
    pub fn is_django_format(&self) -> bool {
        let text = self.0.trim_start();
        !text.starts_with(['$', '{']) && text.contains('$') || text.starts_with('!')
    }

    /// Fails if passwords cannot be checked against the hash. A hash that no password matches on purpose is supported:
    /// an empty one, or one of Django that begins with `!`.
    pub fn check_supported(&self) -> Result<(), UnsupportedHash> {
        formats::HashFormat::parse(&self.0).map(drop)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash([redacted])")
    }
}

#[cfg(test)]
mod tests;
