//! Conformance of the event log: ordered, resumable, and without unreported gaps.

use super::test_store::{Backend, StoreKind, TestStore, every_store};
use rstest::rstest;
use rstest_reuse::apply;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use latchkey::domain::ports::{Cursor, EventLog as _, Registers as _, Revision};
use tokio::task::JoinSet;

use super::{
    states::{change, change_with, numbers, user},
    test_store::{start_with_retention, until_up},
};
use crate::support::redis::{Flavour, RedisServer};

/// Commits events for each of many users in turn.
pub async fn commit_events(store: &super::test_store::TestStore, users: u64, each: u64) {
    let mut revisions = BTreeMap::new();
    for number in 1..=each {
        for name in 0..users {
            let name = user(&format!("user{name}"));
            let revision = revisions.entry(name.clone()).or_insert(Revision::ABSENT);
            *revision = store.commit(&name, *revision, change_with(number, [number])).await;
        }
    }
}

/// Checks that every event of [`commit_events`] is there once and in order for each user.
pub fn assert_complete(seen: &[(&str, u64)], users: u64, each: u64) {
    let mut by_user = BTreeMap::<_, Vec<_>>::new();
    for (user, number) in seen {
        by_user.entry(*user).or_default().push(*number);
    }
    assert_eq!(u64::try_from(by_user.len()).unwrap(), users);
    for (user, numbers) in by_user {
        assert_eq!(numbers, (1..=each).collect::<Vec<_>>(), "{user}");
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cursor_the_log_is_at_its_end(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    commit_events(&store, 20, 2).await;
    let tail = store.tail(None, 100).await;
    assert_eq!((tail.events.len(), tail.gap), (0, false));
    assert_eq!(store.drain(tail.next, 100).await.0, []);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_appear_with_their_commit_in_its_order(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let end = store.end_of_log().await;
    let revision = store.commit(&user, Revision::ABSENT, change_with(1, [3, 1, 2])).await;
    let (seen, next) = store.drain(end.clone(), 100).await;
    assert_eq!(numbers(&seen), [("alice", 3), ("alice", 1), ("alice", 2)]);

    let revision = store.commit(&user, revision, change(2)).await;
    assert_eq!(store.drain(next.clone(), 100).await.0, [], "a commit without events");
    store.commit(&user, revision, change_with(3, [9, 8])).await;
    assert_eq!(numbers(&store.drain(next, 100).await.0), [("alice", 9), ("alice", 8)]);
    assert_eq!(store.drain(end, 100).await.0.len(), 5, "an old cursor sees them all again");
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_misses_nothing_whatever_its_limit(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let end = store.end_of_log().await;
    commit_events(&store, 40, 3).await;
    for limit in [1, 7, 63, 64, 65, 119, 120, 10_000] {
        let (seen, _) = store.drain(end.clone(), limit).await;
        assert_complete(&numbers(&seen), 40, 3);
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_user_does_not_hold_up_the_others(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let end = store.end_of_log().await;
    store.commit(&user("busy"), Revision::ABSENT, change_with(1, 1..=1000)).await;
    store.commit(&user("quiet"), Revision::ABSENT, change_with(1, [1])).await;
    let (seen, _) = store.drain(end, 100).await;
    let seen = numbers(&seen);
    assert_eq!(seen.iter().filter(|(user, _)| *user == "busy").count(), 1000);
    assert_eq!(seen.iter().filter(|(user, _)| *user == "quiet").count(), 1);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_keeps_up_with_commits_that_go_on(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let end = store.end_of_log().await;
    let store = Arc::new(store);
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        async move {
            let (mut seen, mut after) = (Vec::new(), end);
            loop {
                let last = done.load(Ordering::SeqCst);
                let (more, next) = store.drain(after, 10).await;
                (after, seen) = (next, [seen, more].concat());
                if last {
                    return seen;
                }
            }
        }
    });
    let mut writers = JoinSet::new();
    for name in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let (name, mut revision) = (user(&format!("user{name}")), Revision::ABSENT);
            for number in 1..=50 {
                revision = store.commit(&name, revision, change_with(number, [number])).await;
            }
        });
    }
    writers.join_all().await;
    done.store(true, Ordering::SeqCst);
    assert_complete(&numbers(&reader.await.unwrap()), 8, 50);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_cursor_is_a_gap(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    commit_events(&store, 3, 1).await;
    let ours = store.end_of_log().await.0;
    let odd = ["", "0", "17", "-1", "0-0", "9-9", ",", "nonsense", "18446744073709551616-0", "1-1;"];
    let bent = [format!("{ours},1-1"), format!(" {ours}"), format!("9{ours}")];
    for foreign in odd.map(str::to_owned).into_iter().chain(bent) {
        let tail = store.tail(Some(&Cursor(foreign.clone())), 100).await;
        assert!(tail.gap, "{foreign:?} was taken for a cursor");
        // The next cursor is an ordinary one.
        store.drain(tail.next, 100).await;
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_of_another_store_is_a_gap(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let other = match &store.backend {
        Backend::Embedded { .. } => TestStore::embedded().await,
        Backend::Redis(_) => TestStore::redis(Flavour::Redis).await.unwrap(),
    };
    // Both stores have events with the same numbers.
    commit_events(&other, 3, 1).await;
    let foreign = other.end_of_log().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    commit_events(&store, 3, 2).await;
    assert!(store.tail(Some(&foreign), 100).await.gap);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_trimmed_past_the_cursor_is_a_gap(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let beginning = store.end_of_log().await;
    commit_events(&store, 10, 5).await;
    let end = store.end_of_log().await;
    store.trim_log().await;

    let tail = store.tail(Some(&beginning), 100).await;
    assert!(tail.gap);
    assert!(tail.events.len() < 50);
    assert_eq!(store.drain(end.clone(), 100).await, (Vec::new(), end), "nothing was trimmed after this");
    store.commit(&user("late"), Revision::ABSENT, change_with(1, [77])).await;
    assert_eq!(numbers(&store.drain(tail.next, 100).await.0), [("late", 77)]);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_lost_is_a_gap_and_goes_on(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    commit_events(&store, 10, 5).await;
    let end = store.end_of_log().await;
    store.lose_log().await;
    let tail = store.tail(Some(&end), 100).await;
    assert_eq!((tail.gap, tail.events.len()), (true, 0));

    store.commit(&user("late"), Revision::ABSENT, change_with(1, [77])).await;
    let tail = store.tail(Some(&tail.next), 100).await;
    assert_eq!(numbers(&tail.events), [("late", 77)]);
    store.drain(tail.next, 100).await;
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_lost_before_they_were_read_are_a_gap(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let empty = store.end_of_log().await;
    store.commit(&user("alice"), Revision::ABSENT, change_with(1, [1, 2])).await;
    store.lose_log().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    // The number of events is the same as before, so a count cannot show the loss.
    store.commit(&user("bob"), Revision::ABSENT, change_with(1, [1, 2])).await;
    assert!(store.tail(Some(&empty), 100).await.gap);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_that_has_grown_again_past_the_cursor_is_a_gap(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    commit_events(&store, 3, 2).await;
    let end = store.end_of_log().await;
    store.lose_log().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    for name in 0..20 {
        let name = user(&format!("new{name}"));
        store.commit(&name, Revision::ABSENT, change_with(1, 1..=2)).await;
    }
    for limit in [1, 5, 1000] {
        let mut after = end.clone();
        let mut gap = false;
        // The gap is reported at the end of the log at the latest.
        loop {
            let tail = store.tail(Some(&after), limit).await;
            gap |= tail.gap;
            if tail.next == after {
                break;
            }
            after = tail.next;
        }
        assert!(gap, "with limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trimmed_redis_stream_is_a_gap() {
    let store = super::test_store::TestStore::redis(crate::support::redis::Flavour::Redis).await.unwrap();
    let beginning = store.end_of_log().await;
    let revision = store.commit(&user("alice"), Revision::ABSENT, change_with(1, 1..=3000)).await;
    assert_eq!(store.drain(beginning.clone(), 1000).await.0.len(), 3000);
    store.commit(&user("alice"), revision, change_with(2, 3001..=6000)).await;

    let tail = store.tail(Some(&beginning), 10_000).await;
    assert!(tail.gap);
    assert!((4096..4300).contains(&tail.events.len()), "{}", tail.events.len());
    assert_eq!(numbers(&tail.events).last(), Some(&("alice", 6000)));
}

/// Returns the length of the longest stream. With one user, all other streams hold only their first entry.
fn stream_length(server: &RedisServer) -> usize {
    let streams: Vec<String> = server.query(redis::cmd("KEYS").arg("*:events"));
    streams.iter().map(|stream| server.query(redis::cmd("XLEN").arg(stream))).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_trims_old_events_with_the_next_commit_and_keeps_cursors_valid() {
    const RETENTION: Duration = Duration::from_millis(200);
    let server = RedisServer::start();
    let store = start_with_retention(server.url(), RETENTION);
    until_up(&store).await;
    let alice = user("alice");
    let beginning = store.tail(None, 10).await.unwrap().next;
    store.commit(&alice, Revision::ABSENT, change_with(1, 1..=1000)).await.unwrap();
    let end = store.tail(None, 10).await.unwrap().next;
    tokio::time::sleep(RETENTION + Duration::from_millis(1)).await;
    assert!(stream_length(&server) > 1000, "nobody has appended to it");

    let read = super::test_store::of_sessions(&store).load(&alice).await.unwrap();
    store.commit(&alice, read.revision, change_with(2, [1001])).await.unwrap();
    let left = stream_length(&server);
    // Redis trims whole nodes of up to a hundred entries.
    assert!((2..=102).contains(&left), "{left} are left");
    assert!(store.tail(Some(&beginning), 10_000).await.unwrap().gap);
    let tail = store.tail(Some(&end), 10).await.unwrap();
    assert_eq!((numbers(&tail.events), tail.gap), (vec![("alice", 1001)], false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_at_the_end_misses_nothing_however_old_the_end_is() {
    let server = RedisServer::start();
    let store = start_with_retention(server.url(), Duration::from_millis(1));
    until_up(&store).await;
    let (alice, mut revision) = (user("alice"), Revision::ABSENT);
    let mut end = store.tail(None, 10).await.unwrap().next;
    // This number of entries fills several nodes of the stream.
    for number in 1..=250 {
        store.commit(&alice, revision, change_with(number, [number])).await.unwrap();
        revision = super::test_store::of_sessions(&store).load(&alice).await.unwrap().revision;
        let tail = store.tail(Some(&end), 10).await.unwrap();
        assert_eq!((numbers(&tail.events), tail.gap), (vec![("alice", number)], false));
        end = tail.next;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(stream_length(&server) < 150, "nothing was forgotten");
}
