use std::sync::atomic::AtomicBool;

use super::*;
use crate::domain::callers::key::CallerKey;

/// A store that counts its calls and can fail.
#[derive(Default)]
struct Store {
    callers: std::sync::Mutex<Vec<Caller>>,
    lists: AtomicU64,
    uses: AtomicU64,
    down: AtomicBool,
}

impl Store {
    fn answers(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { store: "callers", cause: "down".into() });
        }
        Ok(())
    }

    fn lists(&self) -> u64 {
        self.lists.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl Callers for Store {
    async fn create(&self, caller: &Caller) -> Result<bool, StoreError> {
        self.answers()?;
        let mut callers = self.callers.lock().unwrap();
        let free = callers.iter().all(|other| other.name != caller.name);
        if free {
            callers.push(caller.clone());
        }
        Ok(free)
    }

    async fn list(&self) -> Result<Vec<Caller>, StoreError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.answers()?;
        Ok(self.callers.lock().unwrap().clone())
    }

    async fn revoke(&self, name: &str) -> Result<bool, StoreError> {
        self.answers()?;
        let mut callers = self.callers.lock().unwrap();
        let before = callers.len();
        callers.retain(|caller| caller.name != name);
        Ok(callers.len() < before)
    }

    async fn used(&self, name: &str, at: Timestamp) -> Result<(), StoreError> {
        self.answers()?;
        self.uses.fetch_add(1, Ordering::SeqCst);
        for caller in self.callers.lock().unwrap().iter_mut().filter(|caller| caller.name == name) {
            caller.last_used_at = caller.last_used_at.max(Some(at));
        }
        Ok(())
    }
}

struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// Replicas that share a store and a clock.
struct World {
    store: Arc<Store>,
    clock: Arc<ManualClock>,
}

const GRACE: Duration = Duration::from_mins(5);

impl World {
    fn new() -> Self {
        Self { store: Arc::default(), clock: Arc::new(ManualClock(AtomicU64::new(1_000_000_000_000))) }
    }

    fn replica(&self) -> KnownCallers {
        KnownCallers::new(self.store.clone(), self.clock.clone(), GRACE)
    }

    fn wait(&self, duration: Duration) {
        self.clock.0.fetch_add(u64::try_from(duration.as_micros()).unwrap(), Ordering::SeqCst);
    }

    fn fails(&self, down: bool) {
        self.store.down.store(down, Ordering::SeqCst);
    }

    fn caller(&self, name: &str, roles: &[&str]) -> (Caller, CallerKeyHash) {
        let key = CallerKey::random().hash();
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let created_at = self.clock.now();
        (Caller { name: name.into(), key, roles, created_at, last_used_at: None }, key)
    }
}

async fn name(replica: &KnownCallers, key: &CallerKeyHash) -> Option<String> {
    replica.authenticate(key).await.unwrap().map(|identity| identity.name.to_string())
}

#[tokio::test]
async fn keys_are_created_and_revoked_at_once_here_and_within_seconds_on_other_replicas() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let (caller, key) = world.caller("web", &["validator"]);
    assert_eq!(name(&there, &key).await, None);
    assert!(here.create(&caller).await.unwrap());
    assert!(!here.create(&caller).await.unwrap());
    assert_eq!(name(&here, &key).await.as_deref(), Some("web"));
    world.wait(MIN_INTERVAL);
    assert_eq!(
        name(&there, &key).await.as_deref(),
        Some("web"),
        "after MIN_INTERVAL the other replica reads again"
    );

    assert!(here.revoke("web").await.unwrap());
    assert_eq!(name(&here, &key).await, None);
    world.wait(MAX_AGE);
    assert_eq!(name(&there, &key).await.as_deref(), Some("web"), "its list is not older than MAX_AGE");
    world.wait(Duration::from_micros(1));
    assert_eq!(name(&there, &key).await, None);
    assert!(!here.revoke("web").await.unwrap());
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_a_query_a_second_and_no_memory() {
    let world = World::new();
    let replica = world.replica();
    let (caller, key) = world.caller("web", &["validator"]);
    replica.create(&caller).await.unwrap();
    for _ in 0..10 {
        for _ in 0..100 {
            assert_eq!(name(&replica, &CallerKey::random().hash()).await, None);
        }
        world.wait(MIN_INTERVAL);
    }
    assert_eq!(world.store.lists(), 10);
    assert_eq!(replica.latest.load().by_key.len(), 1);
    // A flood of a known key costs no query.
    for _ in 0..1000 {
        assert!(name(&replica, &key).await.is_some());
    }
    assert_eq!(world.store.lists(), 10);
}

