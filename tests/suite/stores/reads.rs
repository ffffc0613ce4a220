//! Batching: concurrent loads, and commits that are made together, share commands to Redis and stay correct.

use super::test_store::{StoreKind, TestStore, every_store};
use rstest::rstest;
use rstest_reuse::apply;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::join_all};
use latchkey::{
    domain::{
        ports::{Commit, Registers as _, Revision, StoreError, Versioned},
        sessions::UserSessions,
        types::UserId,
    },
    store::{batching::BatchingSessions, redis::RedisSettings},
};
use tokio::{sync::Barrier, task::JoinSet, time::timeout};

use super::{
    states::{change, state, user},
    test_store::{connect, corrupt, settings, unavailable, until_up},
};
use crate::support::{
    proxy::{Proxy, ProxyMode},
    redis::{Monitor, RedisServer},
};

type Store = Arc<BatchingSessions>;
type Loaded = Result<Versioned<UserSessions>, StoreError>;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(20);
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);

async fn gathered(settings: &RedisSettings) -> Store {
    Arc::new(BatchingSessions::new(connect(settings).await))
}

/// Starts a server and a store that holds `state(n)` for the `n`th of this number of users.
async fn filled(users: u64) -> (Store, Vec<UserId>, RedisServer) {
    let server = RedisServer::start();
    let store = gathered(&settings(server.url())).await;
    let users: Vec<_> = (0..users).map(|number| user(&format!("user{number}"))).collect();
    for (number, user) in (0..).zip(&users) {
        store.commit(user, Revision::ABSENT, change(number)).await.unwrap();
    }
    (store, users, server)
}

/// Starts another store on the same server, behind a proxy.
async fn behind_proxy(server: &RedisServer, response_timeout: Duration) -> (Store, Proxy) {
    let proxy = Proxy::to(server.port).await;
    let url = format!("redis://{}", proxy.address);
    (gathered(&RedisSettings { response_timeout, ..settings(url) }).await, proxy)
}

async fn load(store: &Store, user: &UserId) -> Loaded {
    store.load(user).await
}

/// Loads all users in one task, so that the loads start together.
async fn load_at_once(store: &Store, users: impl IntoIterator<Item = &UserId>) -> Vec<Loaded> {
    join_all(users.into_iter().map(|user| load(store, user))).await
}

async fn load_many(store: &Store, users: impl IntoIterator<Item = &UserId>) -> Vec<Loaded> {
    store.load_many(&users.into_iter().collect::<Vec<_>>()).await
}

fn generation(loaded: Loaded) -> u64 {
    loaded.unwrap().state.generation.0
}

/// Returns the commands for registers since the last call, with their numbers of keys.
fn asked(monitor: &mut Monitor<'_>) -> Vec<(String, usize)> {
    let commands = monitor.commands();
    let of_registers = commands.iter().filter(|command| command.contains(":s:"));
    of_registers
        .map(|command| {
            let name = command.split('"').nth(1).unwrap();
            (name.to_ascii_lowercase(), command.matches(":s:").count())
        })
        .collect()
}

