//! Registers and event log in SQLite.
//!
//! A commit costs a sync of the disk. So one task does them all: it takes whatever commits have arrived,
//! makes one transaction of them, and answers all of them after it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, Executor as _, Row as _, sqlite::SqliteRow};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    task::JoinSet,
    time::timeout,
};

use super::{
    Database, NAME,
    database::store_error,
    sweep::{self, integer},
};
use crate::{
    domain::{
        ports::{Clock, Cursor, StoreError},
        types::Timestamp,
    },
    store::raw::{RawChange, RawCommit, RawRegisters, RawTail, RawValue},
};

/// Commits in one transaction, at most.
const BATCH: usize = 256;
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

/// Registers in SQLite.
pub struct EmbeddedRegisters {
    database: Database,
    writer: mpsc::Sender<Request>,
    /// Changes when events may have been appended.
    appended: watch::Receiver<()>,
    /// Ends with the registers; the writing ends when its channel does.
    _sweeping: JoinSet<()>,
}

struct Request {
    key: String,
    change: RawChange,
    /// Whether the register was still as expected, and is written.
    answer: oneshot::Sender<Result<bool, StoreError>>,
}

impl EmbeddedRegisters {
    /// Registers in this database. Needs a Tokio runtime.
    pub fn start(database: Database, clock: Arc<dyn Clock>) -> Self {
        let (writer, requests) = mpsc::channel(QUEUE);
        let (appends, appended) = watch::channel(());
        tokio::spawn(write(database.clone(), requests, appends, Arc::clone(&clock)));
        let mut sweeping = JoinSet::new();
        sweeping.spawn(sweep::forever(database.clone(), clock));
        Self { database, writer, appended, _sweeping: sweeping }
    }

    /// Deletes some registers and events that nobody needs any more at `now`; whether there may be more
    /// of them. Happens by itself all the time.
    pub async fn sweep(&self, now: Timestamp) -> Result<bool, StoreError> {
        sweep::sweep(&self.database, now).await.map_err(|error| failed(&error))
    }
}

#[async_trait]
impl RawRegisters for EmbeddedRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<RawValue>, StoreError> {
        let row = sqlx::query("SELECT revision, value FROM registers WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.database.readers)
            .await
            .map_err(|error| failed(&error))?;
        row.map(|row| value(&row)).transpose()
    }

    async fn commit(&self, key: &str, change: RawChange) -> Result<RawCommit, StoreError> {
        let (answer, answered) = oneshot::channel();
        let new = change.value.clone();
        let request = Request { key: key.to_owned(), change, answer };
        self.writer.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => unavailable("too many commits are waiting"),
            TrySendError::Closed(_) => unavailable("the writer has stopped"),
        })?;
        if answered.await.map_err(|_| unavailable("the writer has stopped"))?? {
            return Ok(RawCommit::Committed);
        }
        let stands = self.load(key).await?;
        // The same commit for a second time.
        let repeated = stands.as_ref() == Some(&new);
        Ok(if repeated { RawCommit::Committed } else { RawCommit::Conflict(stands) })
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<RawTail, StoreError> {
        let Some(Cursor(after)) = after else {
            let newest = self.events("SELECT * FROM events ORDER BY seq DESC LIMIT ?2", 0, 1).await?;
            let next = newest.last().map_or(Place::NOWHERE, |event| event.place).cursor();
            return Ok(RawTail { events: Vec::new(), next, gap: false });
        };
        // Where the event that the cursor names is still there, all after it are: the log only ever
        // loses its beginning. Where it is not, some may have gone with it.
        let place = Place::parse(after).unwrap_or(Place::NOWHERE);
        let from = "SELECT * FROM events WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
        let mut events = self.events(from, place.seq, limit.saturating_add(1)).await?;
        let gap = events.first().is_none_or(|event| event.place != place);
        if gap {
            events = self.events(from, 0, limit).await?;
        } else {
            events.remove(0);
        }
        let next = events.last().map_or(if gap { Place::NOWHERE } else { place }, |event| event.place);
        let events = events.into_iter().filter_map(|event| event.value).collect();
        Ok(RawTail { events, next: next.cursor(), gap })
    }

    async fn follow(&self, after: &Cursor, limit: usize, patience: Duration) -> Result<RawTail, StoreError> {
        let begun = Instant::now();
        let mut appended = self.appended.clone();
        let mut after = after.clone();
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            // First listen, then look: what is appended after the look is heard.
            appended.mark_unchanged();
            let tail = self.tail(Some(&after), limit).await?;
            if tail.gap || !tail.events.is_empty() || left.is_zero() {
                return Ok(tail);
            }
            after = tail.next;
            // Also once this has timed out there is a last look: nobody hears a log being lost.
            if let Ok(heard) = timeout(left, appended.changed()).await {
                heard.map_err(|_| unavailable("the writer has stopped"))?;
            }
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.database.readers).await.map_err(|error| failed(&error))?;
        Ok(())
    }
}

