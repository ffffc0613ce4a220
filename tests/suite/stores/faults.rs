//! The connection to Redis under network failures, restarts and failovers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::{
    domain::ports::{Change, Commit, EventLog as _, Registers as _, Revision},
    domain::sessions::{Profile, UserSessions},
    store::{
        codec_store::CodecStore,
        redis::{Password, RedisRegisters, RedisSettings},
    },
};

use super::{
    states::{change, change_with, numbers, state, user},
    test_store::{check, connect, corrupt, of_sessions, settings, unavailable, until_up},
};
use crate::support::{
    proxy::{Proxy, ProxyMode},
    redis::{Flavour, RedisServer},
};

const RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);
/// Longer than an immediate answer takes on a busy machine, and shorter than a time-out.
const AT_ONCE: Duration = Duration::from_millis(150);

/// Longer than any answer takes.
const LONG: Duration = Duration::from_mins(1);

type Store = Arc<CodecStore<RedisRegisters>>;

fn impatient(url: String) -> RedisSettings {
    RedisSettings { response_timeout: RESPONSE_TIMEOUT, ..settings(url) }
}

/// Starts a store that reaches its server through a proxy.
async fn through_proxy() -> (Store, Proxy, RedisServer) {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port).await;
    let store = connect(&impatient(format!("redis://{}", proxy.address))).await;
    (store, proxy, server)
}

