//! Hashes and checks passwords on threads of its own.
//!
//! Hashing is slow on purpose, so it is bounded by the number of threads and by the password queue ([`Queue`]). A hash
//! is not begun if nobody waits for it any more. Once begun, it is not cancelled when its client goes away, and keeps
//! its place in the queue until it is done.

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
    memory_pool::MemoryPool,
    queue::{HashingTurn, Limits, Queue, QueuePlace, Requester},
    refusal_delay::RefusalDelay,
    threads::{HashPanicked, Threads},
};
use crate::{
    domain::{Error, types::UserId},
    isolation::log_limiter::LogLimiter,
    metrics::Histogram,
};

/// The result of a password check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordCheck {
    /// The password is right.
    Right {
        /// Whether the stored hash should be renewed: it is not Argon2id (version 0x13) with exactly the configured
        /// parameters, and it depends on the whole password, as the new hash will.
        outdated: bool,
    },
    /// The password is wrong, or there was no hash to check it against.
    Wrong,
}

/// Hashes and checks passwords.
pub struct Passwords {
    params: Argon2Params,
    hasher: Argon2<'static>,
    policy: PasswordPolicy,
    /// Checked if there is no account, so that the check costs the same.
    decoy: HashFormat,
    thread_count: usize,
    limits: Limits,
    queue: Arc<Queue>,
    renewing: Arc<Semaphore>,
    hashes: Arc<AtomicU64>,
    renewals: Arc<AtomicU64>,
    durations: Arc<Histogram>,
    refusal_delay: Arc<RefusalDelay>,
    threads: Threads,
    memory: Arc<MemoryPool>,
}

impl Passwords {
    /// Hashes at this cost on `threads` threads, with at most `queue` more requests waiting. New passwords follow the
    /// default policy.
    pub fn new(params: Argon2Params, threads: usize, queue: usize) -> Result<Self, Error> {
        let hasher = params.argon2id().filter(|_| params.is_affordable()).ok_or_else(|| {
            Error::Internal(format!("invalid or unaffordable Argon2id parameters: {params:?}"))
        })?;
        // The decoy uses memory of its own, which is not kept until the first login.
        let decoy = hash(&hasher, &Password(Zeroizing::new("decoy".into())), &MemoryPool::default())?;
        let decoy = HashFormat::parse(decoy.as_str())
            .map_err(|error| Error::Internal(format!("failed to parse the decoy hash: {error}")))?;
        let hashing_threads = Threads::start(threads)
            .map_err(|error| Error::Internal(format!("failed to start the hashing threads: {error}")))?;
        let refusal_delay: Arc<RefusalDelay> = Arc::default();
        let limits = Limits { threads, places: threads + queue, per_connection: usize::MAX };
        Ok(Self {
            params,
            hasher,
            policy: PasswordPolicy::default(),
            decoy,
            thread_count: threads,
            limits,
            queue: Arc::new(Queue::new(limits, Arc::clone(&refusal_delay))),
            renewing: Arc::new(Semaphore::new(threads)),
            hashes: Arc::default(),
            renewals: Arc::default(),
            durations: Arc::default(),
            refusal_delay,
            threads: hashing_threads,
            memory: Arc::default(),
        })
    }

    /// Replaces the policy for new passwords.
    #[must_use]
    pub fn with_policy(self, policy: PasswordPolicy) -> Self {
        Self { policy, ..self }
    }

    /// Limits the requests of one connection that wait for long.
    #[must_use]
    pub fn with_connection_share(self, per_connection: usize) -> Self {
        let limits = Limits { per_connection, ..self.limits };
        Self { limits, queue: Arc::new(Queue::new(limits, Arc::clone(&self.refusal_delay))), ..self }
    }

    /// The policy for new passwords.
    pub const fn policy(&self) -> &PasswordPolicy {
        &self.policy
    }

    /// How many hashes were computed for requests: one per check and one per new password.
    pub fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    /// How many hashes were computed to renew old ones.
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// The durations of all hashes, without the time in the queue.
    pub fn durations(&self) -> &Histogram {
        &self.durations
    }

