use std::{
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::*;
use crate::{
    domain::types::Timestamp,
    store::{
        backend::{Backend as _, EncodedChange, EncodedCommit},
        clock::SystemClock,
        embedded::{Database, EmbeddedRegisters},
    },
};

/// A database with the registers `user0` to `user9`.
async fn database() -> (TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("latchkey.db")).await.unwrap();
    let registers = EmbeddedRegisters::start(database.clone(), Arc::new(SystemClock));
    for number in 0..10 {
        let change = EncodedChange {
            expected: 0,
            value: EncodedValue { revision: 1, bytes: Bytes::from(vec![number; 3]) },
            keep_until: Timestamp::from_secs(1 << 40),
            events: Vec::new(),
        };
        let outcome = registers.commit(&format!("user{number}"), change).await.unwrap();
        assert_eq!(outcome, EncodedCommit::Committed);
    }
    (dir, database)
}

/// Polls a future once.
fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().copied().map(str::to_owned).collect()
}

fn bytes(loaded: &Loaded) -> Option<&[u8]> {
    loaded.as_ref().unwrap().as_ref().map(|value| &*value.bytes)
}

/// Keeps the connection of a thread in use until the sender is dropped.
fn occupy(thread: &Thread) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    let (occupied, is_occupied) = mpsc::channel();
    let connection = Arc::clone(&thread.connection);
    thread::spawn(move || {
        connection.with(|_| {
            occupied.send(()).unwrap();
            let _ = released.recv();
        })
    });
    is_occupied.recv().unwrap();
    release
}

#[tokio::test]
async fn loads_are_answered_in_the_order_of_their_keys() {
    let (_dir, database) = database().await;
    let loaded = database.load(keys(&["user3", "nobody", "user1", "user3"])).await;
    let found: Vec<_> = loaded.iter().map(bytes).collect();
    assert_eq!(found, [Some(&[3; 3][..]), None, Some(&[1; 3]), Some(&[3; 3])]);
}

#[tokio::test]
async fn a_panic_fails_the_reads_of_its_batch_and_no_later_one() {
    let (_dir, database) = database().await;
    let reader = &database.reader;
    let occupied = occupy(&reader.threads[0]);
    let mut before = Box::pin(reader.load(keys(&["user1"])));
    assert!(poll(&mut before).is_pending());
    reader.send(1, Work::Panic).unwrap();
    drop(occupied);
    let before = before.await;
    assert!(before[0].is_ok() || matches!(before[0], Err(StoreError::Unavailable { .. })), "{before:?}");
    assert_eq!(bytes(&reader.load(keys(&["user2"])).await[0]), Some(&[2; 3][..]));
    // What has failed does not count as waiting.
    let begun = Instant::now();
    while reader.threads[0].waiting.load(Ordering::Relaxed) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        thread::yield_now();
    }
}

#[tokio::test]
async fn a_busy_thread_is_passed_by_and_full_queues_are_unavailable() {
    let (_dir, database) = database().await;
    let reader = &database.reader;
    let occupied = occupy(&reader.threads[0]);
    let mut waiting: Vec<_> = (0..BUSY).map(|_| Box::pin(reader.load(keys(&["user1"])))).collect();
    for load in &mut waiting {
        assert!(poll(load).is_pending());
    }
    let passing = tokio::time::timeout(Duration::from_secs(10), reader.load(keys(&["user2"]))).await;
    assert_eq!(bytes(&passing.expect("another thread reads")[0]), Some(&[2; 3][..]));

    let others: Vec<_> = reader.threads[1..].iter().map(occupy).collect();
    let mut refused = 0;
    for _ in 0..THREADS * (QUEUE + MAX_BATCH + 1) {
        let mut load = Box::pin(reader.load(keys(&["user1"])));
        match poll(&mut load) {
            Poll::Pending => waiting.push(load),
            Poll::Ready(loaded) => {
                let Err(StoreError::Unavailable { cause, .. }) = &loaded[0] else { panic!("{loaded:?}") };
                assert!(cause.contains("too many reads are waiting"), "{cause}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    drop((occupied, others));
    for load in waiting {
        assert_eq!(bytes(&load.await[0]), Some(&[1; 3][..]));
    }
}

#[tokio::test]
async fn a_closed_database_is_unavailable() {
    let (_dir, database) = database().await;
    database.close().await;
    let loaded = database.load(keys(&["user1"])).await;
    assert!(matches!(&loaded[0], Err(StoreError::Unavailable { cause, .. }) if cause.contains("closed")));
}

#[tokio::test]
async fn readers_cannot_write() {
    let (_dir, database) = database().await;
    for statement in ["DELETE FROM registers", "DELETE FROM accounts", "DROP TABLE events"] {
        let outcome = database.query(NAME, statement.to_owned(), Vec::new()).await;
        assert!(
            matches!(&outcome, Err(StoreError::Unavailable { cause, .. }) if cause.contains("readonly")),
            "{outcome:?}"
        );
    }
}
