//! Registers and event log in SQLite.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Row as _, sqlite::SqliteRow};
use tokio::{task::JoinSet, time::timeout};

use super::{Database, NAME, failed, sweep, unavailable, writer::Writer};
use crate::{
    domain::{
        ports::{Clock, Cursor, StoreError},
        types::Timestamp,
    },
    isolation::supervisor::{self, Importance},
    store::backend::{Backend, EncodedChange, EncodedCommit, EncodedTail, EncodedValue},
};

/// Registers that are read together, at most: so that a few who want many leave the connections to others, too.
const MOST_AT_ONCE: usize = 256;

/// Registers in SQLite.
pub struct EmbeddedRegisters {
    database: Database,
    writer: Writer,
    /// Ends with the registers.
    _sweeping: JoinSet<()>,
}

impl EmbeddedRegisters {
    /// Registers in this database. Needs a Tokio runtime.
    pub fn start(database: Database, clock: Arc<dyn Clock>) -> Self {
        let writer = Writer::start(database.clone(), Arc::clone(&clock));
        let mut sweeping = JoinSet::new();
        let sweep = {
            let database = database.clone();
            async move || sweep::forever(&database, &*clock).await
        };
        sweeping.spawn(supervisor::supervise("sweep", Importance::Deferrable, sweep));
        Self { database, writer, _sweeping: sweeping }
    }

    /// Deletes some registers and events that nobody needs any more at `now`; whether there may be more
    /// of them. Happens by itself all the time.
    pub async fn sweep(&self, now: Timestamp) -> Result<bool, StoreError> {
        sweep::sweep(&self.database, now).await.map_err(|error| failed(&error))
    }
}

#[async_trait]
impl Backend for EmbeddedRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<EncodedValue>, StoreError> {
        self.database.must_be_in_place()?;
        let row = sqlx::query("SELECT revision, value FROM registers WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.database.readers)
            .await
            .map_err(|error| failed(&error))?;
        row.map(|row| value(&row)).transpose()
    }

    async fn load_many(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        if let [key] = keys {
            return vec![self.load(key).await];
        }
        let questions = keys.chunks(MOST_AT_ONCE).map(|some| self.load_together(some));
        join_all(questions).await.into_iter().flatten().collect()
    }

    async fn commit(&self, key: &str, change: EncodedChange) -> Result<EncodedCommit, StoreError> {
        let new = change.value.clone();
        if self.writer.commit(key, change).await? {
            return Ok(EncodedCommit::Committed);
        }
        let stands = self.load(key).await?;
        // The same commit for a second time.
        let repeated = stands.as_ref() == Some(&new);
        Ok(if repeated { EncodedCommit::Committed } else { EncodedCommit::Conflict(stands) })
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<EncodedTail, StoreError> {
        let Some(Cursor(after)) = after else {
            let newest = self.events("SELECT * FROM events ORDER BY seq DESC LIMIT ?2", 0, 1).await?;
            let next = newest.last().map_or(Place::NOWHERE, |event| event.place).cursor();
            return Ok(EncodedTail { events: Vec::new(), next, gap: false });
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
        Ok(EncodedTail { events, next: next.cursor(), gap })
    }

    async fn follow(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        let begun = Instant::now();
        let mut appended = self.writer.appended();
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
}

impl EmbeddedRegisters {
    /// In one message to the thread of a connection, because each would wake that thread and then us.
    async fn load_together(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        if let Err(error) = self.database.must_be_in_place() {
            return keys.iter().map(|_| Err(error.clone())).collect();
        }
        let rows = sqlx::query(
            "SELECT key, revision, value FROM registers WHERE key IN (SELECT value FROM json_each(?))",
        )
        .bind(json!(keys).to_string())
        .try_map(|row: SqliteRow| Ok((row.try_get::<String, _>("key")?, row)))
        .fetch_all(&self.database.readers)
        .await;
        let found: HashMap<_, _> = match rows.map_err(|error| failed(&error)) {
            Ok(rows) => rows.into_iter().collect(),
            // Where the file is damaged, that is a matter of those whose rows are.
            Err(StoreError::Corrupt { .. }) => return join_all(keys.iter().map(|key| self.load(key))).await,
            Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
        };
        keys.iter().map(|key| found.get(*key).map(value).transpose()).collect()
    }

    async fn events(&self, sql: &'static str, from: i64, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        self.database.must_be_in_place()?;
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

fn value(row: &SqliteRow) -> Result<EncodedValue, StoreError> {
    let revision: i64 = row.try_get("revision").map_err(|error| failed(&error))?;
    let bytes: Vec<u8> = row.try_get("value").map_err(|error| failed(&error))?;
    let revision = u64::try_from(revision)
        .map_err(|_| StoreError::Corrupt { store: NAME, cause: "a negative revision".into() })?;
    Ok(EncodedValue { revision, bytes: Bytes::from(bytes) })
}
