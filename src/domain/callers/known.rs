//! The callers in the memory of this process.
//!
//! Every request with a key is checked against them, so a check must not cost a query, however many keys an attacker
//! makes up. All callers are kept in memory and read every [`READ_INTERVAL`]. An unknown key causes a read at once, but
//! at most one per [`MIN_INTERVAL`]. Therefore:
//!
//! - A revoked key is not accepted any more: at once on the server that revoked it, within [`MAX_AGE`] on all others.
//! - A new key is accepted at once on the server that created it, and within [`MIN_INTERVAL`] on all others.
//! - During an outage of the store, known keys are accepted for `access.outage_grace` after the last read. For any
//!   other key the answer is an error.
//! - Memory holds what the store holds, and nothing that a client sends.

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

/// The interval between reads of the callers.
const READ_INTERVAL: Duration = Duration::from_secs(2);
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// The age at which callers have to be read again before they are used. It is longer than [`READ_INTERVAL`] and
/// [`STORE_TIMEOUT`] together, so that requests rarely wait for a read.
const MAX_AGE: Duration = Duration::from_secs(5);
/// The shortest time between two reads that requests cause.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two recorded uses of a caller.
const RECORD_INTERVAL: Duration = Duration::from_mins(1);

/// The callers in the memory of this process.
pub struct KnownCallers {
    store: Arc<dyn Callers>,
    clock: Arc<dyn Clock>,
    /// How long known callers are accepted during an outage.
    grace: Duration,
    latest: ArcSwap<Snapshot>,
    /// Locked by everything that uses the store, so that an older list never replaces a newer one.
    store_lock: Mutex<()>,
}

/// The callers as they were last read.
#[derive(Debug, Clone, Default)]
struct Snapshot {
    by_key: HashMap<CallerKeyHash, Arc<KnownCaller>>,
    read_at: Option<Timestamp>,
    /// The time and the error of the latest read, if it failed.
    error: Option<(Timestamp, StoreError)>,
}

/// What memory says of a key.
enum Lookup<'a> {
    Known(&'a Arc<KnownCaller>),
    Unknown,
    /// The store did not answer a moment ago.
    Unavailable(StoreError),
    /// The callers have to be read first.
    Stale,
}

#[derive(Debug)]
struct KnownCaller {
    identity: Identity,
    /// The names of its roles, as stored.
    roles: Vec<String>,
    /// The last use, in microseconds; 0 for none.
    used_at: AtomicU64,
    /// The last use that is recorded in the store.
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
                "a caller has roles that this version does not know; they are ignored"
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

    fn mark_used(&self, now: Timestamp) -> Identity {
        self.used_at.fetch_max(now.as_micros(), Ordering::Relaxed);
        self.identity.clone()
    }

    /// The last use, if it is not recorded and `interval` has passed since the recorded one.
    fn unrecorded(&self, interval: Duration) -> Option<Timestamp> {
        let used = Timestamp::from_micros(self.used_at.load(Ordering::Relaxed));
        let recorded = Timestamp::from_micros(self.recorded_at.load(Ordering::Relaxed));
        (used > recorded && used.since(recorded) >= interval).then_some(used)
    }
}

impl Snapshot {
    /// The time since the read; without limit if there was none or the clock has stepped back.
    fn age(&self, now: Timestamp) -> Duration {
        self.read_at.filter(|read| *read <= now).map_or(Duration::MAX, |read| now.since(read))
    }

    fn lookup(&self, key: &CallerKeyHash, now: Timestamp, grace: Duration) -> Lookup<'_> {
        let age = self.age(now);
        match self.by_key.get(key) {
            Some(caller) if age <= MAX_AGE || (self.error.is_some() && self.is_within(grace, now)) => {
                return Lookup::Known(caller);
            }
            None if age < MIN_INTERVAL => return Lookup::Unknown,
            _ => {}
        }
        match &self.error {
            Some((at, error)) if *at <= now && now.since(*at) < MIN_INTERVAL => {
                Lookup::Unavailable(error.clone())
            }
            _ => Lookup::Stale,
        }
    }

    /// Whether the read was at most `grace` ago. After the clock has stepped back, any read counts.
    fn is_within(&self, grace: Duration, now: Timestamp) -> bool {
        self.read_at.is_some_and(|read| now.since(read) <= grace)
    }

    /// The entry of a caller that was read from the store: the same as before, which has its uses, unless it has
    /// changed.
    fn entry(&self, caller: &Caller) -> Arc<KnownCaller> {
        let same = self
            .by_key
            .get(&caller.key)
            .filter(|known| *known.identity.name == *caller.name && known.roles == caller.roles);
        let Some(known) = same else { return Arc::new(KnownCaller::new(caller)) };
        let recorded = caller.last_used_at.unwrap_or_default().as_micros();
        known.recorded_at.fetch_max(recorded, Ordering::Relaxed);
        known.used_at.fetch_max(recorded, Ordering::Relaxed);
        Arc::clone(known)
    }
}

