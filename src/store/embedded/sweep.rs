//! Deleting what nobody needs any more.

use std::time::Duration;

use super::Database;
use crate::{
    domain::{ports::Clock, types::Timestamp},
    store::backend::EVENT_RETENTION,
};

/// How many events the log remembers, about.
const EVENTS: i64 = 256 * 1024;
/// How often to look.
const INTERVAL: Duration = Duration::from_mins(1);
/// Rows deleted in one go, so that commits need not wait for long.
const ROWS: i64 = 1000;
/// The pause between two goes, for those commits.
const PAUSE: Duration = Duration::from_millis(10);

/// Sweeps for as long as it is polled.
pub(super) async fn forever(database: &Database, clock: &dyn Clock) {
    loop {
        let more = sweep(database, clock.now()).await.unwrap_or_else(|error| {
            tracing::warn!(error.message = %error, "could not delete what is no longer needed");
            false
        });
        tokio::time::sleep(if more { PAUSE } else { INTERVAL }).await;
    }
}

/// Deletes some registers and events that nobody needs any more; whether there may be more of them.
pub(super) async fn sweep(database: &Database, now: Timestamp) -> Result<bool, sqlx::Error> {
    let registers = sqlx::query(
        "DELETE FROM registers WHERE key IN (SELECT key FROM registers WHERE keep_until <= ? LIMIT ?)",
    )
    .bind(integer(now.as_micros()))
    .bind(ROWS)
    .execute(&database.writer)
    .await?;

    // Only ever the beginning of the log, whatever the clock did: that a cursor's event is still there
    // must mean that all after it are. And never the newest, which cursors at the end name.
    let retention = u64::try_from(EVENT_RETENTION.as_micros()).unwrap_or(u64::MAX);
    let events = sqlx::query(
        "WITH newest AS (SELECT max(seq) AS seq FROM events),
              oldest AS (SELECT seq, at FROM events
                         WHERE seq < (SELECT seq FROM newest) ORDER BY seq LIMIT ?1)
         DELETE FROM events WHERE seq <= (
             SELECT max(seq) FROM oldest WHERE at <= ?2 OR seq <= (SELECT seq FROM newest) - ?3)",
    )
    .bind(ROWS)
    .bind(integer(now.as_micros().saturating_sub(retention)))
    .bind(EVENTS)
    .execute(&database.writer)
    .await?;

    let full = u64::try_from(ROWS).unwrap_or_default();
    Ok(registers.rows_affected() == full || events.rows_affected() == full)
}

/// SQLite's integers are signed; the years beyond their range are not ours to see.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
