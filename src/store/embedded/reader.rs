//! The threads that read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter, types::Value};
use tokio::sync::oneshot;

use super::{
    NAME,
    connection::{Access, ThreadConnection, store_error},
    file_identity::FileIdentity,
    unavailable,
    worker::{NotQueued, Worker},
};
use crate::{domain::ports::StoreError, store::backend::EncodedValue};

/// The number of threads. Only the first runs while the disk answers quickly.
const THREADS: usize = 4;
/// The most reads that wait for a thread before the next one is used.
const BUSY: usize = 64;
/// The most requests that wait for each thread; further ones fail as unavailable.
const QUEUE: usize = 4096;
/// The most requests that share a transaction.
const MAX_BATCH: usize = 256;

const LOAD: &str = "SELECT revision, value FROM registers WHERE key = ?";

/// The result of a load.
pub(super) type Loaded = Result<Option<EncodedValue>, StoreError>;

/// The result of a query: the names of the columns, and the rows.
#[derive(Debug, Default)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, each with a value for every column.
    pub rows: Vec<Vec<Value>>,
}

/// A handle to the threads that read.
pub(super) struct Reader {
    threads: [Thread; THREADS],
}

struct Thread {
    worker: Worker<Request>,
    connection: Arc<ThreadConnection>,
    /// The number of reads that are queued or under way.
    waiting: Arc<AtomicUsize>,
}

struct Request {
    work: Work,
    _waiting: Waiting,
}

enum Work {
    Load {
        keys: Vec<String>,
        response: oneshot::Sender<Vec<Loaded>>,
    },
    Query {
        store: &'static str,
        sql: String,
        values: Vec<Value>,
        response: oneshot::Sender<Result<Rows, StoreError>>,
    },
    #[cfg(test)]
    Panic,
}

/// Counts reads as waiting until it is dropped.
struct Waiting {
    reads: usize,
    counter: Arc<AtomicUsize>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.reads, Ordering::Relaxed);
    }
}

impl Reader {
    pub(super) fn new(identity: &Arc<FileIdentity>) -> Self {
        let thread = |_| {
            let connection = Arc::new(ThreadConnection::new(Access::Read, Arc::clone(identity)));
            let handler = {
                let connection = Arc::clone(&connection);
                move |batch: &mut Vec<Request>| read_batch(&connection, batch)
            };
            let worker = Worker::new("embedded-reader", QUEUE, MAX_BATCH, handler);
            Thread { worker, connection, waiting: Arc::default() }
        };
        Self { threads: std::array::from_fn(thread) }
    }

    /// Loads registers. The results are in the order of the keys.
    pub(super) async fn load(&self, keys: Vec<String>) -> Vec<Loaded> {
        let count = keys.len();
        let loaded = async {
            let (response, receiver) = oneshot::channel();
            self.send(count, Work::Load { keys, response })?;
            receiver.await.map_err(|_| stopped())
        };
        loaded.await.unwrap_or_else(|error| vec![Err(error); count])
    }

    /// Runs a SELECT. `store` is named in errors.
    pub(super) async fn query(
        &self,
        store: &'static str,
        sql: String,
        values: Vec<Value>,
    ) -> Result<Rows, StoreError> {
        let (response, receiver) = oneshot::channel();
        self.send(1, Work::Query { store, sql, values, response })?;
        receiver.await.map_err(|_| stopped())?
    }

    pub(super) fn close(&self) {
        self.threads.iter().for_each(|thread| thread.connection.close());
    }

    /// The first thread that has little to do. So reads share transactions and wake-ups while the disk answers
    /// quickly, and do not wait for one slow read otherwise.
    fn send(&self, reads: usize, work: Work) -> Result<(), StoreError> {
        let waiting = |thread: &&Thread| thread.waiting.load(Ordering::Relaxed);
        let idle = self.threads.iter().find(|thread| waiting(thread) < BUSY);
        let Some(thread) = idle.or_else(|| self.threads.iter().min_by_key(waiting)) else {
            return Err(stopped());
        };
        thread.waiting.fetch_add(reads, Ordering::Relaxed);
        let waiting = Waiting { reads, counter: Arc::clone(&thread.waiting) };
        thread.worker.send(Request { work, _waiting: waiting }).map_err(|error| match error {
            NotQueued::Full => unavailable("too many reads are waiting"),
            NotQueued::NoThread => stopped(),
        })
    }
}

fn stopped() -> StoreError {
    unavailable("the reader has stopped")
}

/// Answers all requests of a batch in one transaction. It begins after all of them have arrived, so each sees every
/// commit that was acknowledged before it.
fn read_batch(connection: &ThreadConnection, batch: &mut Vec<Request>) {
    let outcome = connection.with(|connection| {
        let transaction = (batch.len() > 1).then(|| ReadTransaction::begin(connection));
        for request in batch.drain(..) {
            match request.work {
                // The caller may have gone.
                Work::Load { response, .. } if response.is_closed() => {}
                Work::Query { response, .. } if response.is_closed() => {}
                Work::Load { keys, response } => {
                    let single = keys.len() > 1 && transaction.is_none();
                    let transaction = single.then(|| ReadTransaction::begin(connection));
                    let loaded = keys.iter().map(|key| load(connection, key)).collect();
                    drop(transaction);
                    let _ = response.send(loaded);
                }
                Work::Query { store, sql, values, response } => {
                    let rows = query(connection, &sql, values);
                    let _ = response.send(rows.map_err(|error| store_error(store, &error)));
                }
                #[cfg(test)]
                Work::Panic => panic!("this is meant to happen"),
            }
        }
    });
    // The connection could not be opened.
    if let Err(error) = outcome {
        for request in batch.drain(..) {
            match request.work {
                Work::Load { keys, response } => {
                    let _ = response.send(vec![Err(error.clone()); keys.len()]);
                }
                Work::Query { response, .. } => {
                    let _ = response.send(Err(error.clone()));
                }
                #[cfg(test)]
                Work::Panic => {}
            }
        }
    }
}

/// Keeps a snapshot, which spares each read from taking a lock. Reads work without it, too, so errors are ignored.
struct ReadTransaction<'a>(&'a Connection);

impl<'a> ReadTransaction<'a> {
    fn begin(connection: &'a Connection) -> Self {
        let _ = execute(connection, "BEGIN");
        Self(connection)
    }
}

impl Drop for ReadTransaction<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit() {
            let _ = execute(self.0, "COMMIT");
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute([])
}

fn load(connection: &Connection, key: &str) -> Loaded {
    let row = connection.prepare_cached(LOAD).and_then(|mut statement| {
        let value = statement.query_row([key], |row| {
            Ok((row.get::<_, i64>(0)?, Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?)))
        });
        value.optional()
    });
    let Some((revision, bytes)) = row.map_err(|error| store_error(NAME, &error))? else { return Ok(None) };
    let revision = u64::try_from(revision).map_err(|_| StoreError::Corrupt {
        store: NAME,
        cause: "a register has a negative revision".into(),
    })?;
    Ok(Some(EncodedValue { revision, bytes }))
}

fn query(connection: &Connection, sql: &str, values: Vec<Value>) -> rusqlite::Result<Rows> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns: Vec<_> = statement.column_names().into_iter().map(str::to_owned).collect();
    let width = columns.len();
    let rows = statement
        .query_map(params_from_iter(values), |row| (0..width).map(|index| row.get(index)).collect())?
        .collect::<Result<_, _>>()?;
    Ok(Rows { columns, rows })
}

#[cfg(test)]
mod tests;