#[tokio::test]
async fn concurrent_requests_share_one_query() {
    let world = World::new();
    let replica = world.replica();
    let (caller, key) = world.caller("web", &["validator"]);
    world.store.create(&caller).await.unwrap();
    let names = futures_util::future::join_all((0..100).map(|_| name(&replica, &key))).await;
    assert!(names.iter().all(|name| name.as_deref() == Some("web")));
    assert_eq!(world.store.lists(), 1);
}

#[tokio::test]
async fn in_an_outage_known_keys_are_accepted_for_the_grace_and_others_are_an_error() {
    let world = World::new();
    let replica = world.replica();
    let (caller, key) = world.caller("web", &["validator"]);
    let stranger = CallerKey::random().hash();
    replica.create(&caller).await.unwrap();
    name(&replica, &key).await.unwrap();

    world.fails(true);
    world.wait(Duration::from_secs(30));
    let before = world.store.lists();
    for _ in 0..100 {
        assert_eq!(name(&replica, &key).await.as_deref(), Some("web"));
        assert!(replica.authenticate(&stranger).await.unwrap_err().is_transient());
    }
    assert_eq!(world.store.lists(), before + 1, "one query per MIN_INTERVAL");
    world.wait(GRACE.checked_sub(Duration::from_secs(30)).unwrap());
    assert_eq!(name(&replica, &key).await.as_deref(), Some("web"));
    world.wait(Duration::from_secs(1));
    assert!(replica.authenticate(&key).await.unwrap_err().is_transient());
    assert_eq!(replica.recall(&key), None);

    world.fails(false);
    world.wait(MIN_INTERVAL);
    assert_eq!(name(&replica, &key).await.as_deref(), Some("web"));
    assert_eq!(name(&replica, &stranger).await, None);
    // A replica that has never read the callers knows none.
    let late = world.replica();
    world.fails(true);
    assert!(late.authenticate(&key).await.is_err());
}

#[tokio::test]
async fn a_clock_that_steps_back_does_not_prolong_a_revoked_key() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let (caller, key) = world.caller("web", &["validator"]);
    here.create(&caller).await.unwrap();
    name(&there, &key).await.unwrap();
    here.revoke("web").await.unwrap();
    world.clock.0.fetch_sub(3_600_000_000, Ordering::SeqCst);
    assert_eq!(name(&there, &key).await, None);
}

#[tokio::test]
async fn uses_are_recorded_once_a_minute_and_listed_at_once() {
    let world = World::new();
    let replica = world.replica();
    let (caller, key) = world.caller("web", &["validator"]);
    replica.create(&caller).await.unwrap();
    replica.record(RECORD_INTERVAL).await;
    assert_eq!(replica.list().await.unwrap()[0].last_used_at, None);
    let uses = || world.store.uses.load(Ordering::SeqCst);
    for second in 0..=60 {
        name(&replica, &key).await.unwrap();
        let listed = replica.list().await.unwrap()[0].last_used_at;
        assert_eq!(listed, Some(world.clock.now()), "unrecorded uses are listed");
        replica.record(RECORD_INTERVAL).await;
        assert_eq!(uses(), if second < 60 { 1 } else { 2 }, "after {second} s");
        if second < 60 {
            world.wait(Duration::from_secs(1));
        }
    }
    assert_eq!(world.store.list().await.unwrap()[0].last_used_at, Some(world.clock.now()));
    // The flush at shutdown does not wait for the interval.
    world.wait(Duration::from_secs(1));
    name(&replica, &key).await.unwrap();
    replica.flush().await;
    assert_eq!(world.store.list().await.unwrap()[0].last_used_at, Some(world.clock.now()));
}

#[tokio::test]
async fn unknown_roles_are_ignored_and_kept() {
    let world = World::new();
    let replica = world.replica();
    let (newer, newer_key) = world.caller("newer", &["superuser", "validator"]);
    let (newest, newest_key) = world.caller("newest", &["superuser"]);
    world.store.create(&newer).await.unwrap();
    world.store.create(&newest).await.unwrap();
    let roles = |identity: Option<Identity>| identity.unwrap().roles.names().collect::<Vec<_>>();
    assert_eq!(roles(replica.authenticate(&newer_key).await.unwrap()), ["validator"]);
    assert_eq!(roles(replica.authenticate(&newest_key).await.unwrap()), [""; 0]);
    assert_eq!(
        replica.list().await.unwrap()[0].roles,
        ["superuser", "validator"],
        "the unknown role is not lost"
    );
}

#[tokio::test]
async fn recall_uses_memory_only() {
    let world = World::new();
    let replica = world.replica();
    let (caller, key) = world.caller("web", &["validator"]);
    world.store.create(&caller).await.unwrap();
    assert_eq!(replica.recall(&key), None);
    assert_eq!(world.store.lists(), 0);
    name(&replica, &key).await.unwrap();
    assert_eq!(*replica.recall(&key).unwrap().name, *"web");
    assert_eq!(world.store.lists(), 1);
}
