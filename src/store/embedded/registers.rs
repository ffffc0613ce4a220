//! Registers and event log in SQLite.
//!
//! SQLite has one writer, and a commit costs a sync of the disk. So one task owns the writing: it takes
//! whatever commits have arrived, makes one transaction of them, and answers all of them after it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Connection as _, Row as _, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use super::{NAME, unavailable};
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
/// How long the log remembers.
const EVENT_RETENTION: Duration = Duration::from_hours(24);
/// How often forgotten registers and events are deleted.
const SWEEP: Duration = Duration::from_mins(1);
/// Rows deleted in one go, so that sweeping does not hold up commits.
const SWEEP_ROWS: i64 = 1000;

/// Registers in SQLite.
pub struct EmbeddedRegisters {
    readers: SqlitePool,
    writer: mpsc::Sender<Request>,
}

struct Request {
    key: String,
    change: RawChange,
    answer: oneshot::Sender<Result<RawCommit, StoreError>>,
}

impl EmbeddedRegisters {
    /// Registers in the database behind `pool`; writes through one of its connections, which it keeps.
    pub async fn start(pool: SqlitePool, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let connection = pool.acquire().await.map_err(|error| unavailable(&error))?.detach();
        let (writer, requests) = mpsc::channel(QUEUE);
        tokio::spawn(write(connection, requests, clock));
        Ok(Self { readers: pool, writer })
    }
}

#[async_trait]
impl RawRegisters for EmbeddedRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<RawValue>, StoreError> {
        let row = sqlx::query("SELECT revision, value FROM registers WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| unavailable(&error))?;
        row.map(|row| value(&row)).transpose()
    }

    async fn commit(&self, key: &str, change: RawChange) -> Result<RawCommit, StoreError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { key: key.to_owned(), change, answer };
        let gone = |cause: &str| StoreError::Unavailable { store: NAME, cause: cause.to_owned() };
        self.writer.try_send(request).map_err(|_| gone("too many commits are waiting"))?;
        answered.await.map_err(|_| gone("the writer has stopped"))?
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<RawTail, StoreError> {
        let ends = sqlx::query(
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS last,
                    (SELECT min(seq) FROM events) AS first",
        )
        .fetch_one(&self.readers)
        .await
        .map_err(|error| unavailable(&error))?;
        let last: i64 = ends.get("last");
        let first: Option<i64> = ends.get("first");

        let Some(after) = after else {
            return Ok(RawTail { events: Vec::new(), next: Cursor(last.to_string()), gap: false });
        };
        let after: i64 = after.0.parse().unwrap_or(-1);
        // A cursor from beyond the end belongs to another, lost log.
        let gap = after < 0 || after > last || after + 1 < first.unwrap_or(last + 1);
        let from = if gap { 0 } else { after };
        let rows = sqlx::query("SELECT seq, value FROM events WHERE seq > ? ORDER BY seq LIMIT ?")
            .bind(from)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.readers)
            .await
            .map_err(|error| unavailable(&error))?;
        let next = rows.last().map_or(if gap { last } else { after }, |row| row.get("seq"));
        let events = rows.iter().map(|row| Bytes::from(row.get::<Vec<u8>, _>("value"))).collect();
        Ok(RawTail { events, next: Cursor(next.to_string()), gap })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.readers).await.map_err(|error| unavailable(&error))?;
        Ok(())
    }
}

async fn write(
    mut connection: SqliteConnection,
    mut requests: mpsc::Receiver<Request>,
    clock: Arc<dyn Clock>,
) {
    let mut sweep = tokio::time::interval(SWEEP);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            received = requests.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    break;
                }
                answer(&mut connection, &mut batch, clock.now()).await;
            }
            _ = sweep.tick() => {
                if let Err(error) = forget(&mut connection, clock.now()).await {
                    tracing::warn!(error.message = %error, "could not delete what is no longer needed");
                }
            }
        }
    }
}

async fn answer(connection: &mut SqliteConnection, batch: &mut Vec<Request>, now: Timestamp) {
    match transaction(connection, batch, now).await {
        Ok(outcomes) => {
            for (request, outcome) in batch.drain(..).zip(outcomes) {
                // Whoever has gone away meanwhile does not need the answer.
                let _ = request.answer.send(outcome);
            }
        }
        Err(error) => {
            for request in batch.drain(..) {
                let _ = request.answer.send(Err(unavailable(&error)));
            }
        }
    }
}

async fn transaction(
    connection: &mut SqliteConnection,
    batch: &[Request],
    now: Timestamp,
) -> Result<Vec<Result<RawCommit, StoreError>>, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    for request in batch {
        outcomes.push(apply(&mut transaction, &request.key, &request.change, now).await?);
    }
    transaction.commit().await?;
    Ok(outcomes)
}

async fn apply(
    connection: &mut SqliteConnection,
    key: &str,
    change: &RawChange,
    now: Timestamp,
) -> Result<Result<RawCommit, StoreError>, sqlx::Error> {
    let RawChange { expected, value: new, keep_until, events } = change;
    let written = if *expected == 0 {
        sqlx::query(
            "INSERT INTO registers (key, revision, value, keep_until) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key) DO NOTHING",
        )
    } else {
        sqlx::query("UPDATE registers SET revision = ?2, value = ?3, keep_until = ?4 WHERE key = ?1 AND revision = ?5")
    }
    .bind(key)
    .bind(integer(new.revision))
    .bind(new.bytes.as_ref())
    .bind(integer(keep_until.as_micros()));
    let written = if *expected == 0 { written } else { written.bind(integer(*expected)) }
        .execute(&mut *connection)
        .await?;

    if written.rows_affected() == 0 {
        let stands = sqlx::query("SELECT revision, value FROM registers WHERE key = ?")
            .bind(key)
            .fetch_optional(&mut *connection)
            .await?;
        let stands = match stands.map(|row| value(&row)).transpose() {
            Ok(stands) => stands,
            Err(error) => return Ok(Err(error)),
        };
        // The same commit for a second time.
        let repeated = stands.as_ref() == Some(new);
        return Ok(Ok(if repeated { RawCommit::Committed } else { RawCommit::Conflict(stands) }));
    }
    for event in events {
        sqlx::query("INSERT INTO events (value, keep_until) VALUES (?, ?)")
            .bind(event.as_ref())
            .bind(integer(now.after(EVENT_RETENTION).as_micros()))
            .execute(&mut *connection)
            .await?;
    }
    Ok(Ok(RawCommit::Committed))
}

async fn forget(connection: &mut SqliteConnection, now: Timestamp) -> Result<(), sqlx::Error> {
    let now = integer(now.as_micros());
    for statement in [
        "DELETE FROM registers WHERE key IN (SELECT key FROM registers WHERE keep_until < ?1 LIMIT ?2)",
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE keep_until < ?1 ORDER BY seq LIMIT ?2)",
    ] {
        sqlx::query(statement).bind(now).bind(SWEEP_ROWS).execute(&mut *connection).await?;
    }
    Ok(())
}

fn value(row: &sqlx::sqlite::SqliteRow) -> Result<RawValue, StoreError> {
    let revision = u64::try_from(row.get::<i64, _>("revision"))
        .map_err(|_| StoreError::Corrupt { store: NAME, cause: "a negative revision".into() })?;
    Ok(RawValue { revision, bytes: Bytes::from(row.get::<Vec<u8>, _>("value")) })
}

/// SQLite's integers are signed; the years beyond their range are not ours to see.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