impl KnownCallers {
    /// Creates the service without any callers. During an outage of `store`, known callers are accepted for `grace`.
    pub fn new(store: Arc<dyn Callers>, clock: Arc<dyn Clock>, grace: Duration) -> Self {
        Self { store, clock, grace, latest: ArcSwap::default(), store_lock: Mutex::new(()) }
    }

    /// Finds the caller whose key has this hash. An error says nothing about the key: the store did not answer.
    pub async fn authenticate(&self, key: &CallerKeyHash) -> Result<Option<Identity>, StoreError> {
        if let Some(result) = self.authenticate_from_memory(key) {
            return result;
        }
        let _lock = self.store_lock.lock().await;
        // Another request may have read the callers meanwhile.
        if let Some(result) = self.authenticate_from_memory(key) {
            return result;
        }
        let now = self.clock.now();
        let read = self.read().await;
        let latest = self.latest.load();
        match (latest.by_key.get(key), read) {
            (caller, Ok(())) => Ok(caller.map(|caller| caller.mark_used(now))),
            (Some(caller), Err(_)) if latest.is_within(self.grace, now) => Ok(Some(caller.mark_used(now))),
            (_, Err(error)) => Err(error),
        }
    }

    /// As [`Self::authenticate`]; `None` if the callers have to be read first.
    fn authenticate_from_memory(&self, key: &CallerKeyHash) -> Option<Result<Option<Identity>, StoreError>> {
        let now = self.clock.now();
        match self.latest.load().lookup(key, now, self.grace) {
            Lookup::Known(caller) => Some(Ok(Some(caller.mark_used(now)))),
            Lookup::Unknown => Some(Ok(None)),
            Lookup::Unavailable(error) => Some(Err(error)),
            Lookup::Stale => None,
        }
    }

    /// Finds the caller whose key has this hash without using the store, for methods that require no key.
    pub fn recall(&self, key: &CallerKeyHash) -> Option<Identity> {
        let now = self.clock.now();
        match self.latest.load().lookup(key, now, self.grace) {
            Lookup::Known(caller) => Some(caller.mark_used(now)),
            Lookup::Unknown | Lookup::Unavailable(_) | Lookup::Stale => None,
        }
    }

    /// Adds a caller. Returns false if the name is taken.
    pub(super) async fn create(&self, caller: &Caller) -> Result<bool, StoreError> {
        let _lock = self.store_lock.lock().await;
        let created = self.store.create(caller).await?;
        if created {
            let mut snapshot = Snapshot::clone(&self.latest.load());
            snapshot.by_key.insert(caller.key, Arc::new(KnownCaller::new(caller)));
            self.latest.store(Arc::new(snapshot));
        }
        Ok(created)
    }

    /// Returns all callers, including uses that are not recorded yet.
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

    /// Removes a caller. Returns false if there is none of this name.
    pub(super) async fn revoke(&self, name: &str) -> Result<bool, StoreError> {
        let _lock = self.store_lock.lock().await;
        let revoked = self.store.revoke(name).await?;
        let mut snapshot = Snapshot::clone(&self.latest.load());
        snapshot.by_key.retain(|_, caller| *caller.identity.name != *name);
        self.latest.store(Arc::new(snapshot));
        Ok(revoked)
    }

    /// The background task that reads the callers and records their uses. Never returns.
    pub async fn run(&self) {
        loop {
            let had_failed = self.latest.load().error.is_some();
            let read = {
                let _lock = self.store_lock.lock().await;
                self.read().await
            };
            match read {
                Ok(()) if had_failed => tracing::info!("reading the callers again"),
                Err(error) if !had_failed => tracing::warn!(
                    error.message = %error,
                    "failed to read the callers; known keys are accepted for access.outage_grace"
                ),
                _ => {}
            }
            self.record(RECORD_INTERVAL).await;
            tokio::time::sleep(READ_INTERVAL).await;
        }
    }

    /// Records all uses at shutdown.
    pub async fn flush(&self) {
        self.record(Duration::from_micros(1)).await;
    }

    /// Reads the callers. Requires `store_lock`.
    async fn read(&self) -> Result<(), StoreError> {
        let read_at = self.clock.now();
        let listed = timeout(STORE_TIMEOUT, self.store.list()).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {} s", STORE_TIMEOUT.as_secs());
            Err(StoreError::Unavailable { store: "callers", cause })
        });
        let before = self.latest.load();
        match listed {
            Ok(callers) => {
                let by_key = callers.iter().map(|caller| (caller.key, before.entry(caller))).collect();
                self.latest.store(Arc::new(Snapshot { by_key, read_at: Some(read_at), error: None }));
                Ok(())
            }
            Err(error) => {
                let failed = Some((self.clock.now(), error.clone()));
                self.latest.store(Arc::new(Snapshot { error: failed, ..Snapshot::clone(&before) }));
                Err(error)
            }
        }
    }

    async fn record(&self, interval: Duration) {
        let latest = self.latest.load_full();
        for caller in latest.by_key.values() {
            let Some(used) = caller.unrecorded(interval) else { continue };
            match timeout(STORE_TIMEOUT, self.store.used(&caller.identity.name, used)).await {
                Ok(Ok(())) => _ = caller.recorded_at.fetch_max(used.as_micros(), Ordering::Relaxed),
                // The next run tries again.
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
