//! Conformance of following the event log: every event and every gap arrives soon.

use super::test_store::{StoreKind, TestStore, every_store};
use rstest::rstest;
use rstest_reuse::apply;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use latchkey::{
    domain::ports::{Commit, Cursor, Event, EventLog, Moment, Registers as _, Revision, StoreError},
    store::{
        codec_store::CodecStore,
        near_cache::{self, NearCache},
        redis::{RedisRegisters, RedisSettings},
    },
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    log::{assert_complete, commit_events},
    states::{change, change_with, numbers, user},
    test_store::{connect, of_sessions, settings, unavailable, until_up},
};
use crate::support::{
    proxy::{Proxy, ProxyMode},
    redis::{Flavour, RedisServer},
};

/// Longer than any test takes: a reader that waits this long was not woken.
const LONG: Duration = Duration::from_mins(1);
/// How long it takes to notice what wakes no reader.
const PATIENCE: Duration = Duration::from_millis(700);
/// Longer than waking a reader takes on a busy machine.
const SOON: Duration = Duration::from_secs(2);
/// Lets a call reach the point where it waits. A shorter time can only make a test pass more easily.
const SETTLED: Duration = Duration::from_millis(100);

/// Follows until this number of events has arrived.
async fn follow_for(log: &dyn EventLog, mut after: Cursor, count: usize) -> Vec<Event> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let tail = log.follow(&after, 100, LONG).await.unwrap();
        assert!(!tail.gap && !tail.events.is_empty(), "{tail:?}");
        (after, seen) = (tail.next, [seen, tail.events].concat());
    }
    seen
}