    /// Hashes a new password.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, Error> {
        let (hasher, memory) = (self.hasher.clone(), Arc::clone(&self.memory));
        let turn = self.admit(Requester::default())?.turn().await?;
        self.run(turn, || true, move || hash(&hasher, &password, &memory)).await?
    }

    /// Takes a place in the password queue.
    pub(crate) fn admit(&self, requester: Requester) -> Result<QueuePlace, Error> {
        self.queue.admit(requester)
    }

    /// Waits for a turn and checks a password: see [`check_in`](Self::check_in).
    pub async fn check(
        &self,
        user_id: &UserId,
        password: &Password,
        stored: Option<&PasswordHash>,
    ) -> Result<PasswordCheck, Error> {
        let turn = self.admit(Requester::default())?.turn().await?;
        self.check_in(turn, || true, user_id, password, stored).await
    }

    /// Checks a password against the stored hash of a user, unless nobody waits for it when the hash is to begin.
    ///
    /// Exactly one hash is computed, whatever is stored. Without a hash, or with one that is not supported or matches
    /// no password, the decoy is checked and the password is wrong. See [`RefusalDelay`] for the duration.
    pub(crate) async fn check_in(
        &self,
        turn: HashingTurn,
        is_wanted: impl FnOnce() -> bool + Send + 'static,
        user_id: &UserId,
        password: &Password,
        stored: Option<&PasswordHash>,
    ) -> Result<PasswordCheck, Error> {
        let (stored, is_known) = match stored.map(|stored| HashFormat::parse(stored.as_str())) {
            None | Some(Ok(HashFormat::Unmatchable)) => (self.decoy.clone(), false),
            Some(Ok(stored)) => (stored, true),
            Some(Err(error)) => {
                report_unsupported(user_id, error);
                (self.decoy.clone(), false)
            }
        };
        let is_current = stored.is_current(self.params);
        let outdated = !is_current && stored.covers(password.as_bytes());
        let password = password.clone();
        let (refusal_delay, memory) = (Arc::clone(&self.refusal_delay), Arc::clone(&self.memory));
        let work = move || {
            let begun = Instant::now();
            let matches = stored.matches(password.as_bytes(), &memory);
            let took = begun.elapsed();
            refusal_delay.record(is_current, took);
            (matches, took)
        };
        let (matches, took) = self.run(turn, is_wanted, work).await?;
        if matches && is_known {
            return Ok(PasswordCheck::Right { outdated });
        }
        let delay = self.refusal_delay.after(took);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Ok(PasswordCheck::Wrong)
    }

    /// Computes the hash that replaces `old`, from the same password. Returns `None` if no thread is idle.
    ///
    /// A renewal takes no place in the queue and begins only if nobody waits for a thread. A request that arrives later
    /// waits for at most this one hash.
    ///
    /// If the old hash is in a format of Django, so is the new one, because Django reads no other format.
    pub fn renew(
        &self,
        password: &Password,
        old: &PasswordHash,
    ) -> Option<impl Future<Output = Result<PasswordHash, Error>> + Send + 'static> {
        let renewing = Arc::clone(&self.renewing).try_acquire_owned().ok()?;
        let under_way =
            self.under_way() + self.thread_count.saturating_sub(self.renewing.available_permits());
        if under_way > self.thread_count {
            return None;
        }
        let (hasher, password) = (self.hasher.clone(), password.clone());
        let (renewals, memory) = (Arc::clone(&self.renewals), Arc::clone(&self.memory));
        let durations = Arc::clone(&self.durations);
        let is_django_format = old.is_django_format();
        let work = self.threads.run(move || {
            let _held_while_hashing = renewing;
            renewals.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            let new = hash(&hasher, &password, &memory)?;
            durations.observe(begun.elapsed());
            Ok(if is_django_format { PasswordHash(format!("argon2{}", new.as_str())) } else { new })
        });
        Some(async move { work.await.map_err(panicked)? })
    }

    async fn run<T: Send + 'static>(
        &self,
        turn: HashingTurn,
        is_wanted: impl FnOnce() -> bool + Send + 'static,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (hashes, durations) = (Arc::clone(&self.hashes), Arc::clone(&self.durations));
        let work = self.threads.run(move || {
            if turn.is_late() || !is_wanted() {
                return Err(turn.overloaded());
            }
            let _held_while_hashing = turn.begin();
            hashes.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            let done = work();
            durations.observe(begun.elapsed());
            Ok(done)
        });
        work.await.map_err(panicked)?
    }

    /// How many passwords are waiting in the queue or being hashed.
    pub fn under_way(&self) -> usize {
        self.queue.len()
    }

    /// Returns the number of passwords that wait in the queue.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Sets the average duration of a hash.
    #[cfg(test)]
    pub(super) fn set_average(&self, took: std::time::Duration) {
        (0..100).for_each(|_| self.refusal_delay.record(true, took));
    }

    #[cfg(test)]
    pub(super) fn free_places(&self) -> usize {
        self.limits.places - self.queue.len()
    }
}

/// Logs whose hash is not supported, why, and what to do, but never the hash.
fn report_unsupported(user_id: &UserId, error: UnsupportedHash) {
    static UNSUPPORTED: LogLimiter = LogLimiter::new("unsupported stored password hash", 20);
    if !UNSUPPORTED.admits("") {
        return;
    }
    tracing::error!(
        user.id = %user_id,
        error.message = %error,
        "unsupported stored password hash: nobody can log in as this user; set the password again with \
         `latchkey account set-password`, or store a hash in a supported format"
    );
}

fn hash(hasher: &Argon2<'_>, password: &Password, memory: &MemoryPool) -> Result<PasswordHash, Error> {
    Argon2Hash::of(hasher, password.as_bytes(), memory)
        .map(PasswordHash)
        .map_err(|error| Error::Internal(format!("failed to hash a password: {error}")))
}

fn panicked(HashPanicked: HashPanicked) -> Error {
    Error::Internal("failed to hash a password: the hashing thread panicked".to_owned())
}
