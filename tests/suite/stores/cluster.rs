//! The store on a cluster while hash slots move and primaries change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::{
    domain::{
        ports::{Commit, EventLog as _, Registers as _, Revision},
        types::UserId,
    },
    store::{batching::BatchingSessions, codec_store::CodecStore, redis::RedisRegisters},
};

use super::{
    states::{change_with, numbers, state, user},
    test_store::{connect, of_sessions, settings, unavailable},
};
use crate::support::{
    cluster::{ClusterOptions, RedisCluster},
    redis::Flavour,
};

type Store = Arc<CodecStore<RedisRegisters>>;

/// The hash slot of a user's bucket.
async fn slot_of(cluster: &RedisCluster, user: &UserId) -> u16 {
    let bucket = latchkey_bucket(user.as_str());
    cluster.slot_of(&format!("lk:{{{bucket}}}:events")).await
}

/// FNV-1a, modulo 64.
fn latchkey_bucket(key: &str) -> u64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % 64
}

async fn start(flavour: Flavour, replicas_per_master: u8) -> Option<(RedisCluster, Store)> {
    let options = ClusterOptions { replicas_per_master, ..ClusterOptions::default() };
    let cluster = RedisCluster::start(flavour, options).await?;
    let store = connect(&settings(cluster.url())).await;
    Some((cluster, store))
}

