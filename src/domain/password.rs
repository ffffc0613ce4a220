//! Passwords: Argon2id (RFC 9106) on threads of its own.
//!
//! Hashing is slow on purpose, so it is bounded twice: so many at a time, and so many waiting. A permit
//! moves into the task that hashes, because a blocking task is not cancelled when its client goes away.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash as Phc},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use zeroize::Zeroizing;

use super::{Error, Violation};

/// The longest password, in code points. Argon2 would take more; nobody types it.
const MAX_LEN: usize = 256;
/// The shortest new password, in code points.
const MIN_LEN: usize = 8;

/// A stored hash may ask for this much and no more: 1 GiB, 64 passes, 64 lanes.
const MAX_STORED: Argon2Params = Argon2Params { memory_kib: 1 << 20, iterations: 64, parallelism: 64 };

/// A password as somebody typed it. Never shown.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password to be checked: 1 to 256 code points.
    pub fn presented(text: String) -> Result<Self, Violation> {
        let text = Zeroizing::new(text);
        if text.is_empty() {
            Err(Violation::new("password", "is missing"))
        } else if text.chars().nth(MAX_LEN).is_some() {
            Err(Violation::new("password", "must be at most 256 code points"))
        } else {
            Ok(Self(text))
        }
    }

    /// A password to be set: 8 to 256 code points.
    pub fn chosen(text: String) -> Result<Self, Violation> {
        let password = Self::presented(text)?;
        if password.0.chars().nth(MIN_LEN - 1).is_none() {
            return Err(Violation::new("password", "must be at least 8 code points"));
        }
        Ok(password)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}

/// A hash in the PHC string format. A secret: it can be attacked offline.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// As it was stored.
    pub const fn new(phc: String) -> Self {
        Self(phc)
    }

    /// As it is to be stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why we could not check a password against it, if so. A hash that no password matches on purpose
    /// (empty, or Django's, which begins with `!`) is readable.
    pub fn readable(&self) -> Result<(), Unreadable> {
        if self.0.is_empty() || self.0.starts_with('!') {
            return Ok(());
        }
        let params = Phc::new(&self.0)
            .ok()
            .filter(|phc| phc.algorithm.as_str().parse::<Algorithm>().is_ok())
            .and_then(|phc| Argon2Params::of(&phc));
        match params {
            None => Err(Unreadable::Unknown),
            Some(params) if params.exceeds(MAX_STORED) => Err(Unreadable::Excessive("argon2")),
            Some(_) => Ok(()),
        }
    }
}

/// Why no password can be checked against a stored hash. Says nothing of the hash but its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Of no kind that we know.
    #[error("it is of no kind that Latchkey knows")]
    Unknown,
    /// It asks for more memory or time than we are ready to spend.
    #[error("it asks for more memory or time than Latchkey is ready to spend: {0}")]
    Excessive(&'static str),
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash([redacted])")
    }
}

/// The cost of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Params {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Argon2Params {
    fn hasher(self) -> Result<Argon2<'static>, Error> {
        let params = Params::new(self.memory_kib, self.iterations, self.parallelism, None)
            .map_err(|error| Error::Internal(format!("password: {error}")))?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }

    /// What a stored hash asks for.
    fn of(phc: &Phc) -> Option<Self> {
        let params = Params::try_from(phc).ok()?;
        Some(Self { memory_kib: params.m_cost(), iterations: params.t_cost(), parallelism: params.p_cost() })
    }

    fn exceeds(self, bound: Self) -> bool {
        self.memory_kib > bound.memory_kib
            || self.iterations > bound.iterations
            || self.parallelism > bound.parallelism
    }
}

/// What came of checking a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// It is the right one.
    Right {
        /// The stored hash was made with other parameters than those configured.
        outdated: bool,
    },
    /// It is not, or there was nothing to check it against.
    Wrong,
}

/// Hashes and checks passwords.
pub struct Passwords {
    params: Argon2Params,
    hasher: Argon2<'static>,
    /// Checked where there is no account, so that this costs the same.
    decoy: PasswordHash,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    hashes: Arc<AtomicU64>,
}

impl Passwords {
    /// Hashes at this cost, `threads` at a time while at most `queue` others wait.
    pub fn new(params: Argon2Params, threads: usize, queue: usize) -> Result<Self, Error> {
        let hasher = params.hasher()?;
        let decoy = hash(&hasher, &Password(Zeroizing::new("decoy".into())))?;
        Ok(Self {
            params,
            hasher,
            decoy,
            admitted: Arc::new(Semaphore::new(threads + queue)),
            running: Arc::new(Semaphore::new(threads)),
            hashes: Arc::default(),
        })
    }

    /// How many hashes have been computed, for whatever purpose.
    pub fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    /// The hash of a new password.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, Error> {
        let hasher = self.hasher.clone();
        self.run(move || hash(&hasher, &password)).await?
    }

    /// Checks a password against a stored hash; without one, or with one that we cannot read, it is
    /// wrong after exactly the same work.
    pub async fn check(&self, password: &Password, stored: Option<&PasswordHash>) -> Result<Checked, Error> {
        let readable = stored.filter(|stored| self.readable(stored));
        let phc = readable.unwrap_or(&self.decoy).clone();
        let known = readable.is_some();
        let params = self.params;
        let password = password.clone();
        self.run(move || {
            let Ok(phc) = Phc::new(phc.as_str()) else { return Checked::Wrong };
            let matches = Argon2::default().verify_password(password.0.as_bytes(), &phc).is_ok();
            if !(matches && known) {
                return Checked::Wrong;
            }
            let current = Argon2Params::of(&phc) == Some(params) && phc.algorithm.as_str() == "argon2id";
            Checked::Right { outdated: !current }
        })
        .await
    }

    /// Whether a stored hash is one that we can check, at a cost that we are ready to pay.
    fn readable(&self, stored: &PasswordHash) -> bool {
        let ceiling =
            Argon2Params { memory_kib: MAX_STORED.memory_kib.max(self.params.memory_kib), ..MAX_STORED };
        let readable = Phc::new(stored.as_str())
            .ok()
            .filter(|phc| phc.algorithm.as_str().parse::<Algorithm>().is_ok())
            .and_then(|phc| Argon2Params::of(&phc))
            .is_some_and(|params| !params.exceeds(ceiling));
        if !readable {
            tracing::error!(
                "a stored password hash is not Argon2 in PHC format within bounds; nobody can log in with it until it is set again"
            );
        }
        readable
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => Error::Overloaded {
                what: "too many passwords are waiting to be checked",
                retry_after: Duration::from_secs(1),
            },
            TryAcquireError::Closed => Error::Internal("the password threads are gone".into()),
        })?;
        let running = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Error::Internal("the password threads are gone".into()))?;
        let hashes = Arc::clone(&self.hashes);
        let permits: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (admitted, running);
        tokio::task::spawn_blocking(move || {
            let _held_while_hashing = permits;
            hashes.fetch_add(1, Ordering::Relaxed);
            work()
        })
        .await
        .map_err(|error| Error::Internal(format!("hashing a password failed: {error}")))
    }
}

fn hash(hasher: &Argon2<'_>, password: &Password) -> Result<PasswordHash, Error> {
    hasher
        .hash_password(password.0.as_bytes())
        .map(|phc| PasswordHash(phc.to_string()))
        .map_err(|error| Error::Internal(format!("hashing a password failed: {error}")))
}

#[cfg(test)]
mod tests;
