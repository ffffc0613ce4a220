//! Promise P6 on replicated Redis: which acknowledged logins and logouts a failover loses, and what finds them.

#![expect(clippy::print_stdout, reason = "libtest shows what a failed test has printed")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, LogoutScope, RejectionReason, validate_response::Verdict};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rstest::rstest;
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

use super::{
    lab::{Lab, Shape, rejoin},
    seed,
};
use crate::{
    process::claims,
    support::{
        client::{Client, is_live, login_request},
        process::Process,
        proxy::{Peer, ProxyMode},
        redis::Flavour,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);
/// How many of the latest logins of a user are looked at.
const LATEST: usize = 8;

/// A login of a user, and what became of it.
#[derive(Clone)]
struct Session {
    token: String,
    logged_in: Instant,
    logged_out: Option<Instant>,
}

/// A user with one client, which makes one call at a time.
struct User {
    name: String,
    id: String,
    sessions: Mutex<Vec<Session>>,
}

impl User {
    /// Logs in and out until a call fails, whose effect is not known.
    async fn work(
        self: Arc<Self>,
        client: Client,
        mut random: StdRng,
        pause: u64,
        acknowledged: Arc<AtomicUsize>,
    ) {
        loop {
            let Ok(login) = client.try_login(login_request(&self.name, "phone")).await else { return };
            let session = Session { token: login.token.clone(), logged_in: Instant::now(), logged_out: None };
            self.sessions.lock().unwrap().push(session);
            acknowledged.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(random.random_range(0..=pause))).await;
            if random.random() {
                let message = pb::LogoutRequest { token: login.token, scope: LogoutScope::This.into() };
                if client.auth.clone().logout(message).await.is_err() {
                    return;
                }
                self.sessions.lock().unwrap().last_mut().unwrap().logged_out = Some(Instant::now());
                acknowledged.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(random.random_range(0..=pause))).await;
            }
        }
    }

    /// Compares what was acknowledged with what a server says.
    async fn assess(&self, client: &Client, died: Instant, losses: &mut Losses) {
        let sessions = self.sessions.lock().unwrap().clone();
        let age = |acknowledged: Instant| died.saturating_duration_since(acknowledged);
        let first = sessions.len().saturating_sub(LATEST);
        let mut revived: Option<&str> = None;
        for (index, session) in sessions.iter().enumerate().skip(first) {
            match client.validate(&session.token).await {
                Verdict::Session(_) => {
                    // The latest session lives on, unless it was logged out.
                    losses.logouts.extend(session.logged_out.map(age));
                    revived = (index + 1 < sessions.len()).then_some(&session.token);
                }
                Verdict::Rejection(rejection) if rejection.reason() == RejectionReason::UnknownSession => {
                    losses.logins.push(age(session.logged_in));
                    losses.logouts.extend(session.logged_out.map(age));
                    // P6: the token of a lost login ends the session that it had displaced.
                    if let Some(token) = revived.take() {
                        assert!(
                            !is_live(&client.validate(token).await),
                            "{}: a session was revived",
                            self.name
                        );
                        losses.fenced += 1;
                    }
                }
                Verdict::Rejection(rejection) => {
                    let expected = [RejectionReason::Replaced, RejectionReason::LoggedOut];
                    assert!(expected.contains(&rejection.reason()), "{}: {rejection:?}", self.name);
                }
            }
        }
    }
}

/// What was acknowledged and lost, by its age when the primary died.
#[derive(Debug, Default)]
struct Losses {
    acknowledged: usize,
    logins: Vec<Duration>,
    logouts: Vec<Duration>,
    /// Sessions that had been displaced, lived again, and were ended by the token of the lost login.
    fenced: usize,
    /// The commits that the server that goes on made again.
    restored: u64,
}

impl Losses {
    fn count(&self) -> usize {
        self.logins.len() + self.logouts.len()
    }