/// Commits with retries, because no outcome is known of a commit that fails.
async fn commit(store: &Store, user: &UserId, expected: Revision, number: u64) -> Revision {
    let begun = Instant::now();
    loop {
        match store.commit(user, expected, change_with(number, [number])).await {
            Ok(Commit::Committed(revision)) => return revision,
            Ok(conflict) => panic!("{conflict:?}"),
            error => drop(unavailable(error)),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no commit of {user}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_slot_that_moves_loses_nothing_in(flavour: Flavour) {
    let Some((cluster, store)) = start(flavour, 0).await else { return };
    let alice = user("alice");
    let slot = slot_of(&cluster, &alice).await;
    let others: Vec<_> = {
        let all = (0..).map(|number| user(&format!("user{number}")));
        let bucket = latchkey_bucket("alice");
        all.filter(|user| latchkey_bucket(user.as_str()) == bucket).take(100).collect()
    };
    for (other, number) in others.iter().zip(1..) {
        commit(&store, other, Revision::ABSENT, 1000 + number).await;
    }
    let mut revision = commit(&store, &alice, Revision::ABSENT, 1).await;
    let cursor = store.tail(None, 1).await.unwrap().next;

    let done = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        let batching = BatchingSessions::new(store.clone());
        let (alice, others) = (alice.clone(), others.clone());
        async move {
            let mut reads = 0_u64;
            let mut newest = 0;
            while !done.load(Ordering::Relaxed) {
                let mut keys: Vec<_> = others.iter().collect();
                keys.push(&alice);
                let mut loaded = latchkey::domain::ports::Registers::load_many(&batching, &keys).await;
                if let Some(Ok(read)) = loaded.pop() {
                    assert!(read.state.generation.0 >= newest, "an earlier state came back");
                    newest = read.state.generation.0;
                    reads += 1;
                }
                for (other, number) in loaded.into_iter().zip(1..) {
                    if let Ok(read) = other {
                        assert_eq!(*read.state, state(1000 + number));
                    }
                }
            }
            reads
        }
    });
    let following = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let (mut cursor, mut seen) = (cursor, Vec::new());
            let begun = Instant::now();
            while !seen.contains(&90) {
                assert!(begun.elapsed() < Duration::from_secs(40), "{seen:?}");
                let Ok(page) = store.follow(&cursor, 100, Duration::from_millis(500)).await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                assert!(!page.gap, "a stream that moves loses nothing");
                seen.extend(
                    numbers(&page.events).iter().filter(|(user, _)| *user == "alice").map(|(_, n)| *n),
                );
                cursor = page.next;
            }
            seen
        }
    });

    let owner = cluster.node_of_slot(slot).await;
    let target = *cluster.masters().await.iter().find(|port| **port != owner).unwrap();
    // Half of the time the slot is migrating, so keys are on one server, and on none.
    for number in 2..=30 {
        revision = commit(&store, &alice, revision, number).await;
    }
    cluster.begin_to_move(slot, target).await;
    for number in 31..=60 {
        if number % 5 == 0 {
            cluster.move_keys(slot, target).await;
        }
        // A user without sessions, whose register no server has: they answer ASK and TRYAGAIN.
        let nobody = of_sessions(&*store).load(&user("nobody")).await;
        assert!(nobody.is_ok_and(|read| read.revision == Revision::ABSENT));
        // A commit may wait until the slot has moved, because neither server has both keys.
        if let Ok(Commit::Committed(next)) =
            store.commit(&alice, revision, change_with(number, [number])).await
        {
            revision = next;
        }
    }
    while cluster.move_keys(slot, target).await {}
    cluster.finish_to_move(slot, target).await;
    assert_eq!(cluster.node_of_slot(slot).await, target);
    for number in 61..=90 {
        let read = loop {
            match of_sessions(&*store).load(&alice).await {
                Ok(read) => break read,
                error => drop(unavailable(error)),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        revision = commit(&store, &alice, read.revision, number).await;
    }
    assert!(revision > Revision::ABSENT);
    let seen = following.await.unwrap();
    for number in (2..=30).chain(61..=90) {
        assert!(seen.contains(&number), "event {number} is missing: {seen:?}");
    }
    done.store(true, Ordering::Relaxed);
    assert!(reading.await.unwrap() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_loses_nothing_in_redis() {
    a_slot_that_moves_loses_nothing_in(Flavour::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_loses_nothing_in_valkey() {
    a_slot_that_moves_loses_nothing_in(Flavour::Valkey).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_master_holds_up_only_its_users() {
    let Some((mut cluster, store)) = start(Flavour::Redis, 1).await else { return };
    let alice = user("alice");
    let slot = slot_of(&cluster, &alice).await;
    let owner = cluster.node_of_slot(slot).await;
    let mut others = Vec::new();
    for number in 0..40 {
        let other = user(&format!("user{number}"));
        if cluster.node_of_slot(slot_of(&cluster, &other).await).await != owner {
            commit(&store, &other, Revision::ABSENT, number + 1).await;
            others.push((other, number + 1));
        }
    }
    assert!(others.len() > 5, "{}", others.len());
    let revision = commit(&store, &alice, Revision::ABSENT, 1).await;
    let cursor = store.tail(None, 1).await.unwrap().next;

    cluster.node_mut(owner).server.kill();
    let mut failed = 0;
    let begun = Instant::now();
    let read = loop {
        match of_sessions(&*store).load(&alice).await {
            Ok(read) if begun.elapsed() > Duration::from_millis(100) => break read,
            Ok(_) => {}
            error => {
                unavailable(error);
                failed += 1;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no other primary");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(failed > 0);
    assert_eq!((read.revision, &*read.state), (revision, &state(1)));
    commit(&store, &alice, revision, 2).await;
    for (other, number) in &others {
        assert_eq!(*of_sessions(&*store).load(other).await.unwrap().state, state(*number));
    }
    // The log goes on; a stream that has lost its last entries is a gap.
    let begun = Instant::now();
    let mut cursor = cursor;
    loop {
        if let Ok(page) = store.follow(&cursor, 100, Duration::from_millis(500)).await {
            cursor = page.next;
            if numbers(&page.events).contains(&("alice", 2)) {
                break;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the event of the new primary is missing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_majority_is_unavailable_and_comes_back() {
    let Some((mut cluster, store)) = start(Flavour::Redis, 0).await else { return };
    commit(&store, &user("alice"), Revision::ABSENT, 1).await;
    let masters = cluster.masters().await;
    for master in &masters[..2] {
        cluster.node_mut(*master).server.kill();
    }
    let begun = Instant::now();
    loop {
        let all = ["alice", "bob", "carol", "dave", "erin"].map(user);
        let mut failed = 0;
        for user in &all {
            failed += usize::from(of_sessions(&*store).load(user).await.is_err());
        }
        if failed == all.len() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "one master is no majority");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for master in &masters[..2] {
        cluster.node_mut(*master).server.restart();
    }
    let begun = Instant::now();
    let read = loop {
        match of_sessions(&*store).load(&user("alice")).await {
            Ok(read) => break read,
            error => drop(unavailable(error)),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the cluster is not used again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // The servers kept nothing on disk.
    assert_eq!(*read.state, state(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cancelled_loses_no_announcement() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let Some((_cluster, store)) = start(Flavour::Redis, 0).await else { return };
    let alice = user("alice");
    let mut revision = commit(&store, &alice, Revision::ABSENT, 1).await;
    let mut cursor = store.tail(None, 1).await.unwrap().next;
    // A full pass, which would find everything, is not due again during the test.
    store.follow(&cursor, 100, Duration::from_millis(10)).await.unwrap();
    for number in 2..=150 {
        revision = commit(&store, &alice, revision, number).await;
        let pause = Duration::from_micros(rand::random_range(0..4000));
        let page = if let Ok(page) = tokio::time::timeout(pause, store.follow(&cursor, 100, PATIENCE)).await {
            page
        } else {
            let found = tokio::time::timeout(PATIENCE / 2, store.follow(&cursor, 100, PATIENCE)).await;
            found.unwrap_or_else(|_| panic!("the announcement of event {number} is lost"))
        };
        let page = page.unwrap();
        assert_eq!(numbers(&page.events), [("alice", number)]);
        cursor = page.next;
    }
}
