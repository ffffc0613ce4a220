//! `sessions.durability = "replicas:N"`, and the record of the number of buckets.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use latchkey::{
    domain::ports::{Commit, Registers as _, Revision},
    store::{
        codec_store::CodecStore,
        redis::{Durability, RedisRegisters, RedisSettings},
    },
};

use super::{
    states::{change, state, user},
    test_store::{connect, of_sessions, settings, unavailable, until_up},
};
use crate::support::redis::{Flavour, RedisServer};

const TIMEOUT: Duration = Duration::from_millis(500);

fn durable(url: String, count: u32) -> RedisSettings {
    RedisSettings { durability: Durability::Replicas { count, timeout: TIMEOUT }, ..settings(url) }
}

fn with_replica() -> (RedisServer, RedisServer) {
    with_replica_of(Flavour::Redis)
}

fn with_replica_of(flavour: Flavour) -> (RedisServer, RedisServer) {
    let master = RedisServer::with(flavour, &["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::with(flavour, &["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let begun = Instant::now();
    // A replica answers WAIT once it has acknowledged its first copy, up to a second after it has that.
    let () = master.query(redis::cmd("SET").arg("in sync").arg(1));
    let is_in_sync = |info: &str| {
        let field = |name: &str| info.split([',', '\r', '\n']).find_map(|field| field.strip_prefix(name));
        field("offset=").is_some_and(|offset| offset != "0" && Some(offset) == field("master_repl_offset:"))
    };
    while !is_in_sync(&master.query::<String>(redis::cmd("INFO").arg("replication"))) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the replica does not follow its master");
        std::thread::sleep(Duration::from_millis(5));
    }
    (master, replica)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_acknowledged_once_the_replica_has_it() {
    let (master, replica) = with_replica();
    let store = connect(&durable(master.url(), 1)).await;
    for number in 1..=100 {
        let name = format!("user{number}");
        let committed = store.commit(&user(&name), Revision::ABSENT, change(number)).await.unwrap();
        assert!(matches!(committed, Commit::Committed(_)), "{committed:?}");
        let keys: Vec<String> = replica.query(redis::cmd("KEYS").arg(format!("*:s:{name}")));
        assert_eq!(keys.len(), 1, "the replica does not have the commit of {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_at_once_share_a_wait() {
    let (master, _replica) = with_replica();
    let store = connect(&durable(master.url(), 1)).await;
    let mut monitor = master.monitor();
    let commits = (0..500).map(|number| {
        let store = Arc::clone(&store);
        async move { store.commit(&user(&format!("user{number}")), Revision::ABSENT, change(1)).await }
    });
    for committed in join_all(commits).await {
        committed.unwrap();
    }
    let commands = monitor.commands();
    let waits = commands.iter().filter(|command| command.contains("\"WAIT\"")).count();
    let commits = commands.iter().filter(|command| command.contains("\"EVALSHA\"")).count();
    assert!(commits >= 500 && (1..=250).contains(&waits), "{waits} WAITs for {commits} commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_replica_the_outcome_is_unknown_and_reads_go_on_in_redis() {
    without_the_replica_the_outcome_is_unknown(Flavour::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_replica_the_outcome_is_unknown_and_reads_go_on_in_valkey() {
    if Flavour::Valkey.is_installed() {
        without_the_replica_the_outcome_is_unknown(Flavour::Valkey).await;
    }
}

async fn without_the_replica_the_outcome_is_unknown(flavour: Flavour) {
    let (master, replica) = with_replica_of(flavour);
    let store = connect(&durable(master.url(), 1)).await;
    let alice = user("alice");
    let Commit::Committed(revision) = store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap() else {
        panic!("a conflict");
    };
    replica.pause();
    let committing = tokio::spawn({
        let (store, alice) = (Arc::clone(&store), alice.clone());
        async move {
            let begun = Instant::now();
            (store.commit(&alice, revision, change(2)).await, begun.elapsed())
        }
    });
    let mut reads = 0;
    while !committing.is_finished() {
        let begun = Instant::now();
        of_sessions(&*store).load(&alice).await.unwrap();
        assert!(begun.elapsed() < TIMEOUT / 2, "a read waited {:?}", begun.elapsed());
        reads += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (answer, took) = committing.await.unwrap();
    let cause = unavailable(answer);
    assert!(cause.contains("0 of 1 replicas") && cause.contains("its outcome is unknown"), "{cause}");
    assert!(took >= TIMEOUT && reads > 10, "{took:?}, {reads} reads");

    // A repeated commit and an answer to what was read are held to the same.
    unavailable(store.commit(&alice, revision, change(2)).await);
    unavailable(of_sessions(&*store).confirm(&alice).await);

    // The same commit again is recognized, and confirmed.
    replica.resume();
    let begun = Instant::now();
    loop {
        match store.commit(&alice, revision, change(2)).await {
            Ok(committed) => {
                assert!(matches!(committed, Commit::Committed(_)), "{committed:?}");
                break;
            }
            error => drop(unavailable(error)),
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "not confirmed");
    }
    assert_eq!(*of_sessions(&*store).load(&alice).await.unwrap().state, state(2));
    of_sessions(&*store).confirm(&alice).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_buckets_is_recorded_and_never_changes() {
    let server = RedisServer::start();
    let with = |buckets| RedisSettings { buckets, ..settings(server.url()) };
    let store = connect(&with(200)).await;
    store.commit(&user("alice"), Revision::ABSENT, change(1)).await.unwrap();
    let other = CodecStore::new(RedisRegisters::start(&with(64), "lk").unwrap());
    let begun = Instant::now();
    loop {
        let cause = unavailable(of_sessions(&other).load(&user("alice")).await);
        if cause.contains("the store was made with 200 buckets: set sessions.buckets = 200") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{cause}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let same = connect(&with(200)).await;
    assert_eq!(*of_sessions(&*same).load(&user("alice")).await.unwrap().state, state(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_the_record_has_64_buckets() {
    let server = RedisServer::start();
    let store = connect(&settings(server.url())).await;
    latchkey::domain::ports::EventLog::tail(&*store, None, 1).await.unwrap();
    drop(store);
    // As versions before the record left it.
    let _: u64 = server.query(redis::cmd("DEL").arg("lk:{0}:buckets"));
    let wrong = CodecStore::new(
        RedisRegisters::start(&RedisSettings { buckets: 128, ..settings(server.url()) }, "lk").unwrap(),
    );
    let begun = Instant::now();
    loop {
        let cause = unavailable(of_sessions(&wrong).load(&user("alice")).await);
        if cause.contains("sessions.buckets is 128, but the store was made with 64 buckets") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{cause}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until_up(&*connect(&settings(server.url())).await).await;
}
