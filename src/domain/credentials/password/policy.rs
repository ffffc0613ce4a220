//! What can be a new password: NIST SP 800-63B-4, section 3.1.1.2.
//!
//! A minimum length and a blocklist of whole passwords; no rules of composition, no expiry. What is
//! compared with the blocklist is the password without regard to case and to compatibility variants (NFKC
//! and case folding); what is hashed is the password exactly as typed.

use std::fmt;

use caseless::Caseless as _;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::{Password, common};
use crate::domain::{Violation, username::Username};

/// The longest new password, in code points. Argon2 would take more; nobody types it.
const MAX_LEN: usize = 256;
/// What NIST asks for where the password is the only factor, in code points.
const DEFAULT_MIN_LENGTH: usize = 15;

/// A new password as somebody typed it, in a field of a request, before any policy has seen it. Never
/// shown.
#[derive(Clone)]
pub struct NewPassword {
    field: &'static str,
    text: Zeroizing<String>,
}

impl NewPassword {
    /// From the field of this name.
    pub fn new(field: &'static str, text: String) -> Self {
        Self { field, text: Zeroizing::new(text) }
    }
}

impl fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewPassword([redacted])")
    }
}

/// What can be a new password.
#[derive(Debug, Clone)]
pub struct PasswordPolicy {
    min_length: usize,
    /// As they are compared.
    service_names: Vec<String>,
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self::new(DEFAULT_MIN_LENGTH, ["latchkey"])
    }
}

impl PasswordPolicy {
    /// At least this many code points, and none of these names of the service.
    pub fn new<'a>(min_length: usize, service_names: impl IntoIterator<Item = &'a str>) -> Self {
        let service_names = service_names.into_iter().map(|name| compared(name).to_string()).collect();
        Self { min_length, service_names }
    }

    /// The password, if it can be one for this user. What is wrong with it is said by the field that it
    /// came in.
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
        let refusal = if *text == *compared(username.as_str()) {
            "must not be the username"
        } else if self.service_names.contains(&text) {
            "must not be the name of this service"
        } else if common::contains(&text) {
            "is one of the most common passwords: choose another"
        } else {
            return Ok(password);
        };
        Err(Violation::new(field, refusal))
    }
}

/// A text as it is compared: compatibility caseless matching (The Unicode Standard, definition D146) with
/// one round of folding instead of two, which differs for a handful of characters.
pub(super) fn compared(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.nfkc().default_case_fold().nfkc().collect())
}

#[cfg(test)]
mod tests;
