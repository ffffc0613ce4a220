//! The task that writes.
//!
//! A commit costs a sync of the disk. So one task takes all commits that have arrived, writes them in one
//! transaction, and answers them after it.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot, watch,
};

use super::{Database, query_error, sweep::integer, unavailable};
use crate::{
    domain::{
        ports::{Clock, StoreError},
        types::Timestamp,
    },
    isolation::supervisor::{self, Importance},
    store::backend::EncodedChange,
};

/// The most commits in one transaction.
const MAX_BATCH: usize = 64;
/// The most commits that wait for the writer; further ones fail as unavailable.
const QUEUE: usize = 4096;

/// Creates a register that does not exist.
const CREATE: &str = "INSERT INTO registers (revision, value, keep_until, key) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO NOTHING;";
/// Replaces the value of a register that still has the expected revision.
const REPLACE: &str =
    "UPDATE registers SET revision = ?, value = ?, keep_until = ? WHERE key = ? AND revision = ?;";
/// Appends an event if the previous statement has written.
const APPEND: &str = "INSERT INTO events (at, value) SELECT ?, ? WHERE changes() > 0;";

/// A handle to the task that writes. The task ends when the handle is dropped.
pub(super) struct Writer {
    requests: mpsc::Sender<Request>,
    /// Notified when events may have been appended.
    appended: watch::Receiver<()>,
}

struct Request {
    key: String,
    change: EncodedChange,
    /// Receives whether the register had the expected revision and was written.
    response: oneshot::Sender<Result<bool, StoreError>>,
}

impl Writer {
    /// Needs a Tokio runtime.
    pub(super) fn start(database: Database, clock: Arc<dyn Clock>) -> Self {
        let (requests, mut queue) = mpsc::channel(QUEUE);
        let (notify_appended, appended) = watch::channel(());
        // Commits that a panic interrupts fail; those in the queue are written when the task has been restarted.
        let write = async move || write(&database, &mut queue, &notify_appended, &*clock).await;
        tokio::spawn(supervisor::supervise(
            "embedded writer",
            // The write probe of health notices when this task is down.
            Importance::Deferrable,
            write,
        ));
        Self { requests, appended }
    }

    /// Returns a receiver that is notified when events may have been appended and closed when the task ends.
    pub(super) fn appended(&self) -> watch::Receiver<()> {
        self.appended.clone()
    }

    /// Returns whether the register had the expected revision and was written.
    pub(super) async fn commit(&self, key: &str, change: EncodedChange) -> Result<bool, StoreError> {
        let (response, receiver) = oneshot::channel();
        let request = Request { key: key.to_owned(), change, response };
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => unavailable("too many commits are waiting"),
            TrySendError::Closed(_) => unavailable("the writer has stopped"),
        })?;
        receiver.await.map_err(|_| unavailable("the writer has stopped"))?
    }
}

async fn write(
    database: &Database,
    queue: &mut mpsc::Receiver<Request>,
    notify_appended: &watch::Sender<()>,
    clock: &dyn Clock,
) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let outcome = write_batch(database, &batch, clock.now()).await;
        // Commits to a file that is gone are not acknowledged.
        let verified = database.verify_commit();
        // A notification without new events is harmless, because followers read the log themselves.
        if batch.iter().any(|request| !request.change.events.is_empty()) {
            notify_appended.send_replace(());
        }
        for (index, request) in batch.drain(..).enumerate() {
            let written = outcome.as_ref().map(|written| written[index]).map_err(query_error);
            let written = written.and_then(|written| verified.clone().map(|()| written));
            // Fails if the request was cancelled.
            let _ = request.response.send(written);
        }
    }
}

/// Writes a batch in one transaction. Returns whether each commit was written.
///
/// The transaction is one message to the thread of the connection, because every message wakes that thread and then
/// this task.
async fn write_batch(
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
    // Only the statements of single commits repeat often enough to be kept prepared.
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
    let results: Result<Vec<_>, _> =
        connection.fetch_many(query).try_filter_map(async |result| Ok(result.left())).try_collect().await;
    // BEGIN, each statement and COMMIT have a result.
    let expected = 2 + batch.iter().map(|request| 1 + request.change.events.len()).sum::<usize>();
    let results = match results {
        Ok(results) if results.len() == expected => results,
        failed => {
            // Closing the connection rolls back. The results end early if the thread of the connection has died.
            connection.close_on_drop();
            return Err(failed.err().unwrap_or(sqlx::Error::WorkerCrashed));
        }
    };
    let mut index = 1;
    let mut written = Vec::with_capacity(batch.len());
    for request in batch {
        written.push(results[index].rows_affected() > 0);
        index += 1 + request.change.events.len();
    }
    Ok(written)
}
