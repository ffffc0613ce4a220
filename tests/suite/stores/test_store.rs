//! A new store for each test, on any backend.

use std::{sync::Arc, time::Duration};

use latchkey::{
    domain::{
        ports::{Change, Commit, Cursor, Event, EventLog, Registers, Revision, StoreError, Tail},
        sessions::UserSessions,
        throttle::Throttle,
        types::{Timestamp, UserId},
    },
    store::{
        batching::BatchingSessions,
        codec_store::CodecStore,
        embedded::{Database, EmbeddedRegisters},
        redis::{RedisOptions, RedisRegisters, RedisSettings},
    },
};
use rstest_reuse::template;
use tempfile::TempDir;

use super::states::{change, now, user};
use crate::support::{
    clock::ManualClock,
    cluster::{ClusterOptions, RedisCluster},
    redis::{Flavour, RedisServer},
    sentinel::{SentinelGroup, SentinelOptions},
    skip::find_program,
};

/// The stores that the conformance suite runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    Embedded,
    Redis,
    Valkey,
    Sentinel,
    Cluster,
}

/// Runs a test on every kind of store.
#[template]
#[rstest]
pub fn every_store(
    #[values(
        StoreKind::Embedded,
        StoreKind::Redis,
        StoreKind::Valkey,
        StoreKind::Sentinel,
        StoreKind::Cluster
    )]
    kind: StoreKind,
) {
}

pub struct TestStore {
    pub registers: Arc<dyn Registers<UserSessions>>,
    pub throttles: Arc<dyn Registers<Throttle>>,
    pub log: Arc<dyn EventLog>,
    pub backend: Backend,
}

/// Selects the registers of sessions of a store that has other registers too.
pub fn of_sessions(store: &impl Registers<UserSessions>) -> &dyn Registers<UserSessions> {
    store
}

/// Access to the data past the store.
pub enum Backend {
    Embedded { database: Database, store: Arc<CodecStore<EmbeddedRegisters>>, _dir: TempDir },
    Redis(RedisServers),
}

/// The servers of a store on Redis.
pub enum RedisServers {
    Single(RedisServer),
    Sentinel(SentinelGroup),
    Cluster(RedisCluster),
}

impl RedisServers {
    /// The servers that are primaries at the start.
    fn primaries(&self) -> Vec<&RedisServer> {
        match self {
            Self::Single(server) => vec![server],
            Self::Sentinel(group) => vec![&group.nodes[0].server],
            Self::Cluster(cluster) => cluster.nodes.iter().map(|node| &node.server).collect(),
        }
    }

    /// Returns the keys that match the pattern, each with its server.
    pub fn keys(&self, pattern: &str) -> Vec<(&RedisServer, String)> {
        let keys = |server: &RedisServer| -> Vec<String> { server.query(redis::cmd("KEYS").arg(pattern)) };
        let servers = self.primaries().into_iter();
        servers.flat_map(|server| keys(server).into_iter().map(move |key| (server, key))).collect()
    }
}

impl TestStore {
    /// Starts a store of this kind, or skips the test if its program is missing.
    pub async fn start(kind: StoreKind) -> Option<Self> {
        match kind {
            StoreKind::Embedded => Some(Self::embedded().await),
            StoreKind::Redis => Self::redis(Flavour::Redis).await,
            StoreKind::Valkey => Self::redis(Flavour::Valkey).await,
            StoreKind::Sentinel => {
                let options = SentinelOptions { replicas: 0, ..SentinelOptions::default() };
                let group = SentinelGroup::start(Flavour::Redis, options).await?;
                Some(Self::on(&group.url(), RedisServers::Sentinel(group)).await)
            }
            StoreKind::Cluster => {
                let options = ClusterOptions { replicas_per_master: 0, ..ClusterOptions::default() };
                let cluster = RedisCluster::start(Flavour::Redis, options).await?;
                Some(Self::on(&cluster.url(), RedisServers::Cluster(cluster)).await)
            }
        }
    }

