//! Hashes and checks passwords, on threads of its own.
//!
//! Hashing is slow on purpose, so it is bounded twice: by the threads, and by how many may wait for them ([`Queue`]). A
//! hash is not begun where nobody waits for it any more; one that has begun is not cancelled when its client goes away,
//! and keeps its place until it is done.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use argon2::Argon2;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{
    Argon2Params, Password, PasswordHash, PasswordPolicy,
    formats::{Argon2Hash, HashFormat, UnsupportedHash},
    memory::Memory,
    queue::{HashingTurn, Limits, Queue, QueuePlace, Requester},
    refusal_delay::RefusalDelay,
    threads::{Cancelled, Threads},
};
use crate::{
    domain::{Error, types::UserId},
    isolation::log_limiter::LogLimiter,
};

/// What came of checking a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// It is the right one.
    Right {
        /// The stored hash is not Argon2id (version 0x13) with exactly the configured parameters, and is to be
        /// replaced by one that is: it depends on the whole of the password, as a new one would.
        outdated: bool,
    },
    /// It is not, or there was nothing to check it against.
    Wrong,
}

/// Hashes and checks passwords.
pub struct Passwords {
    params: Argon2Params,
    hasher: Argon2<'static>,
    policy: PasswordPolicy,
    /// Checked where there is no account, so that this costs the same.
    decoy: HashFormat,
    at_a_time: usize,
    limits: Limits,
    queue: Arc<Queue>,
    renewing: Arc<Semaphore>,
    hashes: Arc<AtomicU64>,
    renewals: Arc<AtomicU64>,
    pace: Arc<RefusalDelay>,
    threads: Threads,
    memory: Arc<Memory>,
}

impl Passwords {
    /// Hashes at this cost, `threads` at a time while at most `queue` others wait. New passwords are
    /// those of the default policy.
    pub fn new(params: Argon2Params, threads: usize, queue: usize) -> Result<Self, Error> {
        let hasher = params.argon2id().filter(|_| params.is_affordable()).ok_or_else(|| {
            Error::Internal(format!("there is no Argon2id of this cost that we could check: {params:?}"))
        })?;
        // In memory of its own: whether anybody logs in soon is open.
        let decoy = hash(&hasher, &Password(Zeroizing::new("decoy".into())), &Memory::default())?;
        let decoy = HashFormat::parse(decoy.as_str())
            .map_err(|error| Error::Internal(format!("a hash of our own cannot be read: {error}")))?;
        let started = Threads::start(threads);
        let started = started.map_err(|error| {
            Error::Internal(format!("the threads for passwords cannot be started: {error}"))
        })?;
        let pace: Arc<RefusalDelay> = Arc::default();
        let limits = Limits { threads, places: threads + queue, per_connection: usize::MAX };
        Ok(Self {
            params,
            hasher,
            policy: PasswordPolicy::default(),
            decoy,
            at_a_time: threads,
            limits,
            queue: Arc::new(Queue::new(limits, Arc::clone(&pace))),
            renewing: Arc::new(Semaphore::new(threads)),
            hashes: Arc::default(),
            renewals: Arc::default(),
            pace,
            threads: started,
            memory: Arc::default(),
        })
    }

    /// With another policy for new passwords.
    #[must_use]
    pub fn with_policy(self, policy: PasswordPolicy) -> Self {
        Self { policy, ..self }
    }

    /// With no more than so many of one connection that wait for long.
    #[must_use]
    pub fn with_connection_share(self, per_connection: usize) -> Self {
        let limits = Limits { per_connection, ..self.limits };
        Self { limits, queue: Arc::new(Queue::new(limits, Arc::clone(&self.pace))), ..self }
    }

    /// What can be a new password.
    pub const fn policy(&self) -> &PasswordPolicy {
        &self.policy
    }

