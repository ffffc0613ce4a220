//! bcrypt (Provos and Mazières, "A Future-Adaptable Password Scheme", 1999), and the formats that Django builds on it.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{UnsupportedHash, number, same};

/// The supported costs: two to this power is the number of rounds. A check of cost 15 takes some seconds.
const COST: std::ops::RangeInclusive<u64> = 4..=15;
/// How much of a password bcrypt uses, in bytes.
const MAX_KEY: usize = 72;
/// The alphabet of bcrypt's Base64.
const ALPHABET: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

const MALFORMED: UnsupportedHash = UnsupportedHash::Malformed("bcrypt");

/// A hash made with bcrypt.
#[derive(Clone)]
pub(in super::super) struct BcryptHash {
    cost: u32,
    salt: [u8; 16],
    hash: [u8; 23],
    /// Whether it is Django's `bcrypt_sha256`, which hashes the SHA-256 of the password in hexadecimal.
    of_sha256: bool,
}

impl BcryptHash {
    /// Parses `$2b$cost$` and 53 characters. 2a and 2y are 2b under other names: they differed only by bugs of
    /// implementations that are no longer used. 2x keeps such a bug on purpose and is not supported.
    pub(super) fn parse(text: &str, of_sha256: bool) -> Result<Self, UnsupportedHash> {
        let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|name| text.strip_prefix(name));
        let (cost, rest) = rest.and_then(|rest| rest.split_once('$')).ok_or(MALFORMED)?;
        let cost = Some(cost).filter(|cost| cost.len() == 2).and_then(number).ok_or(MALFORMED)?;
        let (salt, hash) = rest.split_at_checked(22).ok_or(MALFORMED)?;
        let salt = decode(salt).ok_or(MALFORMED)?;
        let hash = Some(hash).filter(|hash| hash.len() == 31).and_then(decode).ok_or(MALFORMED)?;
        if cost < *COST.start() {
            return Err(MALFORMED);
        }
        let cost = u32::try_from(cost).ok().filter(|_| COST.contains(&cost));
        Ok(Self { cost: cost.ok_or(UnsupportedHash::Excessive("bcrypt"))?, salt, hash, of_sha256 })
    }

    /// Checks a password as the implementations that made the hash do.
    ///
    /// Only the first 72 bytes of a long password count. Rejecting it, as Python's bcrypt 5 does, would lock out users
    /// who have had one all along. A NUL does not end the password as in crypt(3), which would match whatever follows;
    /// it is a byte like any other, as in Python's bcrypt since 4.0.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        let digits = Zeroizing::new(if self.of_sha256 {
            HEXLOWER.encode(digest::digest(&digest::SHA256, password).as_ref())
        } else {
            String::new()
        });
        let text = if self.of_sha256 { digits.as_bytes() } else { password };
        // The terminating NUL is part of the key if there is room for it.
        let mut key = Zeroizing::new([0; MAX_KEY]);
        let length = text.len().min(MAX_KEY);
        key[..length].copy_from_slice(&text[..length]);
        let used = (length + 1).min(MAX_KEY);
        let computed = Zeroizing::new(bcrypt::bcrypt(self.cost, self.salt, &key[..used]));
        same(&computed[..23], &self.hash)
    }

    /// Whether the hash depends on the whole of a password that matches it. 72 bytes may be the beginning of a longer
    /// password; and after a NUL, bcrypt may have repeated the same bytes to fill its key.
    pub(super) fn covers(&self, password: &[u8]) -> bool {
        self.of_sha256 || password.len() < MAX_KEY && !password.contains(&0)
    }

    #[cfg(test)]
    pub(super) fn is_cheap(&self) -> bool {
        self.cost <= 6
    }
}

/// Decodes bcrypt's Base64. Surplus bits at the end are ignored, because some implementations write random ones into
/// salts.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (mut bits, mut count, mut filled) = (0_u32, 0, 0);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == character)?;
        bits = (bits << 6) | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            *bytes.get_mut(filled)? = (bits >> count).to_le_bytes()[0];
            filled += 1;
        }
    }
    (filled == N).then_some(bytes)
}
