//! Access to Redis: passwords that change, users with few rights, and paused writes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::{
    domain::ports::{Commit, EventLog as _, Registers as _, Revision},
    store::{
        codec_store::CodecStore,
        redis::{Password, RedisRegisters, RedisSettings},
    },
};

use super::{
    states::{change, change_with, numbers, state, user},
    test_store::{
        check, connect, of_sessions, redis_server, settings, start_with_retention, unavailable, until_up,
    },
};
use crate::support::{
    cluster::{ClusterOptions, RedisCluster},
    redis::{Flavour, RedisServer},
};

type Store = Arc<CodecStore<RedisRegisters>>;

/// How long a retry may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn start(settings: &RedisSettings) -> Store {
    Arc::new(CodecStore::new(RedisRegisters::start(settings, "lk").unwrap()))
}

/// Waits until the store fails with an error that contains these words.
async fn until_error(store: &Store, words: &str) -> String {
    let begun = Instant::now();
    loop {
        let error = check(&**store).await.map_or_else(|error| error.to_string(), |()| "up".to_owned());
        if error.contains(words) {
            return error;
        }
        assert!(begun.elapsed() < PATIENCE, "not {words}: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_changes_in_its_file_needs_no_restart() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut server = RedisServer::with(Flavour::Redis, &["--requirepass", "open-sesame"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let write = |password: &str| {
        std::fs::write(&file, format!("{password}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("open-sesame");
    let store =
        connect(&RedisSettings { password: Password::File(file.clone()), ..settings(server.url()) }).await;
    store.commit(&user("alice"), Revision::ABSENT, change(1)).await.unwrap();

    // The server restarts with a password that the file does not have yet.
    server.set_arguments(&["--requirepass", "open-barley"]);
    server.restart();
    let error = until_error(&store, "AuthenticationFailed").await;
    assert!(error.contains(&format!("127.0.0.1:{}", server.port)) && !error.contains("open-"), "{error}");
    write("open-barley");
    let back = until_up(&*store).await;
    assert!(back < PATIENCE, "{back:?}");

    // An unreadable file is reported, and the store recovers once the file is back.
    std::fs::remove_file(&file).unwrap();
    server.restart();
    until_error(&store, "sessions.password_file: cannot read").await;
    write("open-barley");
    until_up(&*store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_goes_on_with_the_new_password() {
    let server = RedisServer::start();
    let acl = |rules: &[&str]| {
        let () = server.query(redis::cmd("ACL").arg("SETUSER").arg("app").arg(rules));
    };
    acl(&["on", ">old-secret", "~*", "&*", "+@all"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "old-secret").unwrap();
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let url = format!("redis://app@127.0.0.1:{}", server.port);
    let store = connect(&RedisSettings { password: Password::File(file.clone()), ..settings(url) }).await;
    let authenticated = || -> u64 {
        let info: String = server.query(redis::cmd("INFO").arg("commandstats"));
        let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_auth:calls="));
        calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    };
    let before = authenticated();
    acl(&[">new-secret", "<old-secret"]);
    std::fs::write(&file, "new-secret\n").unwrap();
    let begun = Instant::now();
    while authenticated() < before + 2 {
        assert!(begun.elapsed() < PATIENCE, "the store did not authenticate again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    check(&*store).await.unwrap();
}

/// Returns the rules of the Redis user in the documentation. `commands` is how many of the commands there count.
fn documented_user(commands: usize) -> Vec<String> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md");
    let text = std::fs::read_to_string(docs).unwrap();
    let commands = text.split("ACL SETUSER latchkey ").skip(1).take(commands);
    let rules = commands.flat_map(|command| {
        let rules = command.split("```").next().unwrap().replace('\\', " ");
        rules.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    rules.collect()
}

/// Uses every command that the store sends to Redis.
async fn everything_works(store: &Store, server: &RedisServer) {
    let (alice, bob) = (user("alice"), user("bob"));
    let end = store.tail(None, 10).await.unwrap().next;
    for generation in 1..=2 {
        // The store has to send its scripts again.
        let () = server.query(redis::cmd("SCRIPT").arg("FLUSH"));
        let read = of_sessions(&**store).load(&alice).await.unwrap();
        let change = change_with(generation, [generation]);
        let committed = store.commit(&alice, read.revision, change).await.unwrap();
        assert!(matches!(committed, Commit::Committed(_)), "{committed:?}");
    }
    for read in of_sessions(&**store).load_many(&[&alice, &bob]).await {
        read.unwrap();
    }
    let tail = store.follow(&end, 10, Duration::from_secs(5)).await.unwrap();
    assert_eq!(numbers(&tail.events)[0], ("alice", 1));
    let quiet = store.follow(&store.tail(None, 1).await.unwrap().next, 10, Duration::from_millis(50)).await;
    assert!(quiet.unwrap().events.is_empty());
    assert_eq!(*of_sessions(&**store).load(&alice).await.unwrap().state, state(2));
}

async fn with_the_documented_user(flavour: Flavour) {
    let Some(server) = redis_server(flavour) else { return };
    let rules = documented_user(1);
    assert!(rules.iter().any(|rule| rule == "-@all"), "{rules:?}");
    let () = server.query(redis::cmd("ACL").arg("SETUSER").arg("latchkey").arg(&rules));
    let password = rules.iter().find_map(|rule| rule.strip_prefix('>')).unwrap();
    let store = connect(&settings(server_url(&server, password))).await;
    everything_works(&store, &server).await;
    // Without retention every commit trims the log.
    let trimming = Arc::new(start_with_retention(server_url(&server, password), Duration::ZERO));
    until_up(&*trimming).await;
    everything_works(&trimming, &server).await;
    // Redis has denied only commands that the store can do without.
    let refused: Vec<Vec<redis::Value>> = server.query(redis::cmd("ACL").arg("LOG"));
    let refused: Vec<String> =
        refused.iter().map(|entry| redis::from_redis_value(entry[7].clone()).unwrap()).collect();
    let without = ["role", "info", "client|setinfo"];
    assert!(refused.iter().all(|command| without.contains(&command.as_str())), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_user_has_all_rights_that_are_needed_on_a_cluster() {
    let options = ClusterOptions { replicas_per_master: 0, ..ClusterOptions::default() };
    let Some(cluster) = RedisCluster::start(Flavour::Redis, options).await else { return };
    let rules = documented_user(3);
    assert!(rules.iter().any(|rule| rule == "+ssubscribe") && rules.iter().any(|rule| rule == "+wait"));
    for node in &cluster.nodes {
        let () = node.server.query(redis::cmd("ACL").arg("SETUSER").arg("latchkey").arg(&rules));
    }
    let password = rules.iter().find_map(|rule| rule.strip_prefix('>')).unwrap();
    let url = cluster.url().replace("://", &format!("://latchkey:{password}@"));
    let store = connect(&settings(url)).await;
    let end = store.tail(None, 10).await.unwrap().next;
    let users: Vec<_> = (0..30).map(|number| user(&format!("user{number}"))).collect();
    for user in &users {
        let committed = store.commit(user, Revision::ABSENT, change_with(1, [1])).await.unwrap();
        assert!(matches!(committed, Commit::Committed(_)), "{committed:?}");
    }
    for read in of_sessions(&*store).load_many(&users.iter().collect::<Vec<_>>()).await {
        assert_eq!(*read.unwrap().state, state(1));
    }
    assert!(!store.follow(&end, 10, Duration::from_secs(5)).await.unwrap().events.is_empty());
    let denials = |without: &[&str]| {
        for node in &cluster.nodes {
            let denied: Vec<Vec<redis::Value>> = node.server.query(redis::cmd("ACL").arg("LOG"));
            let denied: Vec<String> =
                denied.iter().map(|entry| redis::from_redis_value(entry[7].clone()).unwrap()).collect();
            assert!(denied.iter().all(|command| without.contains(&command.as_str())), "{denied:?}");
        }
    };
    denials(&["role", "info", "client|setinfo"]);

    // Events of a user who may not publish are found all the same.
    for node in &cluster.nodes {
        let () = node.server.query(redis::cmd("ACL").arg("SETUSER").arg("latchkey").arg("-spublish"));
    }
    let end = store.tail(None, 10).await.unwrap().next;
    store.commit(&users[0], Revision(1), change_with(2, [2])).await.unwrap();
    let begun = Instant::now();
    let mut after = end;
    loop {
        // The log is not called quiet meanwhile.
        let quiet = |_: Instant| panic!("there is an event");
        let page = store.follow_closely(&after, 10, Duration::from_secs(1), &quiet).await.unwrap();
        if numbers(&page.events).contains(&("user0", 2)) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the event is missing");
        after = page.next;
    }
}

fn server_url(server: &RedisServer, password: &str) -> String {
    format!("redis://latchkey:{password}@127.0.0.1:{}", server.port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_user_has_all_rights_that_are_needed_in_redis() {
    with_the_documented_user(Flavour::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_user_has_all_rights_that_are_needed_in_valkey() {
    with_the_documented_user(Flavour::Valkey).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_dangerous_commands_is_served_by_a_master_only() {
    let master = RedisServer::start();
    let port = master.port.to_string();
    let replica = RedisServer::with(Flavour::Redis, &["--replicaof", "127.0.0.1", &port]);
    for server in [&master, &replica] {
        let rules = ["on", ">secret", "~*", "&*", "+@all", "-@dangerous", "-@admin", "-hello"];
        let () = server.query(redis::cmd("ACL").arg("SETUSER").arg("app").arg(&rules));
    }
    let url = |server: &RedisServer| format!("redis://app:secret@127.0.0.1:{}", server.port);
    let store = connect(&settings(url(&master))).await;
    everything_works(&store, &master).await;
    let store = start(&settings(url(&replica)));
    until_error(&store, "its role is replica, not master").await;
    // A demotion disconnects the store again.
    let () = replica.query(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
    until_up(&*store).await;
    let () = replica.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port));
    until_error(&store, "its role is replica, not master").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_while_writes_are_paused() {
    let server = RedisServer::start();
    let response_timeout = Duration::from_millis(150);
    let store = connect(&RedisSettings { response_timeout, ..settings(server.url()) }).await;
    let alice = user("alice");
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
    let read = of_sessions(&*store).load(&alice).await.unwrap();

    let () = server.query(redis::cmd("CLIENT").arg("PAUSE").arg(600_000).arg("WRITE"));
    let writing = tokio::spawn({
        let (store, alice) = (Arc::clone(&store), alice.clone());
        async move {
            for _ in 0..10 {
                unavailable(store.commit(&alice, read.revision, change(2)).await);
            }
        }
    });
    while !writing.is_finished() {
        assert_eq!(*of_sessions(&*store).load(&alice).await.unwrap().state, state(1));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writing.await.unwrap();
    let () = server.query(redis::cmd("CLIENT").arg("UNPAUSE"));
    until_up(&*store).await;
    let read = of_sessions(&*store).load(&alice).await.unwrap();
    let committed = store.commit(&alice, read.revision, change(3)).await.unwrap();
    assert!(matches!(committed, Commit::Committed(_)), "{committed:?}");
}
