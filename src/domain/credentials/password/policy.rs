//! The policy for new passwords, after NIST SP 800-63B-4, section 3.1.1.2.
//!
//! There is a minimum length and a blocklist of whole passwords, but no composition rules and no expiry. Passwords are
//! compared with the blocklist without regard to case and compatibility variants (NFKC and case folding), but hashed
//! exactly as typed.

use std::{collections::HashSet, fmt};

use caseless::Caseless as _;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::{Password, common};
use crate::domain::{Violation, username::Username};

/// The longest new password, in code points. This is a limit of usability, not of Argon2.
const MAX_LEN: usize = 256;
/// The minimum length that NIST requires of a password as the only factor, in code points.
const DEFAULT_MIN_LENGTH: usize = 15;

/// A new password as typed in a field of a request, not yet checked against the policy. `Debug` does not show it.
#[derive(Clone)]
pub struct NewPassword {
    field: &'static str,
    text: Zeroizing<String>,
}

impl NewPassword {
    /// Takes a password from the field of this name.
    pub fn new(field: &'static str, text: String) -> Self {
        Self { field, text: Zeroizing::new(text) }
    }
}

impl fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewPassword([redacted])")
    }
}

/// The policy for new passwords.
#[derive(Debug, Clone)]
pub struct PasswordPolicy {
    min_length: usize,
    /// The forbidden names of the service, normalized by [`compared`].
    service_names: Vec<String>,
    /// The forbidden passwords of the operator, normalized by [`compared`].
    blocklist: HashSet<String>,
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self::new(DEFAULT_MIN_LENGTH, ["latchkey"])
    }
}

impl PasswordPolicy {
    /// Requires at least this many code points, and forbids these names of the service.
    pub fn new<'a>(min_length: usize, service_names: impl IntoIterator<Item = &'a str>) -> Self {
        let service_names = service_names.into_iter().map(|name| compared(name).to_string()).collect();
        Self { min_length, service_names, blocklist: HashSet::new() }
    }

    /// Also forbids these passwords, such as names that only the operator knows.
    #[must_use]
    pub fn with_blocklist<'a>(mut self, passwords: impl IntoIterator<Item = &'a str>) -> Self {
        self.blocklist =
            passwords.into_iter().map(|password| compared(password.trim()).to_string()).collect();
        self
    }

    /// Checks a new password of this user. The violation names the field of the password.
    pub fn check(&self, new: NewPassword, username: &Username) -> Result<Password, Violation> {
        let NewPassword { field, text } = new;
        if text.chars().nth(MAX_LEN).is_some() {
            return Err(Violation::new(field, format!("must be at most {MAX_LEN} code points")));
        }
        let password = Password::of(field, text)?;
        if self.min_length > 0 && password.0.chars().nth(self.min_length - 1).is_none() {
            return Err(Violation::new(field, format!("must be at least {} code points", self.min_length)));
        }
        let text = compared(&password.0);
        let violation = if *text == *compared(username.as_str()) {
            "must not be the username"
        } else if self.service_names.contains(&text) {
            "must not be the name of this service"
        } else if self.blocklist.contains(&*text) {
            "is on the blocklist of this service: choose another"
        } else if common::contains(&text) {
            "is one of the most common passwords: choose another"
        } else {
            return Ok(password);
        };
        Err(Violation::new(field, violation))
    }
}

/// Normalizes a text for comparison: compatibility caseless matching (The Unicode Standard, definition D146) with one
/// round of folding instead of two, which makes a difference for a handful of characters.
pub(super) fn compared(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.nfkc().default_case_fold().nfkc().collect())
}

#[cfg(test)]
mod tests;
