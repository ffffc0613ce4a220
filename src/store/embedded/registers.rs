//! Registers and event log in SQLite.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::types::Value;
use tokio::{task::JoinSet, time::timeout};

use super::{
    Database, NAME, sweep, unavailable,
    writer::{KeyedChange, Writer, Written},
};
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
    writer: Arc<Writer>,
    /// Aborted when the store is dropped.
    _sweeper: JoinSet<()>,
}

impl EmbeddedRegisters {
    /// Starts the sweeper. Needs a Tokio runtime.
    pub fn start(database: Database, clock: Arc<dyn Clock>) -> Self {
        let writer = Arc::new(database.register_writer(Arc::clone(&clock)));
        let mut sweeper = JoinSet::new();
        let sweep = {
            let writer = Arc::clone(&writer);
            async move || sweep::run(&writer, &*clock).await
        };
        sweeper.spawn(supervisor::supervise("sweep", Importance::Deferrable, sweep));
        Self { database, writer, _sweeper: sweeper }
    }

    /// Deletes a batch of expired registers and old events, which the sweeper also does by itself. Returns whether
    /// there may be more.
    pub async fn sweep(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.writer.sweep(now).await
    }
}

#[async_trait]
impl Backend for EmbeddedRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<EncodedValue>, StoreError> {
        self.database.load(vec![key.to_owned()]).await.pop().unwrap_or(Ok(None))
    }

    async fn load_many(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        self.database.load(keys.iter().copied().map(str::to_owned).collect()).await
    }

    async fn commit(&self, key: &str, change: EncodedChange) -> Result<EncodedCommit, StoreError> {
        let mut committed = self.commit_many(vec![(key, change)]).await;
        committed.pop().unwrap_or_else(|| Err(unavailable("the writer has stopped")))
    }

    async fn commit_many(
        &self,
        commits: Vec<(&str, EncodedChange)>,
    ) -> Vec<Result<EncodedCommit, StoreError>> {
        let new: Vec<_> = commits.iter().map(|(_, change)| change.value.clone()).collect();
        let keys: Vec<_> = commits.iter().map(|(key, _)| *key).collect();
        let keyed = |(key, change): (&str, _)| KeyedChange { key: key.to_owned(), change };
        let written = self.writer.commit(commits.into_iter().map(keyed).collect()).await;
        let lost: Vec<_> = written.iter().zip(&keys).filter(|(one, _)| matches!(one, Ok(false))).collect();
        let lost: Vec<_> = lost.into_iter().map(|(_, key)| *key).collect();
        let mut current = if lost.is_empty() { Vec::new() } else { self.load_many(&lost).await }.into_iter();
        let outcome = |(written, new): (Written, EncodedValue)| {
            if written? {
                return Ok(EncodedCommit::Committed);
            }
            let current = current.next().unwrap_or(Ok(None))?;
            let was_repeated = current.as_ref() == Some(&new);
            Ok(if was_repeated { EncodedCommit::Committed } else { EncodedCommit::Conflict(current) })
        };
        written.into_iter().zip(new).map(outcome).collect()
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<EncodedTail, StoreError> {
        let Some(Cursor(after)) = after else {
            let newest =
                self.events("SELECT seq, at, value FROM events ORDER BY seq DESC LIMIT ?2", 0, 1).await?;
            let next = newest.last().map_or(EventId::NONE, |event| event.id).to_cursor();
            return Ok(EncodedTail { events: Vec::new(), next, gap: false, complete: true });
        };
        // The log only ever loses its oldest events. So if the event that the cursor names still exists, all later
        // ones do; otherwise events may be missing.
        let id = EventId::parse(after).unwrap_or(EventId::NONE);
        let from = "SELECT seq, at, value FROM events WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
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
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.database.query(NAME, sql.to_owned(), vec![from.into(), limit.into()]).await?;
        rows.rows.into_iter().map(EventRow::new).collect()
    }
}

struct EventRow {
    id: EventId,
    /// `None` in the first row of a new log.
    value: Option<Bytes>,
}

impl EventRow {
    /// From the columns `seq`, `at` and `value`.
    fn new(row: Vec<Value>) -> Result<Self, StoreError> {
        let mut row = row.into_iter();
        match (row.next(), row.next(), row.next()) {
            (Some(Value::Integer(seq)), Some(Value::Integer(at)), Some(value)) => {
                let value = if let Value::Blob(bytes) = value { Some(Bytes::from(bytes)) } else { None };
                Ok(Self { id: EventId { seq, at }, value })
            }
            _ => {
                Err(StoreError::Corrupt { store: NAME, cause: "an event has columns of other types".into() })
            }
        }
    }
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
