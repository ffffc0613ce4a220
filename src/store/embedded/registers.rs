//! Registers and event log in SQLite.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Row as _, sqlite::SqliteRow};
use tokio::{task::JoinSet, time::timeout};

use super::{Database, NAME, query_error, sweep, unavailable, writer::Writer};
use crate::{
    domain::{
        ports::{Clock, Cursor, StoreError},
        types::Timestamp,
    },
    isolation::supervisor::{self, Importance},
    store::backend::{Backend, EncodedChange, EncodedCommit, EncodedTail, EncodedValue},
};

/// Registers and event log in SQLite.
pub struct EmbeddedRegisters {
    database: Database,
    writer: Writer,
    /// Aborted when the store is dropped.
    _sweeper: JoinSet<()>,
}

impl EmbeddedRegisters {
    /// Starts the writer and the sweeper. Needs a Tokio runtime.
    pub fn start(database: Database, clock: Arc<dyn Clock>) -> Self {
        let writer = Writer::start(database.clone(), Arc::clone(&clock));
        let mut sweeper = JoinSet::new();
        let sweep = {
            let database = database.clone();
            async move || sweep::run(&database, &*clock).await
        };
        sweeper.spawn(supervisor::supervise("sweep", Importance::Deferrable, sweep));
        Self { database, writer, _sweeper: sweeper }
    }

    /// Deletes a batch of expired registers and old events, which the sweeper also does by itself. Returns whether
    /// there may be more.
    pub async fn sweep(&self, now: Timestamp) -> Result<bool, StoreError> {
        sweep::sweep(&self.database, now).await.map_err(|error| query_error(&error))
    }
}

#[async_trait]
impl Backend for EmbeddedRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<EncodedValue>, StoreError> {
        self.database.verify_file()?;
        let row = sqlx::query("SELECT revision, value FROM registers WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.database.readers)
            .await
            .map_err(|error| query_error(&error))?;
        row.map(|row| value(&row)).transpose()
    }

    async fn commit(&self, key: &str, change: EncodedChange) -> Result<EncodedCommit, StoreError> {
        let new = change.value.clone();
        if self.writer.commit(key, change).await? {
            return Ok(EncodedCommit::Committed);
        }
        let current = self.load(key).await?;
        let was_repeated = current.as_ref() == Some(&new);
        Ok(if was_repeated { EncodedCommit::Committed } else { EncodedCommit::Conflict(current) })
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<EncodedTail, StoreError> {
        let Some(Cursor(after)) = after else {
            let newest = self.events("SELECT * FROM events ORDER BY seq DESC LIMIT ?2", 0, 1).await?;
            let next = newest.last().map_or(EventId::NONE, |event| event.id).to_cursor();
            return Ok(EncodedTail { events: Vec::new(), next, gap: false, complete: true });
        };
        // The log only ever loses its oldest events. So if the event that the cursor names still exists, all later
        // ones do; otherwise events may be missing.
        let id = EventId::parse(after).unwrap_or(EventId::NONE);
        let from = "SELECT * FROM events WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
        let mut events = self.events(from, id.seq, limit.saturating_add(1)).await?;
        let gap = events.first().is_none_or(|event| event.id != id);
        if gap {
            events = self.events(from, 0, limit).await?;
        } else {
            events.remove(0);
        }
        let complete = events.len() < limit;
        let next = events.last().map_or(if gap { EventId::NONE } else { id }, |event| event.id);
        let events = events.into_iter().filter_map(|event| event.value).collect();
        Ok(EncodedTail { events, next: next.to_cursor(), gap, complete })
    }

    async fn follow(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        let start = Instant::now();
        let mut appended = self.writer.appended();
        let mut after = after.clone();
        loop {
            let remaining = patience.saturating_sub(start.elapsed());
            // Subscribes before it reads, so that a later append is noticed.
            appended.mark_unchanged();
            let tail = self.tail(Some(&after), limit).await?;
            if tail.gap || !tail.events.is_empty() || remaining.is_zero() {
                return Ok(tail);
            }
            after = tail.next;
            // The log is also read after a time-out, because a lost log causes no notification.
            if let Ok(changed) = timeout(remaining, appended.changed()).await {
                changed.map_err(|_| unavailable("the writer has stopped"))?;
            }
        }
    }
}

impl EmbeddedRegisters {
    async fn events(&self, sql: &'static str, from: i64, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        self.database.verify_file()?;
        let rows = sqlx::query(sql)
            .bind(from)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.database.readers)
            .await
            .map_err(|error| query_error(&error))?;
        rows.iter()
            .map(|row| {
                let id = EventId { seq: row.try_get("seq")?, at: row.try_get("at")? };
                Ok(EventRow { id, value: row.try_get::<Option<Vec<u8>>, _>("value")?.map(Bytes::from) })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| query_error(&error))
    }
}

struct EventRow {
    id: EventId,
    /// `None` in the first row of a new log.
    value: Option<Bytes>,
}

/// Identifies an event. The time distinguishes it from events with the same number in a lost or restored log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EventId {
    seq: i64,
    at: i64,
}

impl EventId {
    const NONE: Self = Self { seq: 0, at: 0 };

    fn parse(cursor: &str) -> Option<Self> {
        let (seq, at) = cursor.split_once('-')?;
        Some(Self { seq: seq.parse().ok()?, at: at.parse().ok()? })
    }

    fn to_cursor(self) -> Cursor {
        Cursor(format!("{}-{}", self.seq, self.at))
    }
}

fn value(row: &SqliteRow) -> Result<EncodedValue, StoreError> {
    let revision: i64 = row.try_get("revision").map_err(|error| query_error(&error))?;
    let bytes: Vec<u8> = row.try_get("value").map_err(|error| query_error(&error))?;
    let revision = u64::try_from(revision).map_err(|_| StoreError::Corrupt {
        store: NAME,
        cause: "a register has a negative revision".into(),
    })?;
    Ok(EncodedValue { revision, bytes: Bytes::from(bytes) })
}
