//! The task that writes.
//!
//! A commit costs a sync of the disk. So one task does them all: it takes whatever commits have arrived,
//! makes one transaction of them, and answers all of them after it.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot, watch,
};

use super::{Database, failed, sweep::integer, unavailable};
use crate::{
    domain::{
        ports::{Clock, StoreError},
        types::Timestamp,
    },
    isolation::supervisor::{self, Importance},
    store::backend::EncodedChange,
};

/// Commits in one transaction, at most.
const BATCH: usize = 64;
/// Commits that wait for the writer, at most; beyond that the store counts as unavailable.
const QUEUE: usize = 4096;

/// Writes a register that holds nothing.
const CREATE: &str = "INSERT INTO registers (revision, value, keep_until, key) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO NOTHING;";
/// Writes a register that still is at the expected revision.
const REPLACE: &str =
    "UPDATE registers SET revision = ?, value = ?, keep_until = ? WHERE key = ? AND revision = ?;";
/// Appends an event, if the statement before has written.
const APPEND: &str = "INSERT INTO events (at, value) SELECT ?, ? WHERE changes() > 0;";

/// The way to the task that writes. The task ends with it.
pub(super) struct Writer {
    requests: mpsc::Sender<Request>,
    /// Changes when events may have been appended.
    appended: watch::Receiver<()>,
}

struct Request {
    key: String,
    change: EncodedChange,
    /// Whether the register was still as expected, and is written.
    answer: oneshot::Sender<Result<bool, StoreError>>,
}

impl Writer {
    /// Needs a Tokio runtime.
    pub(super) fn start(database: Database, clock: Arc<dyn Clock>) -> Self {
        let (requests, mut coming) = mpsc::channel(QUEUE);
        let (appends, appended) = watch::channel(());
        // Commits that a panic interrupts are told that the writer has stopped; those that wait are made after it.
        let writing = async move || write(&database, &mut coming, &appends, &*clock).await;
        tokio::spawn(supervisor::supervise(
            "embedded writer",
            // Health finds out by its writes.
            Importance::Deferrable,
            writing,
        ));
        Self { requests, appended }
    }

    /// Changes when events may have been appended, and ends with the task.
    pub(super) fn appended(&self) -> watch::Receiver<()> {
        self.appended.clone()
    }

    /// Writes a register that still is as expected; whether it was.
    pub(super) async fn commit(&self, key: &str, change: EncodedChange) -> Result<bool, StoreError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { key: key.to_owned(), change, answer };
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => unavailable("too many commits are waiting"),
            TrySendError::Closed(_) => unavailable("the writer has stopped"),
        })?;
        answered.await.map_err(|_| unavailable("the writer has stopped"))?
    }
}

async fn write(
    database: &Database,
    requests: &mut mpsc::Receiver<Request>,
    appends: &watch::Sender<()>,
    clock: &dyn Clock,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        let outcome = transaction(database, &batch, clock.now()).await;
        // What was written into a file that is gone is not acknowledged.
        let in_place = database.must_hold_commit();
        // Also where all of them conflicted or failed: those who follow look for themselves.
        if batch.iter().any(|request| !request.change.events.is_empty()) {
            appends.send_replace(());
        }
        for (number, request) in batch.drain(..).enumerate() {
            let written = outcome.as_ref().map(|written| written[number]).map_err(failed);
            let written = written.and_then(|written| in_place.clone().map(|()| written));
            // Whoever has gone away meanwhile does not need the answer.
            let _ = request.answer.send(written);
        }
    }
}

/// Whether each of them was written.
///
/// All of it is one message to the thread of the connection, because each would wake that thread and then us.
async fn transaction(
    database: &Database,
    batch: &[Request],
    now: Timestamp,
) -> Result<Vec<bool>, sqlx::Error> {
    let mut connection = database.writer.acquire().await?;
    let mut sql = String::from("BEGIN IMMEDIATE;");
    for EncodedChange { expected, events, .. } in batch.iter().map(|request| &request.change) {
        sql.push_str(if *expected == 0 { CREATE } else { REPLACE });
        sql.extend(events.iter().map(|_| APPEND));
    }
    sql.push_str("COMMIT");
    // Only those of a lone commit are so few that they are worth remembering.
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(batch.len() == 1);
    for Request { key, change: EncodedChange { expected, value, keep_until, events }, .. } in batch {
        query = query.bind(integer(value.revision)).bind(value.bytes.as_ref());
        query = query.bind(integer(keep_until.as_micros())).bind(key);
        if *expected != 0 {
            query = query.bind(integer(*expected));
        }
        for event in events {
            query = query.bind(integer(now.as_micros())).bind(event.as_ref());
        }
    }
    let done: Result<Vec<_>, _> =
        connection.fetch_many(query).try_filter_map(async |done| Ok(done.left())).try_collect().await;
    // Of BEGIN, of each statement, and of COMMIT.
    let results = 2 + batch.iter().map(|request| 1 + request.change.events.len()).sum::<usize>();
    let done = match done {
        Ok(done) if done.len() == results => done,
        failed => {
            // What was begun ends with the connection. Where its thread dies, the results end early.
            connection.close_on_drop();
            return Err(failed.err().unwrap_or(sqlx::Error::WorkerCrashed));
        }
    };
    let mut place = 1;
    let mut written = Vec::with_capacity(batch.len());
    for request in batch {
        written.push(done[place].rows_affected() > 0);
        place += 1 + request.change.events.len();
    }
    Ok(written)
}