    pub async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("latchkey.db")).await.unwrap();
        let registers = EmbeddedRegisters::start(database.clone(), Arc::new(ManualClock::new()));
        let store = Arc::new(CodecStore::new(registers));
        let backend = Backend::Embedded { database, store: store.clone(), _dir: dir };
        Self { registers: store.clone(), throttles: store.clone(), log: store, backend }
    }

    pub async fn redis(flavour: Flavour) -> Option<Self> {
        let server = redis_server(flavour)?;
        Some(Self::on(&server.url(), RedisServers::Single(server)).await)
    }

    async fn on(url: &str, servers: RedisServers) -> Self {
        let store = connect(&settings(url.to_owned())).await;
        let backend = Backend::Redis(servers);
        let registers = Arc::new(BatchingSessions::new(store.clone()));
        Self { registers, throttles: store.clone(), log: store, backend }
    }

    /// The only server of a store on Redis.
    pub fn server(&self) -> &RedisServer {
        let Backend::Redis(RedisServers::Single(server)) = &self.backend else {
            panic!("not one Redis server")
        };
        server
    }

    pub async fn load(&self, user: &UserId) -> (Revision, UserSessions) {
        let found = self.registers.load(user).await.unwrap();
        (found.revision, Arc::unwrap_or_clone(found.state))
    }

    pub async fn try_commit(
        &self,
        user: &UserId,
        expected: Revision,
        change: Change<UserSessions>,
    ) -> Commit<UserSessions> {
        self.registers.commit(user, expected, change).await.unwrap()
    }

    /// Makes a commit that must succeed and returns the new revision.
    pub async fn commit(&self, user: &UserId, expected: Revision, change: Change<UserSessions>) -> Revision {
        let Commit::Committed(revision) = self.try_commit(user, expected, change).await else {
            panic!("the commit conflicts");
        };
        assert_eq!(self.load(user).await.0, revision);
        revision
    }

    pub async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Tail {
        self.log.tail(after, limit).await.unwrap()
    }

    pub async fn follow(&self, after: &Cursor, limit: usize, patience: Duration) -> Tail {
        self.log.follow(after, limit, patience).await.unwrap()
    }

    pub async fn end_of_log(&self) -> Cursor {
        let tail = self.tail(None, 100).await;
        assert!(tail.events.is_empty() && !tail.gap, "{tail:?}");
        tail.next
    }

    /// Reads everything after the cursor in steps of `limit`. There must be no gap.
    pub async fn drain(&self, mut after: Cursor, limit: usize) -> (Vec<Event>, Cursor) {
        let mut events = Vec::new();
        loop {
            let tail = self.tail(Some(&after), limit).await;
            assert!(!tail.gap, "gap after {after:?}");
            assert!(tail.events.len() <= limit, "{} events are more than {limit}", tail.events.len());
            if tail.next == after {
                assert!(tail.events.is_empty(), "the cursor does not move past {:?}", tail.events);
                return (events, after);
            }
            events.extend(tail.events);
            after = tail.next;
        }
    }

    /// Returns how long the store will keep a register.
    pub async fn time_left(&self, user: &UserId) -> Duration {
        match &self.backend {
            Backend::Embedded { database, .. } => {
                let until: i64 = sqlx::query_scalar("SELECT keep_until FROM registers WHERE key = ?")
                    .bind(user.as_str())
                    .fetch_one(&database.writer)
                    .await
                    .unwrap();
                Timestamp::from_micros(until.unsigned_abs()).since(now())
            }
            Backend::Redis(servers) => {
                let (server, key) = servers.keys(&format!("*:s:{user}")).remove(0);
                Duration::from_millis(server.query(redis::cmd("PTTL").arg(key)))
            }
        }
    }

    /// Lets `time` pass for the expiry of registers and events.
    pub async fn pass(&self, time: Duration) {
        match &self.backend {
            Backend::Embedded { store, .. } => while store.backend.sweep(now().after(time)).await.unwrap() {},
            Backend::Redis(_) => tokio::time::sleep(time).await,
        }
    }

    /// Trims the log to its newest event, as the store does after its retention.
    pub async fn trim_log(&self) {
        match &self.backend {
            Backend::Embedded { .. } => self.pass(Duration::from_hours(25)).await,
            Backend::Redis(servers) => {
                for (server, stream) in servers.keys("*:events") {
                    let _: u64 = server.query(redis::cmd("XTRIM").arg(stream).arg("MAXLEN").arg(1));
                }
            }
        }
    }

    /// Deletes the log.
    pub async fn lose_log(&self) {
        match &self.backend {
            Backend::Embedded { database, .. } => {
                for statement in ["DELETE FROM events", "DELETE FROM sqlite_sequence"] {
                    sqlx::query(statement).execute(&database.writer).await.unwrap();
                }
            }
            Backend::Redis(servers) => {
                servers.primaries().into_iter().for_each(|server| server.query(&redis::cmd("FLUSHALL")));
            }
        }
    }
}

/// Starts a server, or skips the test if it needs Valkey and there is none. Every test run needs Redis.
pub fn redis_server(flavour: Flavour) -> Option<RedisServer> {
    if flavour == Flavour::Valkey {
        let (program, variable) = flavour.program();
        find_program(program, variable)?;
    }
    Some(RedisServer::with(flavour, &[]))
}

/// Starts with another retention of events.
pub fn start_with_retention(url: String, retention: Duration) -> CodecStore<RedisRegisters> {
    let options = RedisOptions { retention, ..RedisOptions::default() };
    CodecStore::new(RedisRegisters::start_with(&settings(url), "lk", options).unwrap())
}

/// Settings as in production, but with shorter time-outs.
pub fn settings(url: String) -> RedisSettings {
    RedisSettings::new(url, Duration::from_secs(1), Duration::from_millis(500))
}

/// Starts a store on Redis and waits until it has connected.
pub async fn connect(settings: &RedisSettings) -> Arc<CodecStore<RedisRegisters>> {
    let store = Arc::new(CodecStore::new(RedisRegisters::start(settings, "lk").unwrap()));
    until_up(&*store).await;
    store
}

/// Checks that a store reads and writes, by a load and a commit that conflicts.
pub async fn check(store: &dyn Registers<UserSessions>) -> Result<(), StoreError> {
    let nobody = user("nobody");
    store.load(&nobody).await?;
    let conflict = store.commit(&nobody, Revision(1), change(1)).await?;
    assert!(matches!(conflict, Commit::Conflict(_)), "{conflict:?}");
    Ok(())
}

/// Waits until the store answers and returns how long that took.
pub async fn until_up(store: &dyn Registers<UserSessions>) -> Duration {
    let begun = std::time::Instant::now();
    while let Err(error) = check(store).await {
        assert!(begun.elapsed() < Duration::from_secs(10), "still down: {error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

/// Returns the cause of an answer that must be `Unavailable`.
pub fn unavailable<T>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Unavailable { cause, .. }) => cause,
        Err(error) => panic!("not unavailable, but: {error}"),
        Ok(_) => panic!("an answer"),
    }
}

/// Returns the cause of an answer that must be `Corrupt`.
pub fn corrupt<T>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Corrupt { cause, .. }) => cause,
        Err(error) => panic!("not corrupt, but: {error}"),
        Ok(_) => panic!("an answer"),
    }
}
