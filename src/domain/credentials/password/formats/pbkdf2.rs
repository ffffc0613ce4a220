//! PBKDF2 (RFC 8018, section 5.2), as stored by Django, passlib and writers of PHC strings.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::{
    UnsupportedHash, number,
    phc::{Phc, bounded},
    same,
};

/// The most iterations over all blocks of the output, which take some seconds.
const MAX_ITERATIONS: u64 = 5_000_000;

const MALFORMED: UnsupportedHash = UnsupportedHash::Malformed("pbkdf2");

/// A hash made with PBKDF2.
#[derive(Clone)]
pub(in super::super) struct Pbkdf2Hash {
    hmac: pbkdf2::Algorithm,
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Pbkdf2Hash {
    /// Parses Django's `iterations$salt$hash`: the salt is text, the hash is in Base64 with padding.
    pub(super) fn django(kind: &str, rest: &str) -> Result<Self, UnsupportedHash> {
        let mut parts = rest.split('$');
        let mut next = || parts.next().ok_or(MALFORMED);
        let (iterations, salt, hash) = (next()?, next()?, next()?);
        if parts.next().is_some() || salt.is_empty() {
            return Err(MALFORMED);
        }
        let iterations = number(iterations).ok_or(MALFORMED)?;
        let hash = BASE64.decode(hash.as_bytes()).map_err(|_| MALFORMED)?;
        Self::new(kind, iterations, bounded(salt.into(), hash))
    }

    /// Parses a PHC string, `i=iterations,l=length$salt$hash`, or passlib's `iterations$salt$hash`.
    pub(super) fn phc(kind: &str, rest: &str) -> Result<Self, UnsupportedHash> {
        let phc = Phc::parse(rest).filter(|phc| phc.version.is_none()).ok_or(MALFORMED)?;
        if let Some(iterations) = number(phc.params) {
            return Self::new(kind, iterations, phc.passlib_salt_and_hash());
        }
        let ([iterations], [length]) = phc.numbers(["i"], ["l"]).ok_or(MALFORMED)?;
        let parts = phc.salt_and_hash().filter(|(_, hash)| length.is_none_or(|l| l == hash.len() as u64));
        Self::new(kind, iterations, parts)
    }

    fn new(kind: &str, iterations: u64, parts: Option<(Vec<u8>, Vec<u8>)>) -> Result<Self, UnsupportedHash> {
        let (salt, hash) = parts.ok_or(MALFORMED)?;
        let (hmac, block) = match kind {
            // passlib's name for SHA-1 does not mention it.
            "pbkdf2" | "pbkdf2-sha1" | "pbkdf2_sha1" => (pbkdf2::PBKDF2_HMAC_SHA1, 20),
            "pbkdf2-sha256" | "pbkdf2_sha256" => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
            "pbkdf2-sha512" | "pbkdf2_sha512" => (pbkdf2::PBKDF2_HMAC_SHA512, 64),
            _ => return Err(MALFORMED),
        };
        let blocks = hash.len().div_ceil(block) as u64;
        if iterations.saturating_mul(blocks) > MAX_ITERATIONS {
            return Err(UnsupportedHash::Excessive("pbkdf2"));
        }
        let iterations = u32::try_from(iterations).ok().and_then(NonZeroU32::new).ok_or(MALFORMED)?;
        Ok(Self { hmac, iterations, salt, hash })
    }

    pub(super) fn matches(&self, password: &[u8]) -> bool {
        let mut hash = Zeroizing::new(vec![0; self.hash.len()]);
        pbkdf2::derive(self.hmac, self.iterations, &self.salt, password, &mut hash);
        same(&hash, &self.hash)
    }

    #[cfg(test)]
    pub(super) fn is_cheap(&self) -> bool {
        self.iterations.get() <= 100_000
    }
}
