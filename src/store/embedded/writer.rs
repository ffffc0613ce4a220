//! The thread that writes registers and events.
//!
//! A commit costs a sync of the disk. So all commits that have arrived are written in one transaction, and answered
//! after it.

use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, Params, params};
use tokio::sync::{Mutex, oneshot, watch};

use super::{
    NAME,
    connection::{ThreadConnection, store_error},
    file_identity::FileIdentity,
    sweep::{self, integer},
    unavailable,
    worker::{NotQueued, Worker},
};
use crate::{
    domain::{
        ports::{Clock, StoreError},
        types::Timestamp,
    },
    store::backend::EncodedChange,
};

/// The most requests in one transaction.
const MAX_BATCH: usize = 512;
/// The most requests that wait for the writer; further ones fail as unavailable.
const QUEUE: usize = 4096;

/// Creates a register that does not exist.
const CREATE: &str = "INSERT INTO registers (revision, value, keep_until, key) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO NOTHING";
/// Replaces the value of a register that still has the expected revision.
const REPLACE: &str =
    "UPDATE registers SET revision = ?, value = ?, keep_until = ? WHERE key = ? AND revision = ?";
/// The same if `keep_until` stays, which spares the update of its index.
const REPLACE_VALUE: &str =
    "UPDATE registers SET revision = ?, value = ? WHERE key = ? AND revision = ? AND keep_until = ?";
const APPEND: &str = "INSERT INTO events (at, value) VALUES (?, ?)";

/// A handle to the thread that writes.
pub(super) struct Writer {
    worker: Worker<Request>,
    /// Notified when events may have been appended.
    appended: watch::Receiver<()>,
}

enum Request {
    Commit(CommitRequest),
    Sweep {
        now: Timestamp,
        response: oneshot::Sender<Result<bool, StoreError>>,
    },
    #[cfg(test)]
    Panic,
}

/// Commits, each of which succeeds or fails alone.
struct CommitRequest {
    commits: Vec<KeyedChange>,
    response: oneshot::Sender<Vec<Written>>,
}

/// A commit and the key of its register.
pub(super) struct KeyedChange {
    pub(super) key: String,
    pub(super) change: EncodedChange,
}

/// Whether the register had the expected revision and was written.
pub(super) type Written = Result<bool, StoreError>;

/// The thread uses these.
struct WriterThread {
    connection: Arc<ThreadConnection>,
    /// Held while anybody writes.
    writing: Arc<Mutex<()>>,
    identity: Arc<FileIdentity>,
    clock: Arc<dyn Clock>,
    appended: watch::Sender<()>,
}

impl Writer {
    pub(super) fn new(
        connection: &Arc<ThreadConnection>,
        writing: &Arc<Mutex<()>>,
        identity: &Arc<FileIdentity>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (notify_appended, appended) = watch::channel(());
        let thread = WriterThread {
            connection: Arc::clone(connection),
            writing: Arc::clone(writing),
            identity: Arc::clone(identity),
            clock,
            appended: notify_appended,
        };
        let handler = move |batch: &mut Vec<Request>| thread.handle(batch);
        Self { worker: Worker::new("embedded-writer", QUEUE, MAX_BATCH, handler), appended }
    }

    /// Returns a receiver that is notified when events may have been appended and closed when the writer is dropped.
    pub(super) fn appended(&self) -> watch::Receiver<()> {
        self.appended.clone()
    }

    /// The results are in the order of the commits.
    pub(super) async fn commit(&self, commits: Vec<KeyedChange>) -> Vec<Written> {
        let count = commits.len();
        let written = async {
            let (response, receiver) = oneshot::channel();
            self.send(Request::Commit(CommitRequest { commits, response }))?;
            receiver.await.map_err(|_| stopped())
        };
        written.await.unwrap_or_else(|error| vec![Err(error); count])
    }

    /// See [`sweep::sweep`].
    pub(super) async fn sweep(&self, now: Timestamp) -> Result<bool, StoreError> {
        let (response, receiver) = oneshot::channel();
        self.send(Request::Sweep { now, response })?;
        receiver.await.map_err(|_| stopped())?
    }

    fn send(&self, request: Request) -> Result<(), StoreError> {
        self.worker.send(request).map_err(|error| match error {
            NotQueued::Full => unavailable("too many commits are waiting"),
            NotQueued::NoThread => stopped(),
        })
    }
}

fn stopped() -> StoreError {
    unavailable("the writer has stopped")
}