/// Returns the duration and the cause of a call that must fail with `Unavailable`.
async fn time_to_fail(store: &Store) -> (Duration, String) {
    let begun = Instant::now();
    let cause = unavailable(of_sessions(store.as_ref()).load(&user("alice")).await);
    (begun.elapsed(), cause)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_connection_times_out_then_fails_at_once_and_recovers() {
    let (store, proxy, _server) = through_proxy().await;
    let alice = user("alice");
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();

    proxy.set(ProxyMode::Stall);
    let (first, cause) = time_to_fail(&store).await;
    assert!((RESPONSE_TIMEOUT..RESPONSE_TIMEOUT * 3).contains(&first), "{first:?}: {cause}");
    for call in 2.. {
        let (took, cause) = time_to_fail(&store).await;
        if took < AT_ONCE {
            assert!(cause.starts_with("not connected to "), "{cause}");
            break;
        }
        assert!(call < 6, "call {call} still waits {took:?}: {cause}");
    }
    // Every further call fails at once during the outage.
    for _ in 0..100 {
        let (took, _) = time_to_fail(&store).await;
        assert!(took < AT_ONCE, "{took:?}");
    }

    proxy.set(ProxyMode::Forward);
    let back = until_up(&*store).await;
    assert!(back < Duration::from_secs(2), "{back:?}");
    assert_eq!(*of_sessions(&*store).load(&alice).await.unwrap().state, state(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_connection_is_noticed_without_calls() {
    let (store, proxy, _server) = through_proxy().await;
    proxy.set(ProxyMode::Stall);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (took, cause) = time_to_fail(&store).await;
    assert!(took < AT_ONCE, "{took:?}: {cause}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_slow_answer_does_not_cost_the_connection() {
    let (store, proxy, server) = through_proxy().await;
    let connections = || -> u64 {
        let info: String = server.query(redis::cmd("INFO").arg("stats"));
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse().unwrap()
    };
    let before = connections();
    for _ in 0..4 {
        proxy.set(ProxyMode::Stall);
        time_to_fail(&store).await;
        proxy.set(ProxyMode::Forward);
        until_up(&*store).await;
    }
    assert_eq!(connections(), before + 1, "only the one that asks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_can_be_repeated_and_appends_its_events_once() {
    let (store, proxy, _server) = through_proxy().await;
    let alice = user("alice");
    let end = store.tail(None, 10).await.unwrap().next;
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
    let read = of_sessions(&*store).load(&alice).await.unwrap();

    proxy.set(ProxyMode::DropResponses);
    let change = change_with(2, [2]);
    unavailable(store.commit(&alice, read.revision, change.clone()).await);
    proxy.set(ProxyMode::Disconnect);
    tokio::time::sleep(Duration::from_millis(20)).await;
    proxy.set(ProxyMode::Forward);
    until_up(&*store).await;

    assert_eq!(
        *of_sessions(&*store).load(&alice).await.unwrap().state,
        state(2),
        "it was applied all the same"
    );
    for _ in 0..2 {
        let outcome = store.commit(&alice, read.revision, change.clone()).await.unwrap();
        assert!(matches!(outcome, Commit::Committed(_)), "{outcome:?}");
    }
    let tail = store.tail(Some(&end), 10).await.unwrap();
    assert_eq!((numbers(&tail.events), tail.gap), (vec![("alice", 2)], false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_closed_is_replaced() {
    let (store, proxy, _server) = through_proxy().await;
    for _ in 0..3 {
        proxy.set(ProxyMode::Disconnect);
        let (took, _) = time_to_fail(&store).await;
        assert!(took < RESPONSE_TIMEOUT, "{took:?}");
        let (took, _) = time_to_fail(&store).await;
        assert!(took < AT_ONCE, "{took:?}");
        proxy.set(ProxyMode::Forward);
        let back = until_up(&*store).await;
        assert!(back < Duration::from_secs(2), "{back:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_later_or_restarts_is_used() {
    let mut server = RedisServer::start();
    server.kill();
    let store = Arc::new(CodecStore::new(RedisRegisters::start(&impatient(server.url()), "lk").unwrap()));
    time_to_fail(&store).await;
    for _ in 0..2 {
        server.restart();
        let back = until_up(&*store).await;
        assert!(back < Duration::from_secs(2), "{back:?}");
        // The server has no script after its restart.
        store.commit(&user("alice"), Revision::ABSENT, change(1)).await.unwrap();
        server.kill();
        time_to_fail(&store).await;
        let (took, cause) = time_to_fail(&store).await;
        assert!(took < AT_ONCE && cause.starts_with("not connected to "), "{took:?}: {cause}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_unavailable_until_it_is_promoted() {
    let master = RedisServer::start();
    let port = master.port.to_string();
    let replica = RedisServer::with(Flavour::Redis, &["--replicaof", "127.0.0.1", &port]);
    let store = Arc::new(CodecStore::new(RedisRegisters::start(&impatient(replica.url()), "lk").unwrap()));
    let begun = Instant::now();
    loop {
        let (_, cause) = time_to_fail(&store).await;
        if cause.ends_with(": its role is slave, not master") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{cause}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let () = replica.query(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
    let up = until_up(&*store).await;
    assert!(up < Duration::from_secs(2), "{up:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_answers_no_read() {
    let (master, server) = (RedisServer::start(), RedisServer::start());
    let (alice, bob) = (user("alice"), user("bob"));
    for many in [false, true] {
        let store = connect(&impatient(server.url())).await;
        let read = of_sessions(&*store).load(&alice).await.unwrap();
        store.commit(&alice, read.revision, change(1 + read.state.generation.0)).await.unwrap();
        server.replicate(&master);
        // The first read after the demotion, long before a health check would notice it.
        let answer = if many {
            of_sessions(&*store).load_many(&[&alice, &bob]).await.remove(0)
        } else {
            of_sessions(&*store).load(&alice).await
        };
        let cause = unavailable(answer);
        assert!(cause.contains("its role is slave, not master"), "{cause}");
        server.promote();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limit_of_a_server_fail_at_once() {
    const LIMIT: usize = 8192;
    let (_, proxy, _server) = through_proxy().await;
    let patient = RedisSettings { response_timeout: LONG, ..settings(format!("redis://{}", proxy.address)) };
    let store = connect(&patient).await;
    proxy.set(ProxyMode::Stall);
    let mut loads = tokio::task::JoinSet::new();
    for _ in 0..LIMIT + 10 {
        let store = Arc::clone(&store);
        loads.spawn(async move { of_sessions(&*store).load(&user("alice")).await });
    }
    for _ in 0..10 {
        let cause = unavailable(loads.join_next().await.unwrap().unwrap());
        assert!(cause.contains("8192 requests to"), "{cause}");
    }
    assert_eq!(loads.len(), LIMIT, "no other load has an answer");
    proxy.set(ProxyMode::Forward);
    for load in loads.join_all().await {
        load.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_is_left_at_the_first_write_and_used_again_after_promotion() {
    let (master, server) = (RedisServer::start(), RedisServer::start());
    let store = connect(&impatient(server.url())).await;
    let (alice, bob) = (user("alice"), user("bob"));
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();

    let () = server.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port));
    unavailable(store.commit(&bob, Revision::ABSENT, change(2)).await);
    let (took, cause) = time_to_fail(&store).await;
    assert!(took < AT_ONCE && cause.starts_with("not connected to "), "{took:?}: {cause}");

    let () = server.query(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
    let back = until_up(&*store).await;
    assert!(back < Duration::from_secs(2), "{back:?}");
    let outcome = store.commit(&bob, Revision::ABSENT, change(3)).await.unwrap();
    assert!(matches!(outcome, Commit::Committed(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_is_left_without_a_write() {
    let (master, server) = (RedisServer::start(), RedisServer::start());
    let store = connect(&impatient(server.url())).await;
    let () = server.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port));
    let begun = Instant::now();
    while of_sessions(&*store).load(&user("alice")).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(2), "a replica is still read");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgets_are_sent_again() {
    let server = RedisServer::start();
    let store = connect(&settings(server.url())).await;
    let alice = user("alice");
    let mut end = store.tail(None, 10).await.unwrap().next;
    for generation in 1..=5 {
        let () = server.query(redis::cmd("SCRIPT").arg("FLUSH"));
        let read = of_sessions(&*store).load(&alice).await.unwrap();
        let change = change_with(generation, [generation]);
        let outcome = store.commit(&alice, read.revision, change).await.unwrap();
        assert!(matches!(outcome, Commit::Committed(_)), "{outcome:?}");
        let () = server.query(redis::cmd("SCRIPT").arg("FLUSH"));
        let tail = store.tail(Some(&end), 10).await.unwrap();
        assert_eq!(numbers(&tail.events), [("alice", generation)]);
        end = tail.next;
    }
    let () = server.query(redis::cmd("SCRIPT").arg("FLUSH"));
    let users: Vec<_> = (0..10).map(|number| user(&format!("user{number}"))).collect();
    let commits = users.iter().map(|user| (user, Revision::ABSENT, change(1))).collect();
    let outcomes = store.commit_many(commits).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Commit::Committed(_)))), "{outcomes:?}");
}

/// Returns the keys of the only register and of the stream of its bucket.
fn keys(server: &RedisServer) -> (String, String) {
    let keys: Vec<String> = server.query(redis::cmd("KEYS").arg("lk:*:s:*"));
    let [register] = &keys[..] else { panic!("{keys:?}") };
    let stream = format!("{}:events", register.split(":s:").next().unwrap());
    (register.clone(), stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_values_are_corrupt_and_never_overwritten() {
    let server = RedisServer::start();
    let store = connect(&settings(server.url())).await;
    let alice = user("alice");
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
    let revision = of_sessions(&*store).load(&alice).await.unwrap().revision;
    let (key, _) = keys(&server);
    let newer: &[u8] = b"\0\0\0\0\0\0\0\x05\x02whatever";
    for garbage in [b"".as_slice(), b"short", b"12345678", b"12345678garbage", newer] {
        let () = server.query(redis::cmd("SET").arg(&key).arg(garbage));
        corrupt(of_sessions(&*store).load(&alice).await);
        for expected in [Revision::ABSENT, revision] {
            corrupt(store.commit(&alice, expected, change(2)).await);
        }
        let stands: Vec<u8> = server.query(redis::cmd("GET").arg(&key));
        assert_eq!(stands, garbage);
    }
    let () = server.query(redis::cmd("DEL").arg(&key));
    let _: u64 = server.query(redis::cmd("LPUSH").arg(&key).arg("a list"));
    assert!(corrupt(of_sessions(&*store).load(&alice).await).contains("WRONGTYPE"));
    assert!(corrupt(store.commit(&alice, Revision::ABSENT, change(2)).await).contains("WRONGTYPE"));
    // Other registers and the connection are not affected.
    store.commit(&user("bob"), Revision::ABSENT, change(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_events_cannot_be_appended_does_not_happen() {
    let server = RedisServer::start();
    let store = connect(&settings(server.url())).await;
    let alice = user("alice");
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
    let read = of_sessions(&*store).load(&alice).await.unwrap();
    let (_, stream) = keys(&server);
    let () = server.query(redis::cmd("SET").arg(&stream).arg("no stream"));

    corrupt(store.commit(&alice, read.revision, change_with(2, [2])).await);
    assert_eq!(*of_sessions(&*store).load(&alice).await.unwrap().state, state(1));
    corrupt(store.tail(None, 10).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configured_password_is_used_and_a_wrong_one_is_not_printed() {
    let server = RedisServer::with(Flavour::Redis, &["--requirepass", "open-sesame"]);
    let with = |password: Option<&str>| RedisSettings {
        password: password.map_or(Password::None, |password| Password::Value(password.to_owned())),
        ..settings(server.url())
    };
    let store = connect(&with(Some("open-sesame"))).await;
    store.commit(&user("alice"), Revision::ABSENT, change(1)).await.unwrap();

    for wrong in [Some("open-barley"), None] {
        let store = Arc::new(CodecStore::new(RedisRegisters::start(&with(wrong), "lk").unwrap()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (_, cause) = time_to_fail(&store).await;
        assert!(cause.starts_with("not connected to ") && !cause.contains("open-"), "{cause}");
        assert!(!cause.contains("not yet connected"), "it says why: {cause}");
    }
}

#[tokio::test]
async fn an_invalid_url_is_an_error_without_its_password() {
    for url in ["redis://:hunter2@", "redis://:hunter2@host:port", "http://:hunter2@host", "nonsense", ""] {
        let error = settings(url.to_owned()).check().unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_out_of_memory_is_unavailable_for_writing_and_still_read() {
    let server = RedisServer::start();
    let store = connect(&settings(server.url())).await;
    let alice = user("alice");
    let end = store.tail(None, 10).await.unwrap().next;
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
    let read = of_sessions(&*store).load(&alice).await.unwrap();

    let memory =
        |limit: &str| -> () { server.query(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(limit)) };
    memory("1");
    let large = UserSessions {
        profile: Profile { username: "x".repeat(10_000).into(), ..Profile::default() },
        ..state(2)
    };
    let large = Change { state: large, ..change_with(2, [2]) };
    let cause = unavailable(store.commit(&alice, read.revision, large.clone()).await);
    assert!(cause.contains("OOM"), "{cause}");
    assert_eq!(*of_sessions(&*store).load(&alice).await.unwrap().state, state(1));
    assert_eq!(store.tail(Some(&end), 10).await.unwrap().events, []);

    memory("0");
    let outcome = store.commit(&alice, read.revision, large).await.unwrap();
    assert!(matches!(outcome, Commit::Committed(_)), "{outcome:?}");
    assert_eq!(store.tail(Some(&end), 10).await.unwrap().events.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_loading_its_data_is_unavailable_until_it_has() {
    let server = RedisServer::with(Flavour::Redis, &["--enable-debug-command", "yes"]);
    // Loading this many keys slowly takes long enough to observe.
    let fill = "for i = 1, 5000 do redis.call('SET', 'filler' .. i, i) end";
    let () = server.query(redis::cmd("EVAL").arg(fill).arg(0));
    let store = connect(&impatient(server.url())).await;
    store.commit(&user("alice"), Revision::ABSENT, change(1)).await.unwrap();

    let set = |name: &str, value: &str| {
        let () = server.query(redis::cmd("CONFIG").arg("SET").arg(name).arg(value));
    };
    set("loading-process-events-interval-bytes", "1024");
    set("key-load-delay", "50");
    let port = server.port;
    let reload = std::thread::spawn(move || {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        redis::cmd("DEBUG").arg("RELOAD").query::<()>(&mut client.get_connection().unwrap()).unwrap();
    });
    let begun = Instant::now();
    let mut causes = Vec::new();
    while causes.is_empty() && begun.elapsed() < Duration::from_secs(5) {
        if let Err(error) = check(&*store).await {
            causes.push(error.to_string());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reload.join().unwrap();
    until_up(&*store).await;
    assert_eq!(*of_sessions(&*store).load(&user("alice")).await.unwrap().state, state(1));
    assert!(!causes.is_empty(), "the loading state was never seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installations_that_share_a_server_do_not_share_sessions() {
    let server = RedisServer::start();
    let one = connect(&settings(server.url())).await;
    let other = Arc::new(CodecStore::new(RedisRegisters::start(&settings(server.url()), "other").unwrap()));
    until_up(&*other).await;
    let alice = user("alice");
    let end = other.tail(None, 10).await.unwrap().next;
    one.commit(&alice, Revision::ABSENT, change_with(1, [1])).await.unwrap();
    assert_eq!(of_sessions(&*other).load(&alice).await.unwrap().revision, Revision::ABSENT);
    assert_eq!(other.tail(Some(&end), 10).await.unwrap().events, []);
}