/// Waits until the server has received this number of commands for registers.
async fn until_commands(monitor: &mut Monitor<'_>, times: usize) {
    let begun = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < times {
        assert!(begun.elapsed() < LONG, "only {seen:?}");
        seen.extend(asked(monitor));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_alone_is_a_get_and_two_hundred_at_once_are_one_command() {
    let (store, users, server) = filled(200).await;
    let mut monitor = server.monitor();
    for user in &users[..3] {
        load(&store, user).await.unwrap();
    }
    assert_eq!(asked(&mut monitor), vec![("get".to_owned(), 1); 3]);

    for loaded in [load_at_once(&store, &users).await, load_many(&store, &users).await] {
        assert_eq!(loaded.into_iter().map(generation).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    }
    assert_eq!(asked(&mut monitor), vec![("mget".to_owned(), 200); 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loads_of_many_tasks_need_far_fewer_commands() {
    let (store, users, server) = filled(200).await;
    let mut monitor = server.monitor();
    let mut loads = JoinSet::new();
    let ready = Arc::new(Barrier::new(users.len()));
    for (number, user) in (0..).zip(users) {
        let (store, ready) = (Arc::clone(&store), Arc::clone(&ready));
        loads.spawn(async move {
            ready.wait().await;
            assert_eq!(generation(load(&store, &user).await), number);
        });
    }
    loads.join_all().await;
    let asked = asked(&mut monitor);
    assert_eq!(asked.iter().map(|(_, registers)| registers).sum::<usize>(), 200);
    assert!(asked.len() < 100, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_that_many_load_at_once_is_requested_once() {
    let (store, users, server) = filled(2).await;
    let mut monitor = server.monitor();
    let loaded = load_at_once(&store, [&users[1]; 50]).await;
    assert_eq!(asked(&mut monitor), [("get".to_owned(), 1)]);
    assert!(loaded.into_iter().all(|loaded| generation(loaded) == 1));

    let loaded = load_at_once(&store, users.iter().cycle().take(100)).await;
    assert_eq!(asked(&mut monitor), [("mget".to_owned(), 2)]);
    for (number, loaded) in (0..).zip(loaded) {
        assert_eq!(generation(loaded), number % 2);
    }

    let wanted = [vec![0, 1], vec![1, 0, 0, 1]];
    let many = wanted.map(|users_of| load_many(&store, users_of.into_iter().map(|user: usize| &users[user])));
    let [there, back] = join_all(many).await.try_into().unwrap();
    assert_eq!(asked(&mut monitor), [("mget".to_owned(), 2)]);
    assert_eq!(there.into_iter().map(generation).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(back.into_iter().map(generation).collect::<Vec<_>>(), [1, 0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_exceeds_the_batch_limit() {
    let (store, users, server) = filled(1100).await;
    let mut monitor = server.monitor();
    for loaded in [load_at_once(&store, &users).await, load_many(&store, &users).await] {
        assert_eq!(loaded.into_iter().map(generation).collect::<Vec<_>>(), (0..1100).collect::<Vec<_>>());
    }
    let registers: Vec<_> = asked(&mut monitor).into_iter().map(|(_, registers)| registers).collect();
    assert_eq!(registers.iter().sum::<usize>(), 2200);
    assert!(registers.len() == 6 && registers.iter().all(|count| *count <= 512), "{registers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_load_gets_the_answer_of_its_own_register_whatever_the_others_hold() {
    let (store, users, server) = filled(4).await;
    let keys: Vec<String> = server.query(redis::cmd("KEYS").arg("lk:*:s:*"));
    let key = |number: usize| keys.iter().find(|key| key.ends_with(&format!(":user{number}"))).unwrap();
    let () = server.query(redis::cmd("SET").arg(key(1)).arg("short"));
    let _: u64 = server.query(redis::cmd("DEL").arg(key(2)));
    let _: u64 = server.query(redis::cmd("LPUSH").arg(key(2)).arg("a list"));
    let nobody = user("nobody");

    let asked_for = [&users[0], &nobody, &users[1], &users[2], &users[3], &nobody, &users[1], &users[0]];
    for loaded in [load_at_once(&store, asked_for).await, load_many(&store, asked_for).await] {
        let [first, absent, short, list, fourth, absent_too, short_too, first_too] =
            loaded.try_into().unwrap();
        assert_eq!([first, fourth, first_too].map(generation), [0, 3, 0]);
        for absent in [absent, absent_too] {
            assert_eq!(absent.unwrap().revision, Revision::ABSENT);
        }
        for short in [short, short_too] {
            assert!(corrupt(short).contains("has no revision"));
        }
        // MGET returns nil for a key of another type, as for a user without sessions.
        assert!(corrupt(list).contains("WRONGTYPE"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_cancelled_before_its_batch_is_sent_does_not_affect_others() {
    let (store, users, server) = filled(3).await;
    let mut monitor = server.monitor();
    let [mut first, mut second, mut third] =
        [0, 1, 2].map(|number: usize| Box::pin(load(&store, &users[number])));
    assert!([&mut first, &mut second, &mut third].into_iter().all(|load| load.now_or_never().is_none()));
    drop(second);
    // This load would have sent the batch.
    drop(first);
    assert_eq!(generation(timeout(LONG, third).await.unwrap()), 2);
    assert_eq!(asked(&mut monitor), [("get".to_owned(), 1)], "the other loads were sent too");

    let mut alone = Box::pin(load(&store, &users[0]));
    assert!((&mut alone).now_or_never().is_none());
    drop(alone);
    assert_eq!(generation(load(&store, &users[1]).await), 1);
    assert_eq!(asked(&mut monitor), [("get".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_cancelled_after_its_batch_was_sent_does_not_affect_others() {
    let (_, users, server) = filled(20).await;
    let (store, proxy) = behind_proxy(&server, LONG).await;
    let mut monitor = server.monitor();
    proxy.set(ProxyMode::HoldResponses);
    let mut loads: Vec<_> = users.iter().map(|user| Box::pin(load(&store, user))).collect();
    let patience = Duration::from_millis(200);
    assert!(timeout(patience, join_all(&mut loads)).await.is_err(), "the load was answered too early");
    assert_eq!(asked(&mut monitor), [("mget".to_owned(), 20)]);
    drop(loads.remove(0));
    proxy.set(ProxyMode::Forward);
    let loaded = timeout(LONG, join_all(loads)).await.unwrap();
    assert_eq!(loaded.into_iter().map(generation).collect::<Vec<_>>(), (1..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_fails_every_waiting_load_and_its_end_serves_all() {
    let (store, users, mut server) = filled(50).await;
    server.kill();
    for _ in 0..3 {
        let begun = Instant::now();
        for loaded in load_at_once(&store, &users).await {
            unavailable(loaded);
        }
        assert!(begun.elapsed() < RESPONSE_TIMEOUT, "{:?}", begun.elapsed());
    }
    server.restart();
    until_up(&*store).await;
    for loaded in load_at_once(&store, &users).await {
        assert_ne!(loaded.unwrap().revision, Revision::ABSENT, "the store makes lost commits again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_that_time_out_together_are_one_slow_answer_and_do_not_cost_the_connection() {
    let (_, users, server) = filled(50).await;
    let (store, proxy) = behind_proxy(&server, RESPONSE_TIMEOUT).await;
    proxy.set(ProxyMode::Stall);
    let begun = Instant::now();
    for loaded in load_at_once(&store, &users).await {
        unavailable(loaded);
    }
    let took = begun.elapsed();
    assert!((RESPONSE_TIMEOUT..RESPONSE_TIMEOUT * 3).contains(&took), "{took:?}");
    proxy.set(ProxyMode::Forward);
    // An immediate answer proves that the connection was kept.
    for (number, loaded) in (0..).zip(load_at_once(&store, &users).await) {
        assert_eq!(generation(loaded), number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_never_answered_by_a_command_that_was_sent_before_it_began() {
    let (direct, users, server) = filled(2).await;
    let (store, proxy) = behind_proxy(&server, LONG).await;
    let mut monitor = server.monitor();
    let spawn_loads = || {
        let (store, users) = (Arc::clone(&store), users.clone());
        tokio::spawn(async move {
            load_at_once(&store, &users).await.into_iter().map(generation).collect::<Vec<_>>()
        })
    };
    proxy.set(ProxyMode::HoldResponses);
    let early = spawn_loads();
    until_commands(&mut monitor, 1).await;
    let stands = load(&direct, &users[1]).await.unwrap().revision;
    direct.commit(&users[1], stands, change(7)).await.unwrap();
    asked(&mut monitor);
    // This load neither waits for the earlier command nor shares its answer.
    let late = spawn_loads();
    until_commands(&mut monitor, 1).await;
    proxy.set(ProxyMode::Forward);
    assert_eq!(early.await.unwrap(), [0, 1]);
    assert_eq!(late.await.unwrap(), [0, 7]);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_sees_every_commit_that_was_answered_before_it_began_whatever_else_is_loaded(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let store = Arc::new(store);
    let answered: Arc<BTreeMap<_, _>> =
        Arc::new((0..4).map(|number| (user(&format!("user{number}")), AtomicU64::new(0))).collect());
    let done = Arc::new(AtomicBool::new(false));
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for number in 0..64 {
        let (store, answered, done) = (Arc::clone(&store), Arc::clone(&answered), Arc::clone(&done));
        readers.spawn(async move {
            let mut loads = 0_u32;
            for (user, answered) in answered.iter().cycle().skip(number) {
                let known = answered.load(Ordering::SeqCst);
                let (_, loaded) = store.load(user).await;
                assert!(loaded.generation.0 >= known, "{} after {known}", loaded.generation.0);
                loads += 1;
                if done.load(Ordering::SeqCst) {
                    break;
                }
            }
            loads
        });
    }
    for number in 0..4 {
        let user = user(&format!("user{number}"));
        let (store, answered) = (Arc::clone(&store), Arc::clone(&answered));
        writers.spawn(async move {
            let mut revision = Revision::ABSENT;
            for generation in 1..=100 {
                let outcome = store.try_commit(&user, revision, change(generation)).await;
                answered[&user].store(generation, Ordering::SeqCst);
                assert!(matches!(outcome, Commit::Committed(_)), "{outcome:?}");
                revision = store.load(&user).await.0;
            }
        });
    }
    writers.join_all().await;
    done.store(true, Ordering::SeqCst);
    assert!(readers.join_all().await.into_iter().all(|loads| loads > 1));
    for user in answered.keys() {
        assert_eq!(store.load(user).await.1, state(100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_without_events_share_scripts() {
    let server = RedisServer::start();
    let store = connect(&settings(server.url())).await;
    let users: Vec<_> = (0..256).map(|number| user(&format!("user{number}"))).collect();
    let mut revision = vec![Revision::ABSENT; users.len()];
    for (generation, scripts) in [(1, 256), (2, 2), (3, 2)] {
        let () = server.query(redis::cmd("CONFIG").arg("RESETSTAT"));
        let commits =
            users.iter().zip(&revision).map(|(user, revision)| (user, *revision, change(generation)));
        let commits = store.commit_many(commits.collect()).await;
        revision = commits.into_iter().map(|commit| committed(commit.unwrap())).collect();
        let info: String = server.query(redis::cmd("INFO").arg("commandstats"));
        let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        let calls = calls.and_then(|line| line.split(',').next()).and_then(|calls| calls.parse().ok());
        // The first time, the server does not have the script.
        assert!(calls.is_some_and(|calls: usize| (scripts..=scripts + 2).contains(&calls)), "{info}");
    }
}

fn committed(commit: Commit<UserSessions>) -> Revision {
    match commit {
        Commit::Committed(revision) => revision,
        Commit::Conflict(newer) => panic!("{newer:?}"),
    }
}