impl WriterThread {
    fn handle(&self, batch: &mut Vec<Request>) {
        let mut commits = Vec::with_capacity(batch.len());
        // Commits and sweeps do not depend on each other.
        for request in batch.drain(..) {
            match request {
                Request::Commit(request) => commits.push(request),
                Request::Sweep { now, response } => {
                    let swept = self.write(|connection| sweep::sweep(connection, now));
                    let swept = swept.and_then(|swept| swept.map_err(|error| store_error(NAME, &error)));
                    let _ = response.send(swept);
                }
                #[cfg(test)]
                Request::Panic => panic!("this is meant to happen"),
            }
        }
        self.commit(commits);
    }

    fn commit(&self, requests: Vec<CommitRequest>) {
        let commits: Vec<_> = requests.iter().flat_map(|request| &request.commits).collect();
        if commits.is_empty() {
            return;
        }
        let mut written = self.write_all(&commits, self.clock.now());
        // Commits to a file that is gone are not acknowledged.
        if let Err(error) = self.identity.verify_commit() {
            written.iter_mut().filter(|written| written.is_ok()).for_each(|one| *one = Err(error.clone()));
        }
        // A notification without new events is harmless, because followers read the log themselves.
        if commits.iter().any(|commit| !commit.change.events.is_empty()) {
            self.appended.send_replace(());
        }
        let mut written = written.into_iter();
        for CommitRequest { commits, response } in requests {
            // Fails if the request was cancelled.
            let _ = response.send(written.by_ref().take(commits.len()).collect());
        }
    }

    /// Writes all commits in one transaction, or in several if some meet damage that must not fail the others.
    fn write_all(&self, commits: &[&KeyedChange], now: Timestamp) -> Vec<Written> {
        let error = match self.write(|connection| write_batch(connection, commits, now)) {
            Ok(Ok(written)) => return written.into_iter().map(Ok).collect(),
            // Nothing was written.
            Ok(Err(error)) if commits.len() > 1 && is_of_one_commit(&error) => {
                let (first, second) = commits.split_at(commits.len() / 2);
                let mut written = self.write_all(first, now);
                written.extend(self.write_all(second, now));
                return written;
            }
            Ok(Err(error)) => store_error(NAME, &error),
            Err(error) => error,
        };
        vec![Err(error); commits.len()]
    }

    fn write<T>(&self, work: impl FnOnce(&Connection) -> T) -> Result<T, StoreError> {
        let _turn = self.writing.blocking_lock();
        self.connection.with(work)
    }
}

/// Writes a batch in one transaction. Returns whether each commit was written.
fn write_batch(
    connection: &Connection,
    batch: &[&KeyedChange],
    now: Timestamp,
) -> rusqlite::Result<Vec<bool>> {
    execute(connection, "BEGIN IMMEDIATE", ())?;
    let outcome: rusqlite::Result<Vec<_>> =
        batch.iter().map(|commit| write_one(connection, commit, now)).collect();
    let outcome = outcome.and_then(|written| execute(connection, "COMMIT", ()).map(|_| written));
    if outcome.is_err() && !connection.is_autocommit() {
        // If this fails, the connection is closed.
        let _ = execute(connection, "ROLLBACK", ());
    }
    outcome
}

fn write_one(connection: &Connection, commit: &KeyedChange, now: Timestamp) -> rusqlite::Result<bool> {
    let KeyedChange { key, change: EncodedChange { expected, value, keep_until, events } } = commit;
    let (revision, bytes) = (integer(value.revision), value.bytes.as_ref());
    let (keep_until, expected) = (integer(keep_until.as_micros()), integer(*expected));
    let written = if expected == 0 {
        execute(connection, CREATE, params![revision, bytes, keep_until, key])? > 0
    } else {
        // A recorded use has no event and seldom changes `keep_until`.
        let keeps = events.is_empty()
            && execute(connection, REPLACE_VALUE, params![revision, bytes, key, expected, keep_until])? > 0;
        keeps || execute(connection, REPLACE, params![revision, bytes, keep_until, key, expected])? > 0
    };
    if written {
        for event in events {
            execute(connection, APPEND, params![integer(now.as_micros()), event.as_ref()])?;
        }
    }
    Ok(written)
}

fn execute(connection: &Connection, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(values)
}

/// Whether other commits may succeed although one has failed with this error.
fn is_of_one_commit(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    code.is_some_and(|code| {
        matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::ConstraintViolation | ErrorCode::TooBig)
    })
}

#[cfg(test)]
mod tests;