    /// The age of the oldest loss.
    fn window(&self) -> Duration {
        self.logins.iter().chain(&self.logouts).max().copied().unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
struct Crash {
    durability: &'static str,
    /// How far the replica is behind the primary, besides what it takes by itself.
    lag: Duration,
    /// The server that acknowledged everything is killed with the primary.
    kills_server: bool,
    users: usize,
    /// The longest pause of a client between two calls, in milliseconds.
    pause: u64,
}

/// Kills the primary, and perhaps the server, in the middle of logins and logouts.
async fn crash(crash: Crash) -> Losses {
    let seed = seed();
    println!("SEED={seed}");
    let settings = [("SESSIONS__DURABILITY", crash.durability), ("SESSIONS__DURABILITY_TIMEOUT", "2s")];
    let mut lab = Lab::start(Flavour::Redis, Shape::Sentinel, &settings).await.unwrap();
    let [first, second] = [lab.processes[0].client().await, lab.processes[1].client().await];
    let mut users = Vec::new();
    for number in 0..crash.users {
        let name = format!("user{number}");
        let id = first.user(&name).await;
        users.push(Arc::new(User { name, id, sessions: Mutex::default() }));
    }
    let group = lab.sentinel();
    let master = group.master().await;
    let replica = group.replicas().await[0];
    let source = group.node(replica).source.unwrap();
    if !crash.lag.is_zero() {
        group.node(master).proxy().set_for(Peer::Node(source), ProxyMode::Delay(crash.lag));
    }

    let mut random = StdRng::seed_from_u64(seed);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut working = JoinSet::new();
    for user in &users {
        let random = StdRng::seed_from_u64(random.random());
        let acknowledged = Arc::clone(&acknowledged);
        working.spawn(Arc::clone(user).work(first.clone(), random, crash.pause, acknowledged));
    }
    let begun = Instant::now();
    let enough = crash.users * random.random_range(6..12);
    while acknowledged.load(Ordering::Relaxed) < enough {
        assert!(begun.elapsed() < PATIENCE, "{} calls", acknowledged.load(Ordering::Relaxed));
        sleep(Duration::from_millis(random.random_range(1..20))).await;
    }
    let group = lab.sentinel();
    if !crash.lag.is_zero() {
        // What is on the way to the replica is lost as well.
        group.node(master).proxy().set_for(Peer::Node(source), ProxyMode::Disconnect);
    }
    let died = Instant::now();
    group.node_mut(master).server.kill();
    if crash.kills_server {
        lab.processes[0].kill();
    }
    working.join_all().await;

    let group = lab.sentinel();
    group.heal(master);
    let (new, _) = group.wait_for_master_other_than(master).await;
    if !crash.kills_server {
        // It restores what was lost before it serves.
        first.until_serving().await;
    }
    group.node_mut(master).server.restart();
    rejoin(group, master, new).await;
    second.until_serving().await;
    let mut losses = Losses { acknowledged: acknowledged.load(Ordering::Relaxed), ..Losses::default() };
    for user in &users {
        user.assess(&second, died, &mut losses).await;
        assert!(second.list_sessions(&user.id).await.len() <= 1);
    }
    if !crash.kills_server {
        losses.restored = rollbacks(&lab.processes[0]).await;
    }
    println!(
        "{crash:?}: {} acknowledged, lost {} logins and {} logouts, the oldest {:?} old, {} fenced, {} restored",
        losses.acknowledged,
        losses.logins.len(),
        losses.logouts.len(),
        losses.window(),
        losses.fenced,
        losses.restored,
    );
    losses
}

async fn rollbacks(process: &Process) -> u64 {
    process.metric("latchkey_store_rollbacks_total").await
}

const LAG: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_commit_that_a_replica_has_confirmed_is_lost() {
    let losses =
        crash(Crash { durability: "replicas:1", lag: LAG, kills_server: true, users: 40, pause: 5 }).await;
    assert_eq!(losses.count(), 0, "{losses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_server_and_its_primary_lose_is_no_older_than_the_lag_of_the_replica() {
    let losses =
        crash(Crash { durability: "primary", lag: LAG, kills_server: true, users: 40, pause: 5 }).await;
    assert!(losses.count() > 0, "nothing was lost, so the test shows nothing");
    // The replica may be further behind on a busy machine.
    assert!(losses.window() < LAG + Duration::from_secs(1), "{losses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_on_restores_what_its_primary_has_lost() {
    let losses =
        crash(Crash { durability: "primary", lag: LAG, kills_server: false, users: 40, pause: 5 }).await;
    assert!(losses.restored > 0, "nothing was lost, so the test shows nothing");
    assert_eq!(losses.count(), 0, "{losses:?}");
}

/// `make histories` prints what was lost.
#[rstest]
#[case::alone(0)]
#[case::behind(100)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; make histories runs it"]
async fn the_loss_window_is_measured(#[case] lag: u64) {
    for _ in 0..5 {
        for (durability, kills_server) in [("primary", true), ("primary", false), ("replicas:1", true)] {
            let lag = Duration::from_millis(lag);
            // Logins that wait for a replica hold their turns in the password queue.
            let users = if durability == "primary" { 100 } else { 15 };
            let losses = crash(Crash { durability, lag, kills_server, users, pause: 2 }).await;
            assert!(durability == "primary" && kills_server || losses.count() == 0, "{losses:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_no_replica_confirms_is_repeated_without_a_second_session() {
    let settings = [("SESSIONS__DURABILITY", "replicas:1"), ("SESSIONS__DURABILITY_TIMEOUT", "300ms")];
    let mut lab = Lab::start(Flavour::Redis, Shape::Sentinel, &settings).await.unwrap();
    let [first, second] = [lab.processes[0].client().await, lab.processes[1].client().await];
    let alice = first.user("alice").await;
    let before = first.login("alice", "before").await;
    first.user("bob").await;
    let of_bob = first.login("bob", "phone").await;
    let group = lab.sentinel();
    let replica = group.replicas().await[0];
    group.node(replica).server.pause();

    let request = pb::LoginRequest { idempotency_key: "k1".into(), ..login_request("alice", "phone") };
    let status = first.try_login(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let logout = pb::LogoutRequest { token: of_bob.token, scope: LogoutScope::This.into() };
    let status = first.auth.clone().logout(logout.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // The repeated calls find their effect and write nothing, and it is not confirmed either.
    for client in [&first, &second] {
        let status = client.try_login(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let status = client.auth.clone().logout(logout.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }

    let group = lab.sentinel();
    group.node(replica).server.resume();
    let begun = Instant::now();
    let again = loop {
        match second.try_login(request.clone()).await {
            Ok(again) => break again,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        assert!(begun.elapsed() < PATIENCE, "the login is never confirmed");
        sleep(Duration::from_millis(20)).await;
    };
    for client in [&first, &second] {
        let sessions = client.list_sessions(&alice).await;
        let ids: Vec<_> = sessions.iter().map(|session| session.session_id.as_str()).collect();
        assert_eq!(ids, [claims(&again.token)["jti"].as_str().unwrap()]);
        assert!(is_live(&client.validate(&again.token).await));
        assert_eq!(client.rejection(&before.token).await.reason(), RejectionReason::Replaced);
    }
    let once_more = first.try_login(request).await.unwrap();
    assert_eq!(once_more.token, again.token);
}
