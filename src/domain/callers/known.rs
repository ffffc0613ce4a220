//! The callers as this process knows them.
//!
//! Whether a key is known is asked on every request, and must not cost a query each time, however many keys
//! an attacker makes up. So all callers are kept in memory and read anew every [`INTERVAL`]; a key that is
//! not among them makes them be read at once, but not twice within [`PAUSE`]. Hence:
//!
//! - A revoked key is refused at once where it was revoked, and within [`FRESH`] everywhere else.
//! - A new key is known at once where it was made, and within [`PAUSE`] everywhere else.
//! - While the store does not answer, the known keys go on for a grace, counted from when they were last
//!   read. About any other key we cannot tell, and say so.
//! - Memory holds what the store does, and nothing that a client sends.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::Mutex, time::timeout};

use super::{Identity, role::CallerRole};
use crate::domain::{
    ports::{Caller, CallerKeyHash, Callers, Clock, StoreError},
    types::Timestamp,
};

/// How often the callers are read.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long reading them may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is older is read again before it is believed. More than [`INTERVAL`] and [`PATIENCE`] together, so
/// that requests seldom wait for it.
const FRESH: Duration = Duration::from_secs(5);
/// How long nobody asks again, after an answer or a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the use of a caller is recorded, at most.
const RECORD_INTERVAL: Duration = Duration::from_mins(1);

/// The callers as this process knows them.
pub struct KnownCallers {
    store: Arc<dyn Callers>,
    clock: Arc<dyn Clock>,
    /// How long they are believed while the store does not answer.
    grace: Duration,
    latest: ArcSwap<Known>,
    /// One at a time reads or writes the store, so that no older list can replace a newer one.
    turn: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    by_key: HashMap<CallerKeyHash, Arc<KnownCaller>>,
    /// When they were last read.
    read_at: Option<Timestamp>,
    /// When and why they could not be read since.
    failed: Option<(Timestamp, StoreError)>,
}

#[derive(Debug)]
struct KnownCaller {
    identity: Identity,
    /// The names of its roles, as stored.
    roles: Vec<String>,
    /// Last use, in microseconds; 0 for none.
    used_at: AtomicU64,
    /// The last use that the store knows.
    recorded_at: AtomicU64,
}

impl KnownCaller {
    fn new(caller: &Caller) -> Self {
        let (known, unknown): (Vec<_>, Vec<_>) =
            caller.roles.iter().partition(|name| CallerRole::named(name).is_some());
        if !unknown.is_empty() {
            tracing::warn!(
                caller.name = caller.name,
                caller.roles = ?unknown,
                "a caller has roles that this version does not know, which allow nothing here"
            );
        }
        let roles = known.into_iter().filter_map(|name| CallerRole::named(name)).collect();
        let recorded = caller.last_used_at.unwrap_or_default().as_micros();
        Self {
            identity: Identity { name: caller.name.as_str().into(), roles },
            roles: caller.roles.clone(),
            used_at: AtomicU64::new(recorded),
            recorded_at: AtomicU64::new(recorded),
        }
    }

    fn use_now(&self, now: Timestamp) -> Identity {
        self.used_at.fetch_max(now.as_micros(), Ordering::Relaxed);
        self.identity.clone()
    }

    /// The last use, if the store does not know it and `interval` has passed since the one it knows.
    fn unrecorded(&self, interval: Duration) -> Option<Timestamp> {
        let used = Timestamp::from_micros(self.used_at.load(Ordering::Relaxed));
        let recorded = Timestamp::from_micros(self.recorded_at.load(Ordering::Relaxed));
        (used > recorded && used.since(recorded) >= interval).then_some(used)
    }
}

impl Known {
    /// How old this is; endless where it never was read or the clock has stepped back since.
    fn age(&self, now: Timestamp) -> Duration {
        self.read_at.filter(|read| *read <= now).map_or(Duration::MAX, |read| now.since(read))
    }

    /// What can be said of a key without asking the store.
    fn answer(
        &self,
        key: &CallerKeyHash,
        now: Timestamp,
        grace: Duration,
    ) -> Option<Result<Option<&Arc<KnownCaller>>, StoreError>> {
        let age = self.age(now);
        let failure = self.failed.as_ref();
        match self.by_key.get(key) {
            Some(caller) if age <= FRESH || (failure.is_some() && self.is_within(grace, now)) => {
                return Some(Ok(Some(caller)));
            }
            None if age < PAUSE => return Some(Ok(None)),
            _ => {}
        }
        let (_, error) = failure.filter(|(at, _)| *at <= now && now.since(*at) < PAUSE)?;
        Some(Err(error.clone()))
    }

    /// Whether it was read at most so long ago, as far as the clock can tell.
    fn is_within(&self, grace: Duration, now: Timestamp) -> bool {
        self.read_at.is_some_and(|read| now.since(read) <= grace)
    }
}

impl KnownCallers {
    /// Nobody is known yet. While `store` does not answer, those known are believed for `grace`.
    pub fn new(store: Arc<dyn Callers>, clock: Arc<dyn Clock>, grace: Duration) -> Self {
        Self { store, clock, grace, latest: ArcSwap::default(), turn: Mutex::new(()) }
    }

