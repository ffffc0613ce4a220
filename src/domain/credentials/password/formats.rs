//! Formats of stored hashes: those of Latchkey, Django, passlib, and writers of PHC strings.
//!
//! | kind | what it looks like |
//! |---|---|
//! | Argon2id, i, d | `$argon2id$v=19$m=..,t=..,p=..$salt$hash` (no `v`: version 0x10); Django: `argon2$argon2id$...` |
//! | bcrypt | `$2a$`, `$2b$`, `$2y$`; Django: `bcrypt$$2b$...`, `bcrypt_sha256$$2b$...` |
//! | PBKDF2 with SHA-1, SHA-256, SHA-512 | `$pbkdf2-sha256$i=..,l=..$salt$hash`; passlib: `$pbkdf2-sha256$rounds$salt$hash`; Django: `pbkdf2_sha256$iterations$salt$hash` |
//! | scrypt | `$scrypt$ln=..,r=..,p=..$salt$hash`; Django: `scrypt$N$salt$r$p$hash` |
//!
//! A hash names its own cost, so whoever can write hashes could make the server spend any time and memory. The cost is
//! therefore limited: one check takes at most 1 GiB and a few seconds. A hash that asks for more is not supported.

mod argon2;
mod bcrypt;
mod pbkdf2;
mod phc;
mod scrypt;

use subtle::ConstantTimeEq as _;

pub(super) use self::argon2::Argon2Hash;
pub use self::argon2::Argon2Params;
use self::{bcrypt::BcryptHash, pbkdf2::Pbkdf2Hash, scrypt::ScryptHash};
use super::memory_pool::MemoryPool;

/// The longest text of a hash, in bytes. A longer one is not parsed.
const MAX_TEXT: usize = 512;
/// The longest salt, in bytes.
const MAX_SALT: usize = 128;
/// The possible lengths of the hash itself, in bytes. Other passwords may match a shorter one too.
const HASH_LEN: std::ops::RangeInclusive<usize> = 16..=64;

/// Why passwords cannot be checked against a stored hash. It reveals nothing of the hash but its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedHash {
    /// The kind is known but not supported.
    #[error("it is of a kind that is not supported: {0}")]
    Unsupported(&'static str),
    /// The kind is unknown.
    #[error("it is of an unknown kind")]
    Unknown,
    /// The kind is supported, but the hash is garbled or truncated.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// The hash asks for more memory or time than the server spends.
    #[error("it asks for more memory or time than Latchkey spends on a check: {0}")]
    Excessive(&'static str),
}

/// Hashes that are not supported, by their prefix. The first match counts.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("$1$", "md5-crypt"),
    ("$apr1$", "md5-crypt of Apache"),
    ("$5$", "sha256-crypt"),
    ("$6$", "sha512-crypt"),
    ("$y$", "yescrypt"),
    ("$gy$", "gost-yescrypt"),
    ("$7$", "scrypt as crypt(3) writes it"),
    ("$2$", "bcrypt of the first version"),
    ("$2x$", "bcrypt with the sign extension bug of 2011"),
    ("$bcrypt-sha256$", "bcrypt-sha256 of passlib"),
    ("$P$", "phpass"),
    ("$H$", "phpass"),
    ("$S$", "sha512 of Drupal"),
    ("md5$", "md5"),
    ("sha1$", "sha1"),
    ("unsalted_md5$", "md5 without a salt"),
    ("unsalted_sha1$", "sha1 without a salt"),
    ("crypt$", "crypt(3)"),
    ("pbkdf2:", "pbkdf2 of Werkzeug"),
    ("scrypt:", "scrypt of Werkzeug"),
    ("{", "an LDAP scheme"),
    ("*", "mysql_native_password, or a locked account of Unix"),
];

/// A stored hash that passwords can be checked against.
#[derive(Clone)]
pub(super) enum HashFormat {
    Argon2(Argon2Hash),
    Bcrypt(BcryptHash),
    Pbkdf2(Pbkdf2Hash),
    Scrypt(ScryptHash),
    /// No password matches, on purpose: the hash is empty, or one of Django that begins with `!`.
    Unmatchable,
}

impl HashFormat {
    /// Parses a hash and limits its cost.
    pub(super) fn parse(text: &str) -> Result<Self, UnsupportedHash> {
        // A column may be padded, and a copied line may include its end.
        let text = text.trim();
        if text.is_empty() || text.starts_with('!') {
            return Ok(Self::Unmatchable);
        }
        if text.len() > MAX_TEXT {
            return Err(UnsupportedHash::Unknown);
        }
        let (is_phc, text_of_kind) = match text.strip_prefix('$') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (kind, rest) = text_of_kind.split_once('$').unwrap_or((text_of_kind, ""));
        match (is_phc, kind) {
            (true, "argon2id" | "argon2i" | "argon2d") => Argon2Hash::parse(kind, rest).map(Self::Argon2),
            (false, "argon2") => {
                let (variant, rest) = rest.split_once('$').unwrap_or((rest, ""));
                Argon2Hash::parse(variant, rest).map(Self::Argon2)
            }
            (true, "2a" | "2b" | "2y") => BcryptHash::parse(text, false).map(Self::Bcrypt),
            (false, "bcrypt") => BcryptHash::parse(rest, false).map(Self::Bcrypt),
            (false, "bcrypt_sha256") => BcryptHash::parse(rest, true).map(Self::Bcrypt),
            (true, "pbkdf2" | "pbkdf2-sha1" | "pbkdf2-sha256" | "pbkdf2-sha512") => {
                Pbkdf2Hash::phc(kind, rest).map(Self::Pbkdf2)
            }
            (false, "pbkdf2_sha1" | "pbkdf2_sha256" | "pbkdf2_sha512") => {
                Pbkdf2Hash::django(kind, rest).map(Self::Pbkdf2)
            }
            (true, "scrypt") => ScryptHash::phc(rest).map(Self::Scrypt),
            (false, "scrypt") => ScryptHash::django(rest).map(Self::Scrypt),
            _ => Err(unsupported(text)),
        }
    }

    /// Checks a password. It always does the whole work and compares in constant time.
    pub(super) fn matches(&self, password: &[u8], memory: &MemoryPool) -> bool {
        match self {
            Self::Argon2(hash) => hash.matches(password, memory),
            Self::Bcrypt(hash) => hash.matches(password),
            Self::Pbkdf2(hash) => hash.matches(password),
            Self::Scrypt(hash) => hash.matches(password),
            Self::Unmatchable => false,
        }
    }

    /// Whether the hash depends on the whole of a password that matches it, so that a new hash of this password would
    /// match the same passwords. HMAC, on which PBKDF2 and scrypt are built, ignores zeros at the end of its key.
    pub(super) fn covers(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(_) => true,
            Self::Bcrypt(hash) => hash.covers(password),
            Self::Pbkdf2(_) | Self::Scrypt(_) => !password.contains(&0),
            Self::Unmatchable => false,
        }
    }

    /// Whether a new hash would have the same format and cost.
    pub(super) fn is_current(&self, params: Argon2Params) -> bool {
        matches!(self, Self::Argon2(hash) if hash.is_current(params))
    }
}

/// Names the kind with a fixed text, because the hash itself must not be logged.
fn unsupported(text: &str) -> UnsupportedHash {
    let known = UNSUPPORTED.iter().find(|(beginning, _)| text.starts_with(beginning));
    known.map_or(UnsupportedHash::Unknown, |(_, kind)| UnsupportedHash::Unsupported(kind))
}

fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

/// Parses decimal digits. A number that is too large becomes the largest one.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
