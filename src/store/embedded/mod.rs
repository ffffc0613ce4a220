//! The embedded store: one SQLite file in the data directory, for one process.
//!
//! Write-ahead log and `synchronous = FULL`: what was acknowledged survives the process and the machine.

mod registers;

use std::{path::Path, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use registers::EmbeddedRegisters;

use crate::domain::ports::StoreError;

/// What messages to the operator call it.
const NAME: &str = "embedded";

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/embedded/migrations");

/// Opens the database file, and creates or upgrades it where needed.
pub async fn open(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(2))
        .foreign_keys(true);
    let pool = SqlitePoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(2))
        .connect_with(options)
        .await
        .map_err(|error| unavailable(&error))?;
    MIGRATIONS
        .run(&pool)
        .await
        .map_err(|error| StoreError::Corrupt { store: NAME, cause: error.to_string() })?;
    Ok(pool)
}

fn unavailable(error: &sqlx::Error) -> StoreError {
    StoreError::Unavailable { store: NAME, cause: error.to_string() }
}
