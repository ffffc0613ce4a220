//! Argon2 (RFC 9106): new hashes, and those of others.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{
        self,
        phc::{Output, ParamsString, PasswordHash, Salt},
    },
};
use zeroize::Zeroizing;

use super::{UnsupportedHash, phc::Phc, same};
use crate::domain::{password::memory_pool::MemoryPool, types::random};

/// The most memory, in KiB: 1 GiB.
const MAX_MEMORY_KIB: u32 = 1 << 20;
/// The most passes, and the most lanes.
const MAX_PASSES: u32 = 64;
/// The most memory that all passes process together, in KiB: 4 GiB, which takes some seconds. The most expensive preset
/// of libsodium asks for exactly this.
const MAX_WORK_KIB: u64 = 1 << 22;
/// The length of new hashes, in bytes.
const OUR_LEN: usize = Params::DEFAULT_OUTPUT_LEN;

const MALFORMED: UnsupportedHash = UnsupportedHash::Malformed("argon2");

/// The cost of an Argon2 hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Params {
    /// The memory, in KiB.
    pub memory_kib: u32,
    /// The number of passes over the memory.
    pub iterations: u32,
    /// The number of lanes.
    pub parallelism: u32,
}

impl Argon2Params {
    /// Whether the cost is within the limits: at most 1 GiB, 64 passes, 64 lanes, and 4 GiB over all passes.
    pub fn is_affordable(self) -> bool {
        self.memory_kib <= MAX_MEMORY_KIB
            && self.iterations <= MAX_PASSES
            && self.parallelism <= MAX_PASSES
            && u64::from(self.memory_kib) * u64::from(self.iterations) <= MAX_WORK_KIB
    }

    /// Creates an Argon2id hasher of this cost. Returns `None` if the parameters are invalid.
    pub(in super::super) fn argon2id(self) -> Option<Argon2<'static>> {
        self.with(Algorithm::Argon2id, Version::V0x13)
    }

    fn with(self, algorithm: Algorithm, version: Version) -> Option<Argon2<'static>> {
        let params = Params::new(self.memory_kib, self.iterations, self.parallelism, None).ok()?;
        Some(Argon2::new(algorithm, version, params))
    }
}

/// A hash made with Argon2.
#[derive(Clone)]
pub(in super::super) struct Argon2Hash {
    hasher: Argon2<'static>,
    params: Argon2Params,
    /// Whether it is Argon2id of the version of RFC 9106.
    is_ours: bool,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Argon2Hash {
    /// Parses the part after the variant.
    pub(super) fn parse(variant: &str, rest: &str) -> Result<Self, UnsupportedHash> {
        let algorithm = variant.parse::<Algorithm>().map_err(|_| MALFORMED)?;
        let phc = Phc::parse(rest).ok_or(MALFORMED)?;
        // Version 0x13 introduced the field; a hash without it has the version before.
        let version = match phc.version {
            None | Some(0x10) => Version::V0x10,
            Some(0x13) => Version::V0x13,
            Some(_) => return Err(MALFORMED),
        };
        let ([memory, iterations, parallelism], []) = phc.numbers(["m", "t", "p"], []).ok_or(MALFORMED)?;
        let small = |value: u64| u32::try_from(value).map_err(|_| UnsupportedHash::Excessive("argon2"));
        let params = Argon2Params {
            memory_kib: small(memory)?,
            iterations: small(iterations)?,
            parallelism: small(parallelism)?,
        };
        if !params.is_affordable() {
            return Err(UnsupportedHash::Excessive("argon2"));
        }
        let hasher = params.with(algorithm, version).ok_or(MALFORMED)?;
        let (salt, hash) = phc.salt_and_hash().ok_or(MALFORMED)?;
        if salt.len() < argon2::MIN_SALT_LEN {
            return Err(MALFORMED);
        }
        let is_ours = algorithm == Algorithm::Argon2id && version == Version::V0x13;
        Ok(Self { hasher, params, is_ours, salt, hash })
    }

    /// Hashes a new password with a random salt, as a PHC string.
    pub(in super::super) fn of(
        hasher: &Argon2<'_>,
        password: &[u8],
        memory: &MemoryPool,
    ) -> Result<String, password_hash::Error> {
        let salt: [u8; Salt::RECOMMENDED_LENGTH] = random();
        let mut hash = Zeroizing::new([0; OUR_LEN]);
        memory.with_blocks(hasher.params().block_count(), |blocks| {
            hasher.hash_password_into_with_memory(password, &salt, &mut *hash, blocks)
        })?;
        let phc = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(hasher.params())?,
            salt: Some(Salt::new(&salt)?),
            hash: Some(Output::new(&*hash)?),
        };
        Ok(phc.to_string())
    }

    pub(super) fn matches(&self, password: &[u8], memory: &MemoryPool) -> bool {
        let mut hash = Zeroizing::new(vec![0; self.hash.len()]);
        let computed = memory.with_blocks(self.hasher.params().block_count(), |blocks| {
            self.hasher.hash_password_into_with_memory(password, &self.salt, &mut hash, blocks)
        });
        computed.is_ok() && same(&hash, &self.hash)
    }

    pub(super) fn is_current(&self, params: Argon2Params) -> bool {
        self.is_ours && self.params == params && self.hash.len() == OUR_LEN
    }

    #[cfg(test)]
    pub(super) fn is_cheap(&self) -> bool {
        self.params.memory_kib <= 1 << 12 && self.params.iterations <= 4
    }
}
