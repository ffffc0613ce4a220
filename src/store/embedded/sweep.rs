//! Deletes expired registers and old events.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::writer::Writer;
use crate::{
    domain::{ports::Clock, types::Timestamp},
    store::backend::EVENT_RETENTION,
};

/// The approximate number of events that the log keeps.
const MAX_EVENTS: i64 = 256 * 1024;
const INTERVAL: Duration = Duration::from_mins(1);
/// The rows deleted by one statement, few enough that commits do not wait for long.
const BATCH: u16 = 1000;
/// The pause between two batches, for waiting commits.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(writer: &Writer, clock: &dyn Clock) {
    loop {
        let may_have_more = writer.sweep(clock.now()).await.unwrap_or_else(|error| {
            tracing::warn!(error.message = %error, "failed to delete expired registers and old events");
            false
        });
        tokio::time::sleep(if may_have_more { PAUSE } else { INTERVAL }).await;
    }
}

/// Deletes a batch of expired registers and one of old events. Returns whether there may be more.
pub(super) fn sweep(connection: &Connection, now: Timestamp) -> rusqlite::Result<bool> {
    let mut registers = connection.prepare_cached(
        "DELETE FROM registers WHERE key IN (SELECT key FROM registers WHERE keep_until <= ? LIMIT ?)",
    )?;
    let registers = registers.execute(params![integer(now.as_micros()), BATCH])?;

    // Only the oldest events are deleted, whatever the clock did, because a cursor whose event still exists must mean
    // that all later events do. The newest event stays, because cursors at the end of the log name it.
    let retention = u64::try_from(EVENT_RETENTION.as_micros()).unwrap_or(u64::MAX);
    let mut events = connection.prepare_cached(
        "WITH newest AS (SELECT max(seq) AS seq FROM events),
              oldest AS (SELECT seq, at FROM events
                         WHERE seq < (SELECT seq FROM newest) ORDER BY seq LIMIT ?1)
         DELETE FROM events WHERE seq <= (
             SELECT max(seq) FROM oldest WHERE at <= ?2 OR seq <= (SELECT seq FROM newest) - ?3)",
    )?;
    let oldest = integer(now.as_micros().saturating_sub(retention));
    let events = events.execute(params![BATCH, oldest, MAX_EVENTS])?;
    Ok(registers == usize::from(BATCH) || events == usize::from(BATCH))
}

/// SQLite's integers are signed; larger values, far in the future, are capped.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
