//! scrypt (RFC 7914), as stored by Django and writers of PHC strings.

use data_encoding::BASE64;
use scrypt::Params;
use zeroize::Zeroizing;

use super::{
    UnsupportedHash, number,
    phc::{Phc, bounded},
    same,
};

/// The largest N * r * p, the number of blocks of 128 bytes: 512 MiB if p is 1, and some seconds in any case.
const MAX_WORK: u64 = 1 << 22;

const MALFORMED: UnsupportedHash = UnsupportedHash::Malformed("scrypt");

/// A hash made with scrypt.
#[derive(Clone)]
pub(in super::super) struct ScryptHash {
    params: Params,
    #[cfg(test)]
    work: u64,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl ScryptHash {
    /// Parses Django's `N$salt$r$p$hash`: the salt is text, the hash is in Base64 with padding.
    pub(super) fn django(rest: &str) -> Result<Self, UnsupportedHash> {
        let mut parts = rest.split('$');
        let mut next = || parts.next().ok_or(MALFORMED);
        let (n, salt, r, p, hash) = (next()?, next()?, next()?, next()?, next()?);
        if parts.next().is_some() || salt.is_empty() {
            return Err(MALFORMED);
        }
        let n = number(n).ok_or(MALFORMED)?;
        if n > MAX_WORK {
            return Err(UnsupportedHash::Excessive("scrypt"));
        }
        if !n.is_power_of_two() {
            return Err(MALFORMED);
        }
        let (r, p) = (number(r).ok_or(MALFORMED)?, number(p).ok_or(MALFORMED)?);
        let hash = BASE64.decode(hash.as_bytes()).map_err(|_| MALFORMED)?;
        Self::new(n.ilog2().into(), r, p, bounded(salt.into(), hash))
    }

    /// Parses a PHC string, `ln=log2(N),r=r,p=p$salt$hash`.
    pub(super) fn phc(rest: &str) -> Result<Self, UnsupportedHash> {
        let phc = Phc::parse(rest).filter(|phc| phc.version.is_none()).ok_or(MALFORMED)?;
        let ([log_n, r, p], []) = phc.numbers(["ln", "r", "p"], []).ok_or(MALFORMED)?;
        Self::new(log_n, r, p, phc.salt_and_hash())
    }

    fn new(log_n: u64, r: u64, p: u64, parts: Option<(Vec<u8>, Vec<u8>)>) -> Result<Self, UnsupportedHash> {
        let (salt, hash) = parts.ok_or(MALFORMED)?;
        if log_n == 0 || r == 0 || p == 0 {
            return Err(MALFORMED);
        }
        let n = u32::try_from(log_n).ok().and_then(|log_n| 1_u64.checked_shl(log_n)).unwrap_or(u64::MAX);
        let work = n.saturating_mul(r).saturating_mul(p);
        if work > MAX_WORK {
            return Err(UnsupportedHash::Excessive("scrypt"));
        }
        let params = match (u8::try_from(log_n), u32::try_from(r), u32::try_from(p)) {
            (Ok(log_n), Ok(r), Ok(p)) => Params::new(log_n, r, p).map_err(|_| MALFORMED)?,
            _ => return Err(UnsupportedHash::Excessive("scrypt")),
        };
        Ok(Self {
            params,
            #[cfg(test)]
            work,
            salt,
            hash,
        })
    }

    pub(super) fn matches(&self, password: &[u8]) -> bool {
        let mut hash = Zeroizing::new(vec![0; self.hash.len()]);
        let computed = scrypt::scrypt(password, &self.salt, &self.params, &mut hash);
        computed.is_ok() && same(&hash, &self.hash)
    }

    #[cfg(test)]
    pub(super) fn is_cheap(&self) -> bool {
        self.work <= 1 << 14
    }
}