    /// Whose key has this hash. An error says nothing about the key: the store did not answer.
    pub async fn authenticate(&self, key: &CallerKeyHash) -> Result<Option<Identity>, StoreError> {
        let now = self.clock.now();
        let used = |caller: Option<&Arc<KnownCaller>>| caller.map(|caller| caller.use_now(now));
        if let Some(answer) = self.latest.load().answer(key, now, self.grace) {
            return answer.map(used);
        }
        let _turn = self.turn.lock().await;
        // Whoever had the turn before may have found out.
        let now = self.clock.now();
        if let Some(answer) = self.latest.load().answer(key, now, self.grace) {
            return answer.map(used);
        }
        let read = self.read().await;
        let latest = self.latest.load();
        match (latest.by_key.get(key), read) {
            (caller, Ok(())) => Ok(used(caller)),
            (Some(caller), Err(_)) if latest.is_within(self.grace, now) => Ok(used(Some(caller))),
            (_, Err(error)) => Err(error),
        }
    }

    /// Whose key has this hash, as far as is known without asking the store: for calls that need no key.
    pub fn recall(&self, key: &CallerKeyHash) -> Option<Identity> {
        let now = self.clock.now();
        let latest = self.latest.load();
        let caller = latest.answer(key, now, self.grace)?.ok()??;
        Some(caller.use_now(now))
    }

    /// Adds a caller; false if the name is taken.
    pub(super) async fn create(&self, caller: &Caller) -> Result<bool, StoreError> {
        let _turn = self.turn.lock().await;
        let created = self.store.create(caller).await?;
        if created {
            let mut known = Known::clone(&self.latest.load());
            known.by_key.insert(caller.key, Arc::new(KnownCaller::new(caller)));
            self.latest.store(Arc::new(known));
        }
        Ok(created)
    }

    /// All of them, with what is not recorded yet of their use.
    pub(super) async fn list(&self) -> Result<Vec<Caller>, StoreError> {
        let mut callers = self.store.list().await?;
        let latest = self.latest.load();
        for caller in &mut callers {
            if let Some(known) = latest.by_key.get(&caller.key) {
                let used = known.unrecorded(Duration::ZERO);
                caller.last_used_at = caller.last_used_at.max(used);
            }
        }
        Ok(callers)
    }

    /// Removes a caller; false if there was none.
    pub(super) async fn revoke(&self, name: &str) -> Result<bool, StoreError> {
        let _turn = self.turn.lock().await;
        let revoked = self.store.revoke(name).await?;
        let mut known = Known::clone(&self.latest.load());
        known.by_key.retain(|_, caller| *caller.identity.name != *name);
        self.latest.store(Arc::new(known));
        Ok(revoked)
    }

    /// Keeps them known, and records when they were used. Ends never.
    pub async fn keep(&self) {
        loop {
            let failed_before = self.latest.load().failed.is_some();
            let outcome = {
                let _turn = self.turn.lock().await;
                self.read().await
            };
            match outcome {
                Ok(()) if failed_before => tracing::info!("the callers can be read again"),
                Err(error) if !failed_before => tracing::warn!(
                    error.message = %error,
                    "the callers cannot be read; those known go on for access.outage_grace"
                ),
                _ => {}
            }
            self.record(RECORD_INTERVAL).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Records every use that is not recorded yet. For the end.
    pub async fn flush(&self) {
        self.record(Duration::from_micros(1)).await;
    }

    /// Reads the callers. The caller of this has the turn.
    async fn read(&self) -> Result<(), StoreError> {
        let asked_at = self.clock.now();
        let listed = timeout(PATIENCE, self.store.list()).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {} s", PATIENCE.as_secs());
            Err(StoreError::Unavailable { store: "callers", cause })
        });
        let before = self.latest.load();
        match listed {
            Ok(callers) => {
                let by_key = callers.iter().map(|caller| (caller.key, known(&before, caller))).collect();
                self.latest.store(Arc::new(Known { by_key, read_at: Some(asked_at), failed: None }));
                Ok(())
            }
            Err(error) => {
                let failed = Some((self.clock.now(), error.clone()));
                self.latest.store(Arc::new(Known { failed, ..Known::clone(&before) }));
                Err(error)
            }
        }
    }

    async fn record(&self, interval: Duration) {
        let latest = self.latest.load_full();
        for caller in latest.by_key.values() {
            let Some(used) = caller.unrecorded(interval) else { continue };
            match timeout(PATIENCE, self.store.used(&caller.identity.name, used)).await {
                Ok(Ok(())) => _ = caller.recorded_at.fetch_max(used.as_micros(), Ordering::Relaxed),
                // Later, then.
                _ => return,
            }
        }
    }
}

/// The caller as it was known, so that its uses are not forgotten, or newly known.
fn known(before: &Known, caller: &Caller) -> Arc<KnownCaller> {
    let same = before
        .by_key
        .get(&caller.key)
        .filter(|known| *known.identity.name == *caller.name && known.roles == caller.roles);
    let Some(known) = same else { return Arc::new(KnownCaller::new(caller)) };
    let recorded = caller.last_used_at.unwrap_or_default().as_micros();
    known.recorded_at.fetch_max(recorded, Ordering::Relaxed);
    known.used_at.fetch_max(recorded, Ordering::Relaxed);
    Arc::clone(known)
}

#[cfg(test)]
mod tests;