    /// How many hashes have been computed that somebody waited for: one for every check, one for every
    /// new password.
    pub fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    /// How many hashes have been computed to renew old ones.
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// The hash of a new password.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, Error> {
        let (hasher, memory) = (self.hasher.clone(), Arc::clone(&self.memory));
        let turn = self.admit(Requester::default())?.turn().await?;
        self.run(turn, || true, move || hash(&hasher, &password, &memory)).await?
    }

    /// A place among those who wait for a hash.
    pub(crate) fn admit(&self, requester: Requester) -> Result<QueuePlace, Error> {
        self.queue.admit(requester)
    }

    /// Waits for a turn, and checks a password in it: see [`check_in`](Self::check_in).
    pub async fn check(
        &self,
        user_id: &UserId,
        password: &Password,
        stored: Option<&PasswordHash>,
    ) -> Result<Checked, Error> {
        let turn = self.admit(Requester::default())?.turn().await?;
        self.check_in(turn, || true, user_id, password, stored).await
    }

    /// Checks a password against the stored hash of a user, unless nobody wants to know any more when the hash is to
    /// begin. Exactly one hash is computed, whatever is stored: without a hash, or with one that we cannot read or
    /// that no password matches, the password is wrong after the work on the decoy. See [`RefusalDelay`] for the time that
    /// this takes.
    pub(crate) async fn check_in(
        &self,
        turn: HashingTurn,
        is_wanted: impl FnOnce() -> bool + Send + 'static,
        user_id: &UserId,
        password: &Password,
        stored: Option<&PasswordHash>,
    ) -> Result<Checked, Error> {
        let (stored, is_known) = match stored.map(|stored| HashFormat::parse(stored.as_str())) {
            None | Some(Ok(HashFormat::Unmatchable)) => (self.decoy.clone(), false),
            Some(Ok(stored)) => (stored, true),
            Some(Err(problem)) => {
                report(user_id, problem);
                (self.decoy.clone(), false)
            }
        };
        let is_current = stored.is_current(self.params);
        let outdated = !is_current && stored.covers(password.as_bytes());
        let (password, pace, memory) = (password.clone(), Arc::clone(&self.pace), Arc::clone(&self.memory));
        let work = move || {
            let begun = Instant::now();
            let matches = stored.matches(password.as_bytes(), &memory);
            let took = begun.elapsed();
            pace.learn(is_current, took);
            (matches, took)
        };
        let (matches, took) = self.run(turn, is_wanted, work).await?;
        if matches && is_known {
            return Ok(Checked::Right { outdated });
        }
        let rest = self.pace.rest(took);
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        Ok(Checked::Wrong)
    }

    /// The hash that is to stand in the place of `old`, which was made from the same password; `None` if
    /// there is no idle thread to compute it.
    ///
    /// It takes no place from anybody who waits, in the queue or before it: a thread is idle only if
    /// nobody waits for one. Who comes later waits for at most this one hash.
    ///
    /// Where the old hash is in a form of Django's, so is the new one: the table may be Django's, which
    /// reads no other.
    pub fn renew(
        &self,
        password: &Password,
        old: &PasswordHash,
    ) -> Option<impl Future<Output = Result<PasswordHash, Error>> + Send + 'static> {
        let renewing = Arc::clone(&self.renewing).try_acquire_owned().ok()?;
        let under_way = self.under_way() + self.at_a_time.saturating_sub(self.renewing.available_permits());
        if under_way > self.at_a_time {
            return None;
        }
        let (hasher, password) = (self.hasher.clone(), password.clone());
        let (renewals, memory) = (Arc::clone(&self.renewals), Arc::clone(&self.memory));
        let is_djangos = old.is_djangos();
        let work = self.threads.run(move || {
            let _held_while_hashing = renewing;
            renewals.fetch_add(1, Ordering::Relaxed);
            let new = hash(&hasher, &password, &memory)?;
            Ok(if is_djangos { PasswordHash(format!("argon2{}", new.as_str())) } else { new })
        });
        Some(async move { work.await.map_err(broken)? })
    }

    async fn run<T: Send + 'static>(
        &self,
        turn: HashingTurn,
        is_wanted: impl FnOnce() -> bool + Send + 'static,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let hashes = Arc::clone(&self.hashes);
        let work = self.threads.run(move || {
            if turn.is_late() || !is_wanted() {
                return Err(turn.overloaded());
            }
            let _held_while_hashing = turn.begin();
            hashes.fetch_add(1, Ordering::Relaxed);
            Ok(work())
        });
        work.await.map_err(broken)?
    }

    /// How many passwords are being hashed or wait for it.
    pub fn under_way(&self) -> usize {
        self.queue.len()
    }

    /// As if hashes had taken this long.
    #[cfg(test)]
    pub(super) fn suppose(&self, took: std::time::Duration) {
        (0..100).for_each(|_| self.pace.learn(true, took));
    }

    #[cfg(test)]
    pub(super) fn free_places(&self) -> usize {
        self.limits.places - self.queue.len()
    }
}

/// For the operator: whose hash, which kind of problem, and what to do. Never the hash.
fn report(user_id: &UserId, problem: UnsupportedHash) {
    static UNREADABLE: LogLimiter = LogLimiter::new("a stored password hash cannot be read", 20);
    if !UNREADABLE.admits("") {
        return;
    }
    tracing::error!(
        user.id = %user_id,
        error.message = %problem,
        "the stored password hash of a user cannot be read, so nobody can log in as this user: set the password again (latchkey account set-password), or store a hash of another kind"
    );
}

fn hash(hasher: &Argon2<'_>, password: &Password, memory: &Memory) -> Result<PasswordHash, Error> {
    Argon2Hash::of(hasher, password.as_bytes(), memory)
        .map(PasswordHash)
        .map_err(|error| Error::Internal(format!("hashing a password failed: {error}")))
}

fn broken(Cancelled: Cancelled) -> Error {
    Error::Internal("hashing a password failed: it panicked".to_owned())
}