/// Commits events 1 to 50 for each of 8 users, all users at once, with a pause after each.
fn commit_at_once(store: &Arc<TestStore>, pause: Duration) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for name in 0..8 {
        let store = Arc::clone(store);
        writers.spawn(async move {
            let (name, mut revision) = (user(&format!("user{name}")), Revision::ABSENT);
            for number in 1..=50 {
                revision = store.commit(&name, revision, change_with(number, [number])).await;
                sleep(pause).await;
            }
        });
    }
    writers
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_returns_existing_events_at_once(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let end = store.end_of_log().await;
    commit_events(&store, 20, 3).await;
    let begun = Instant::now();
    assert_complete(&numbers(&follow_for(&*store.log, end, 60).await), 20, 3);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_with_events_wakes_a_follower(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let alice = user("alice");
    let (mut end, mut revision) = (store.end_of_log().await, Revision::ABSENT);
    for number in 1..=3 {
        let log = Arc::clone(&store.log);
        let following = tokio::spawn(async move { log.follow(&end, 100, LONG).await.unwrap() });
        sleep(SETTLED).await;
        revision = store.commit(&alice, revision, change(2 * number)).await;
        sleep(SETTLED).await;
        assert!(!following.is_finished(), "a commit without events");

        revision = store.commit(&alice, revision, change_with(2 * number + 1, [number])).await;
        let tail = timeout(SOON, following).await.unwrap().unwrap();
        assert_eq!((numbers(&tail.events), tail.gap), (vec![("alice", number)], false));
        end = tail.next;
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_without_events_returns_after_the_given_time(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    commit_events(&store, 3, 2).await;
    let end = store.end_of_log().await;
    for _ in 0..2 {
        let begun = Instant::now();
        let tail = store.follow(&end, 100, PATIENCE).await;
        assert_eq!((tail.events, tail.next, tail.gap), (Vec::new(), end.clone(), false));
        assert!((PATIENCE..PATIENCE + SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
    let begun = Instant::now();
    assert_eq!(store.follow(&end, 100, Duration::ZERO).await.next, end);
    assert!(begun.elapsed() < SOON, "without patience");
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_follower_learns_how_long_the_log_has_been_quiet(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let (mut end, mut revision) = (store.end_of_log().await, Revision::ABSENT);
    for number in 1..=3 {
        let (log, follower_end) = (Arc::clone(&store.log), end);
        let following = tokio::spawn(async move {
            let quiet = Mutex::new(Vec::new());
            let observe = |at: Instant| quiet.lock().unwrap().push(at);
            let tail = log.follow_closely(&follower_end, 100, LONG, &observe).await.unwrap();
            (tail, quiet.into_inner().unwrap())
        });
        let begun = Instant::now();
        sleep(PATIENCE).await;
        revision = store.commit(&user("alice"), revision, change_with(number, [number])).await;
        let committed = Instant::now();
        let (tail, quiet) = timeout(SOON, following).await.unwrap().unwrap();
        assert_eq!((numbers(&tail.events), tail.gap), (vec![("alice", number)], false));
        end = tail.next;
        assert!(quiet.iter().all(|at| *at < committed), "quiet although there was an event");
        if kind != StoreKind::Embedded {
            let known: Vec<_> = [begun].into_iter().chain(quiet).chain([begun + PATIENCE]).collect();
            let gap = known.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap();
            assert!(gap < PATIENCE / 2, "nothing was known for {gap:?}");
        }
    }
}

/// A reader of the log that feeds the near-cache, and its cache.
async fn cached(store: &TestStore) -> (NearCache, JoinHandle<()>) {
    let (cache, log) =
        near_cache::cached(Arc::clone(&store.registers), Arc::clone(&store.log), 1 << 20, false);
    let mut after = log.tail(None, 1).await.unwrap().next;
    let following = tokio::spawn(async move {
        loop {
            after = log.follow(&after, 256, Duration::from_secs(1)).await.unwrap().next;
        }
    });
    (cache, following)
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarter_of_a_second_of_staleness_suffices_on_a_quiet_log_and_is_kept(kind: StoreKind) {
    // The near-cache of the embedded store does not follow the log.
    if kind == StoreKind::Embedded {
        return;
    }
    let Some(store) = TestStore::start(kind).await else { return };

    let (cache, following) = cached(&store).await;
    let alice = user("alice");
    let mut revision = store.commit(&alice, Revision::ABSENT, change_with(1, [1])).await;
    let staleness = Duration::from_millis(250);
    let recall = || cache.recall(&alice, staleness, &Moment::new(Instant::now));
    // The first request that allows staleness enables the near-cache, and then a call to follow the log has to end.
    let begun = Instant::now();
    while recall().is_none() {
        cache.load(&alice).await.unwrap();
        assert!(begun.elapsed() < LONG / 4, "nothing is ever answered from memory");
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_secs(1)).await;

    let (begun, mut asked, mut missed) = (Instant::now(), 0, 0);
    while begun.elapsed() < Duration::from_secs(3) {
        asked += 1;
        if recall().is_none() {
            missed += 1;
            cache.load(&alice).await.unwrap();
        }
        sleep(Duration::from_millis(1)).await;
    }
    println!("{missed} of {asked} were not answered from memory");
    assert!(asked > 500 && missed * 20 < asked, "{missed} of {asked} were not answered from memory");

    for number in 2..20 {
        revision = store.commit(&alice, revision, change_with(number, [number])).await;
        let committed = Instant::now();
        loop {
            let asked = Instant::now();
            match recall() {
                Some(read) if read.revision == revision => break,
                Some(read) => {
                    assert!(
                        read.revision < revision && asked - committed <= staleness,
                        "{:?}",
                        asked - committed
                    );
                }
                None => drop(cache.load(&alice).await.unwrap()),
            }
            assert!(committed.elapsed() < SOON, "the change does not reach memory");
            sleep(Duration::from_millis(1)).await;
        }
    }
    following.abort();
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_shows_what_many_commit_at_once_completely_and_in_order(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let (end, store) = (store.end_of_log().await, Arc::new(store));
    let writers = commit_at_once(&store, Duration::ZERO);
    let seen = timeout(LONG / 2, follow_for(&*store.log, end, 8 * 50)).await.unwrap();
    assert_complete(&numbers(&seen), 8, 50);
    writers.join_all().await;
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_follow_skips_nothing(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let (end, store) = (store.end_of_log().await, Arc::new(store));
    // A call that reads everything at once ends before it can be cancelled.
    let mut after = store.follow(&end, 100, SETTLED).await.next;
    let writers = commit_at_once(&store, Duration::from_millis(2));
    let (mut seen, mut given_up) = (Vec::new(), 0);
    let begun = Instant::now();
    for pause in (0..).map(|call| Duration::from_micros(call * 97 % 3000)) {
        if let Ok(tail) = timeout(pause, store.follow(&after, 5, LONG)).await {
            assert!(!tail.gap);
            (after, seen) = (tail.next, [seen, tail.events].concat());
        } else {
            given_up += 1;
        }
        if seen.len() >= 8 * 50 {
            break;
        }
        assert!(begun.elapsed() < LONG / 2, "{} seen", seen.len());
    }
    assert_complete(&numbers(&seen), 8, 50);
    assert!(given_up > 10, "only {given_up} were given up");
    writers.join_all().await;
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_from_a_trimmed_cursor_reports_a_gap_at_once(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let beginning = store.end_of_log().await;
    commit_events(&store, 10, 5).await;
    store.trim_log().await;
    let tail = timeout(SOON, store.follow(&beginning, 100, LONG)).await.unwrap();
    assert!(tail.gap);
    store.commit(&user("late"), Revision::ABSENT, change_with(1, [77])).await;
    assert_eq!(numbers(&follow_for(&*store.log, tail.next, 1).await), [("late", 77)]);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_from_a_foreign_cursor_reports_a_gap(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let tail = store.follow(&Cursor("nonsense".into()), 100, LONG).await;
    assert!(tail.gap);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_is_a_gap_for_a_waiting_follower(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    commit_events(&store, 10, 5).await;
    let end = store.end_of_log().await;
    // The loss must come after the first read.
    store.follow(&end, 100, PATIENCE).await;
    let log = Arc::clone(&store.log);
    let following = tokio::spawn({
        let end = end.clone();
        async move { log.follow(&end, 100, PATIENCE).await.unwrap() }
    });
    sleep(SETTLED).await;
    let begun = Instant::now();
    store.lose_log().await;
    let tail = following.await.unwrap();
    assert!(tail.gap, "{tail:?}");
    assert!(begun.elapsed() < PATIENCE + SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_stream_is_a_gap_while_other_streams_are_busy() {
    let store = Arc::new(TestStore::redis(Flavour::Redis).await.unwrap());
    let server = store.server();
    // The users are in two buckets.
    let streams = || -> Vec<String> { server.query(redis::cmd("KEYS").arg("*:events")) };
    store.commit(&user("quiet"), Revision::ABSENT, change_with(1, [1])).await;
    let quiet = streams();
    let mut revision = store.commit(&user("busy"), Revision::ABSENT, change_with(1, [1])).await;
    assert_eq!((quiet.len(), streams().len()), (1, 2));

    let mut after = store.follow(&store.end_of_log().await, 100, PATIENCE).await.next;
    let _: u64 = server.query(redis::cmd("DEL").arg(&quiet));
    let begun = Instant::now();
    for number in 2.. {
        revision = store.commit(&user("busy"), revision, change_with(number, [number])).await;
        let tail = store.follow(&after, 100, PATIENCE).await;
        assert_eq!(numbers(&tail.events), [("busy", number)], "in between");
        if tail.gap {
            break;
        }
        assert!(begun.elapsed() < PATIENCE + SOON, "no gap, and {number} events");
        after = tail.next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_waits_behind_a_follower() {
    let store = TestStore::redis(Flavour::Redis).await.unwrap();
    let end = store.end_of_log().await;
    let log = Arc::clone(&store.log);
    let following = tokio::spawn(async move { log.follow(&end, 100, LONG).await.unwrap() });
    sleep(SETTLED).await;
    // These calls would time out if they waited behind the follower.
    let begun = Instant::now();
    for generation in 1..=50 {
        let (alice, asked) = (user("alice"), Instant::now());
        let (revision, _) = store.load(&alice).await;
        store.commit(&alice, revision, change(generation)).await;
        assert!(asked.elapsed() < Duration::from_millis(250), "{:?}", asked.elapsed());
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(!following.is_finished());
    following.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_may_wait_longer_than_the_response_timeout() {
    let server = RedisServer::start();
    let settings = RedisSettings { response_timeout: Duration::from_millis(150), ..settings(server.url()) };
    let store = connect(&settings).await;
    let end = store.tail(None, 100).await.unwrap().next;
    for patience in [Duration::from_millis(400), Duration::from_secs(2)] {
        let tail = store.follow(&end, 100, patience).await.unwrap();
        assert_eq!((tail.events, tail.gap), (Vec::new(), false));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_holds_two_connections_and_a_third_while_it_follows() {
    let store = TestStore::redis(Flavour::Redis).await.unwrap();
    let server = store.server();
    let connections = async |expected: usize| {
        let begun = Instant::now();
        loop {
            let clients: String = server.query(redis::cmd("CLIENT").arg("LIST"));
            // Ignores the connection of the test itself. Its previous one may still be open.
            let found = clients.lines().count() - 1;
            if found == expected {
                return;
            }
            assert!(begun.elapsed() < SOON, "{found} connections");
            sleep(Duration::from_millis(5)).await;
        }
    };
    let end = store.end_of_log().await;
    connections(2).await;
    for _ in 0..3 {
        store.follow(&end, 100, Duration::from_millis(1)).await;
        connections(3).await;
    }
}

type Store = Arc<CodecStore<RedisRegisters>>;

/// The number of events for each user that are committed while the server restarts.
const EACH: u64 = 100;

/// Follows and retries after errors until this number of events has arrived. Returns the events and the number of
/// errors.
fn follow_through_errors(store: &Store, mut after: Cursor, count: usize) -> JoinHandle<(Vec<Event>, usize)> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        let (mut seen, mut errors) = (Vec::new(), 0);
        while seen.len() < count {
            match store.follow(&after, 100, PATIENCE).await {
                Ok(tail) => {
                    assert!(!tail.gap, "after {} events and {errors} errors", seen.len());
                    (after, seen) = (tail.next, [seen, tail.events].concat());
                }
                Err(StoreError::Unavailable { .. }) => {
                    errors += 1;
                    sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        (seen, errors)
    })
}

/// Calls until there is an answer.
async fn until_ok<T, F: Future<Output = Result<T, StoreError>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Commits events for each of 8 users and repeats each commit until it is acknowledged.
fn commit_through_errors(store: &Store) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for name in 0..8 {
        let store = Arc::clone(store);
        writers.spawn(async move {
            let name = user(&format!("user{name}"));
            for number in 1..=EACH {
                let read = until_ok(|| of_sessions(&*store).load(&name)).await;
                // Commits are safe to repeat.
                let change = change_with(number, [number]);
                let outcome = until_ok(|| store.commit(&name, read.revision, change.clone())).await;
                assert!(matches!(outcome, Commit::Committed(_)), "{outcome:?}");
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    writers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_misses_no_event_when_the_server_restarts_with_its_data() {
    // With `everysec` a killed server could lose acknowledged commits.
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::with(Flavour::Redis, &arguments);
    let store = connect(&settings(server.url())).await;
    let end = store.tail(None, 100).await.unwrap().next;
    let following = follow_through_errors(&store, end, 8 * usize::try_from(EACH).unwrap());
    let writers = commit_through_errors(&store);
    for _ in 0..2 {
        sleep(SETTLED).await;
        server.restart();
        until_up(&*store).await;
    }
    let (seen, errors) = timeout(LONG / 2, following).await.unwrap().unwrap();
    assert_complete(&numbers(&seen), 8, EACH);
    assert!(errors > 0, "the outage was not noticed");
    writers.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_without_its_data_is_a_gap() {
    let mut server = RedisServer::start();
    let store = connect(&settings(server.url())).await;
    // Another process, which does not make its commit again.
    let other = connect(&settings(server.url())).await;
    other.commit(&user("alice"), Revision::ABSENT, change_with(1, [1])).await.unwrap();
    drop(other);
    let end = store.tail(None, 100).await.unwrap().next;
    store.follow(&end, 100, SETTLED).await.unwrap();
    let following = tokio::spawn({
        let (store, end) = (Arc::clone(&store), end.clone());
        async move { store.follow(&end, 100, LONG).await }
    });
    sleep(SETTLED).await;
    server.restart();

    unavailable(timeout(SOON, following).await.unwrap().unwrap());
    // The gap comes at once, because a restarted server may be another one.
    let tail = timeout(SOON, until_ok(|| store.follow(&end, 100, LONG))).await.unwrap();
    assert_eq!((tail.events.len(), tail.gap), (0, true));
    until_up(&*store).await;
    store.commit(&user("alice"), Revision::ABSENT, change_with(2, [2])).await.unwrap();
    assert_eq!(numbers(&follow_for(&*store, tail.next, 1).await), [("alice", 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_leaves_a_demoted_master() {
    let (master, server) = (RedisServer::start(), RedisServer::start());
    let store = connect(&settings(server.url())).await;
    let end = store.tail(None, 100).await.unwrap().next;
    let following = tokio::spawn({
        let (store, end) = (Arc::clone(&store), end.clone());
        async move { store.follow(&end, 100, LONG).await }
    });
    sleep(SETTLED).await;
    let () = server.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port));
    unavailable(timeout(SOON, following).await.unwrap().unwrap());
    // The store does not take the replica for a master again.
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        unavailable(store.follow(&end, 100, PATIENCE).await);
        sleep(Duration::from_millis(5)).await;
    }

    let () = server.query(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
    until_up(&*store).await;
    store.commit(&user("alice"), Revision::ABSENT, change_with(1, [1])).await.unwrap();
    let tail = timeout(SOON, until_ok(|| store.follow(&end, 100, LONG))).await.unwrap();
    assert_eq!(numbers(&tail.events), [("alice", 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_over_a_stalled_connection_fails() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port).await;
    let store = connect(&settings(format!("redis://{}", proxy.address))).await;
    let end = store.tail(None, 100).await.unwrap().next;
    store.follow(&end, 100, SETTLED).await.unwrap();
    proxy.set(ProxyMode::Stall);
    unavailable(timeout(SOON, store.follow(&end, 100, LONG)).await.unwrap());

    proxy.set(ProxyMode::Forward);
    until_up(&*store).await;
    store.commit(&user("alice"), Revision::ABSENT, change_with(1, [1])).await.unwrap();
    let tail = timeout(SOON, until_ok(|| store.follow(&end, 100, LONG))).await.unwrap();
    assert_eq!((numbers(&tail.events), tail.gap), (vec![("alice", 1)], false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_known_within_milliseconds_of_its_commit_by_another_process() {
    let server = RedisServer::start();
    let (here, there) = (connect(&settings(server.url())).await, connect(&settings(server.url())).await);
    let mut after = here.tail(None, 100).await.unwrap().next;
    let mut took = Vec::new();
    for number in 1..=100 {
        let following = tokio::spawn({
            let here = Arc::clone(&here);
            async move { here.follow(&after, 100, LONG).await.unwrap().next }
        });
        sleep(Duration::from_millis(3)).await;
        let begun = Instant::now();
        there.commit(&user(&format!("user{number}")), Revision::ABSENT, change_with(1, [1])).await.unwrap();
        after = timeout(SOON, following).await.unwrap().unwrap();
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    println!("known after {:?}, half of them, and {:?} at the worst", took[50], took[99]);
    assert!(took[50] < Duration::from_millis(20), "half of them take {:?} or more", took[50]);
}
