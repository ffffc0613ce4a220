use std::{
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::store::{backend::EncodedValue, clock::SystemClock, embedded::Database};

async fn writer() -> (TempDir, Database, Arc<Writer>) {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("latchkey.db")).await.unwrap();
    let writer = Arc::new(database.register_writer(Arc::new(SystemClock)));
    (dir, database, writer)
}

/// Polls a future once.
fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

async fn commit(writer: &Writer, key: &str, change: EncodedChange) -> Written {
    writer.commit(vec![KeyedChange { key: key.to_owned(), change }]).await.pop().unwrap()
}

fn change(expected: u64, keep_until: u64) -> EncodedChange {
    EncodedChange {
        expected,
        value: EncodedValue { revision: expected + 1, bytes: Bytes::from_static(b"value") },
        keep_until: Timestamp::from_secs(keep_until),
        events: Vec::new(),
    }
}

#[tokio::test]
async fn a_panic_fails_the_commits_of_its_batch_and_no_later_one() {
    let (_dir, _database, writer) = writer().await;
    // The thread starts with the first request, which may be handled alone or with the second.
    writer.send(Request::Panic).unwrap();
    let first = commit(&writer, "alice", change(0, 1)).await;
    assert!(first.is_ok() || first.unwrap_err().to_string().contains("the writer has stopped"));
    assert!(commit(&writer, "bob", change(0, 1)).await.unwrap());
}

#[tokio::test]
async fn a_panic_while_the_connection_is_in_use_rolls_back_and_replaces_it() {
    let (_dir, database, writer) = writer().await;
    assert!(commit(&writer, "alice", change(0, 1)).await.unwrap());
    let panicked = crate::isolation::panics::catch(|| {
        database.with_register_writer(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE; DELETE FROM registers").unwrap();
            panic!("this is meant to happen");
        })
    });
    assert!(panicked.is_err());
    assert!(commit(&writer, "alice", change(1, 1)).await.unwrap());
}

#[tokio::test]
async fn a_commit_that_meets_damage_fails_no_other_of_its_batch() {
    let (_dir, database, writer) = writer().await;
    sqlx::query("CREATE TRIGGER no BEFORE INSERT ON registers WHEN new.key = 'user70' BEGIN SELECT RAISE(ABORT, 'no'); END")
        .execute(&database.writer)
        .await
        .unwrap();
    // All commits are queued while the lock is held.
    let turn = database.begin_writing().await.unwrap();
    let keys: Vec<_> = (0..100).map(|number| format!("user{number}")).collect();
    let mut commits =
        Box::pin(futures_util::future::join_all(keys.iter().map(|key| commit(&writer, key, change(0, 1)))));
    assert!(poll(&mut commits).is_pending());
    drop(turn);
    for (key, outcome) in keys.iter().zip(commits.await) {
        assert_eq!(outcome.is_ok_and(|written| written), key != "user70", "{key}");
    }
}

#[tokio::test]
async fn a_replaced_value_is_kept_as_long_as_its_commit_says() {
    let (_dir, database, writer) = writer().await;
    for (expected, keep_until) in [(0, 10), (1, 10), (2, 20), (3, 5)] {
        assert!(commit(&writer, "alice", change(expected, keep_until)).await.unwrap());
        assert!(
            !commit(&writer, "alice", change(expected, keep_until)).await.unwrap(),
            "the revision has changed"
        );
        let row: (i64, i64) = sqlx::query_as("SELECT revision, keep_until FROM registers")
            .fetch_one(&database.writer)
            .await
            .unwrap();
        assert_eq!(
            row,
            (i64::try_from(expected).unwrap() + 1, i64::try_from(keep_until).unwrap() * 1_000_000)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_writers_take_turns_with_commits() {
    let (_dir, database, writer) = writer().await;
    let turn = database.begin_writing().await.unwrap();
    let (sender, committed) = mpsc::channel();
    let commit = tokio::spawn({
        let writer = Arc::clone(&writer);
        async move {
            let outcome = commit(&writer, "alice", change(0, 1)).await;
            sender.send(()).unwrap();
            outcome
        }
    });
    sqlx::query("INSERT INTO session_debts (user_id, cause, created_at) VALUES ('alice', 'profile', 0)")
        .execute(&database.writer)
        .await
        .unwrap();
    assert!(committed.try_recv().is_err(), "the commit waits for its turn");
    drop(turn);
    assert!(commit.await.unwrap().unwrap());
}