impl EmbeddedRegisters {
    async fn events(&self, sql: &'static str, from: i64, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        let rows = sqlx::query(sql)
            .bind(from)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.database.readers)
            .await
            .map_err(|error| failed(&error))?;
        rows.iter()
            .map(|row| {
                let place = Place { seq: row.try_get("seq")?, at: row.try_get("at")? };
                Ok(EventRow { place, value: row.try_get::<Option<Vec<u8>>, _>("value")?.map(Bytes::from) })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| failed(&error))
    }
}

/// A row of the log.
struct EventRow {
    place: Place,
    /// Nothing in the row that the log begins with.
    value: Option<Bytes>,
}

/// What names an event, also among those of another log with the same numbers: a lost or restored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    seq: i64,
    at: i64,
}

impl Place {
    /// Names no event.
    const NOWHERE: Self = Self { seq: 0, at: 0 };

    fn parse(cursor: &str) -> Option<Self> {
        let (seq, at) = cursor.split_once('-')?;
        Some(Self { seq: seq.parse().ok()?, at: at.parse().ok()? })
    }

    fn cursor(self) -> Cursor {
        Cursor(format!("{}-{}", self.seq, self.at))
    }
}

async fn write(
    database: Database,
    mut requests: mpsc::Receiver<Request>,
    appends: watch::Sender<()>,
    clock: Arc<dyn Clock>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        let outcome = transaction(&database, &batch, clock.now()).await;
        // Also where all of them conflicted or failed: those who follow look for themselves.
        if batch.iter().any(|request| !request.change.events.is_empty()) {
            appends.send_replace(());
        }
        for (number, request) in batch.drain(..).enumerate() {
            let written = outcome.as_ref().map(|written| written[number]).map_err(failed);
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
    for RawChange { expected, events, .. } in batch.iter().map(|request| &request.change) {
        sql.push_str(if *expected == 0 { CREATE } else { REPLACE });
        sql.extend(events.iter().map(|_| APPEND));
    }
    sql.push_str("COMMIT");
    // Only those of a lone commit are so few that they are worth remembering.
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(batch.len() == 1);
    for Request { key, change: RawChange { expected, value, keep_until, events }, .. } in batch {
        query = query.bind(integer(value.revision)).bind(value.bytes.as_ref());
        query = query.bind(integer(keep_until.as_micros())).bind(key);
        if *expected != 0 {
            query = query.bind(integer(*expected));
        }
        for event in events {
            query = query.bind(integer(now.as_micros())).bind(event.as_ref());
        }
    }
    let done: Result<Vec<_>, _> = connection.fetch_many(query).try_collect().await;
    if done.is_err() {
        // What was begun ends with the connection.
        connection.close_on_drop();
    }
    // After that of BEGIN.
    let mut changed = done?.into_iter().filter_map(Either::left).map(|done| done.rows_affected() > 0).skip(1);
    let mut written = Vec::with_capacity(batch.len());
    for request in batch {
        written.push(changed.next().unwrap_or_default());
        changed.by_ref().take(request.change.events.len()).for_each(drop);
    }
    Ok(written)
}

fn value(row: &SqliteRow) -> Result<RawValue, StoreError> {
    let revision: i64 = row.try_get("revision").map_err(|error| failed(&error))?;
    let bytes: Vec<u8> = row.try_get("value").map_err(|error| failed(&error))?;
    let revision = u64::try_from(revision)
        .map_err(|_| StoreError::Corrupt { store: NAME, cause: "a negative revision".into() })?;
    Ok(RawValue { revision, bytes: Bytes::from(bytes) })
}

fn unavailable(cause: &str) -> StoreError {
    StoreError::Unavailable { store: NAME, cause: cause.to_owned() }
}

fn failed(error: &sqlx::Error) -> StoreError {
    store_error(NAME, error)
}
