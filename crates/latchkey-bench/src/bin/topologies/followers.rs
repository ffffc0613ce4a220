//! Measures the cost of following events, which every Latchkey server does, by topology and number of buckets and servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use latchkey::{
    domain::{
        ports::{Change, Clock as _, Commit, Registers as _, Revision},
        sessions::{SessionEvent, UserSessions},
        types::UserId,
    },
    store::{clock::SystemClock, codec_store::CodecStore, redis::RedisRegisters},
};
use latchkey_bench::{Result, core_pinning::CorePinning, seed, statistics::round};
use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinSet, time::sleep};

use crate::{
    Plan, delay,
    installation::{Installation, Setup, TopologyKind},
};

/// Number of users who log in again and again. Their buckets are random.
const USERS: usize = 4096;
const CONCURRENT_COMMITS: usize = 64;
/// How long servers settle before they are observed.
const SETTLE: Duration = Duration::from_secs(1);

const TOPOLOGIES: [TopologyKind; 2] = [TopologyKind::Single, TopologyKind::Cluster];
const BUCKETS: [u16; 3] = [64, 1024, 4096];
const SERVERS: [usize; 3] = [1, 2, 3];

/// A user, with what the register holds.
struct User {
    id: UserId,
    revision: Revision,
    sessions: UserSessions,
}

/// Commits logins that displace a session each, without a Latchkey server.
pub(crate) struct Events {
    registers: CodecStore<RedisRegisters>,
    users: Vec<Mutex<User>>,
    next: AtomicUsize,
}

impl Events {
    pub(crate) async fn start(installation: &Installation) -> Result<Arc<Self>> {
        let registers =
            seed::redis_with_buckets(installation.redis.url(), installation.setup.buckets).await?;
        let user =
            || User { id: UserId::random(), revision: Revision::ABSENT, sessions: UserSessions::default() };
        let users = (0..USERS).map(|_| Mutex::new(user())).collect();
        let this = Self { registers, users, next: AtomicUsize::new(0) };
        // The first login of a user displaces nothing.
        this.commit(u32::try_from(USERS)?).await?;
        Ok(Arc::new(this))
    }

    /// Commits this many logins as fast as the store takes them.
    pub(crate) async fn commit(&self, count: u32) -> Result<()> {
        stream::iter(0..count)
            .map(|_| self.commit_one())
            .buffer_unordered(CONCURRENT_COMMITS)
            .try_collect()
            .await
    }

    /// Commits the next login.
    pub(crate) async fn commit_one(&self) -> Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % USERS;
        let mut user = self.users[number].lock().await;
        let now = SystemClock.now();
        let next = seed::log_in_again(&user.sessions, &format!("user{number:08}"), "bench", &[], now);
        let events = next.events.into_iter().map(SessionEvent::Ended).collect();
        let change = Change { keep_until: next.state.keep_until(now), state: next.state.clone(), events };
        match self.registers.commit(&user.id, user.revision, change).await? {
            Commit::Committed(revision) => {
                (user.revision, user.sessions) = (revision, next.state);
                Ok(())
            }
            Commit::Conflict(_) => Err("somebody else changed the sessions of a new user".into()),
        }
    }

    /// Commits logins at this rate, evenly spread, and returns their number.
    async fn commit_at_rate(self: &Arc<Self>, rate: u32, duration: Duration) -> Result<u32> {
        let begin = Instant::now();
        let mut commits = JoinSet::new();
        let mut count = 0;
        while begin.elapsed() < duration {
            let due = (begin.elapsed().as_secs_f64() * f64::from(rate)).ceil();
            while f64::from(count) < due {
                let this = Arc::clone(self);
                commits.spawn(async move { this.commit_one().await });
                count += 1;
            }
            sleep(Duration::from_millis(1)).await;
        }
        while let Some(commit) = commits.join_next().await {
            commit??;
        }
        Ok(count)
    }
}

#[expect(clippy::print_stderr, reason = "prints the progress, because this takes minutes")]
pub(crate) async fn measure_all(plan: &Plan, pinning: &CorePinning) -> Result<Value> {
    let mut rows = Vec::new();
    for topology in TOPOLOGIES {
        for buckets in BUCKETS {
            for servers in SERVERS {
                let row = measure(plan, pinning, Setup { topology, buckets, servers }).await?;
                eprintln!("{row}");
                rows.push(row);
            }
        }
    }
    Ok(Value::Array(rows))
}

#[expect(clippy::print_stderr, reason = "prints the progress, because this takes minutes")]
async fn measure(plan: &Plan, pinning: &CorePinning, setup: Setup) -> Result<Value> {
    eprintln!("followers: {} ...", setup.name());
    let installation = Installation::start(pinning, setup).await?;
    let events = Events::start(&installation).await?;
    sleep(SETTLE).await;

    let (begin, before) = (Instant::now(), installation.cpu_times()?);
    sleep(plan.observation).await;
    let (seconds, idle) = (begin.elapsed().as_secs_f64(), installation.cpu_times()?.since(before));
    let idle_redis = idle.redis / seconds;
    let idle_server = idle.last_server / seconds;

    let (begin, before) = (Instant::now(), installation.cpu_times()?);
    let count = f64::from(events.commit_at_rate(plan.event_rate, plan.observation).await?);
    let (seconds, busy) = (begin.elapsed().as_secs_f64(), installation.cpu_times()?.since(before));
    let per_event = |busy: f64, idle: f64| round((busy - idle * seconds) * 1e6 / count, 1);

    let mut row = json!({
        "name": setup.name(),
        "topology": if setup.topology == TopologyKind::Single { "single" } else { "cluster" },
        "buckets": setup.buckets,
        "servers": setup.servers,
        "events_per_second": round(count / seconds, 0),
        "idle_cpu_of_a_server": round(idle_server, 4),
        "idle_cpu_of_redis": round(idle_redis, 4),
        "cpu_of_a_server_us_per_event": per_event(busy.last_server, idle_server),
        "cpu_of_redis_us_per_event": per_event(busy.redis, idle_redis),
    });
    if setup.servers == 1 {
        row["delay_us"] = delay::measure(&installation, &events, plan.delays).await?;
    }
    Ok(row)
}
