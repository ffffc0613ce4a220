//! Passwords: Argon2id (RFC 9106) for what we make, and what others made for what we read.
//!
//! [`Passwords`] does the work on threads of its own, [`PasswordPolicy`] says what can be a new password,
//! and `stored` reads the hashes.

mod common;
mod formats;
mod memory;
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
    pool::{Checked, Passwords},
    queue::Requester,
};
use crate::domain::Violation;

/// The longest password that is checked, in bytes: as long as Django ever took one. Every kind of hash brings it to a
/// fixed size first, so that it costs no more than a short one.
const MAX_BYTES: usize = 4096;

/// A password as somebody typed it. Never shown.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password to be checked, from the field `password`: 1 to 4,096 bytes. See [`PasswordPolicy`] for what can be a
    /// new one.
    pub fn presented(text: String) -> Result<Self, Violation> {
        Self::presented_in("password", text)
    }

    /// A password to be checked, from the field of this name: 1 to 4,096 bytes.
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

/// A hash as it is stored. A secret: it can be attacked offline.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// As it was stored. Whether we can check passwords against it is another question: see
    /// [`readable`](Self::readable).
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// As it is to be stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the same hash made with Argon2 as another, but for white space around it and what Django writes
    /// before it.
    pub fn is_same(&self, other: &Self) -> bool {
        fn bare(text: &str) -> &str {
            let text = text.trim();
            text.strip_prefix("argon2").filter(|rest| rest.starts_with('$')).unwrap_or(text)
        }
        bare(&self.0) == bare(&other.0)
    }

    /// Whether it is in a form of Django's, which begins with the name of the kind, or with `!`.
    pub fn is_djangos(&self) -> bool {
        let text = self.0.trim_start();
        !text.starts_with(['$', '{']) && text.contains('$') || text.starts_with('!')
    }

    /// Why we could not check a password against it, if so. A hash that no password matches on purpose
    /// (empty, or Django's, which begins with `!`) is readable.
    pub fn readable(&self) -> Result<(), UnsupportedHash> {
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
