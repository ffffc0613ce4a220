//! Asks a database about itself, for `latchkey doctor`. Only reads.

use std::{sync::Arc, time::Instant};

use super::{
    account_row::NAME,
    client::SqlClient,
    dialect::Dialect,
    pools::{Pools, WriteAccess},
    readiness::Readiness,
    session::Timeouts,
    url::{DatabaseUrl, Settings},
};
use crate::{
    domain::{
        ports::{Clock as _, StoreError},
        types::Timestamp,
    },
    store::clock::SystemClock,
};

/// What a database says about itself.
pub struct DatabaseFacts {
    /// The server and the database, or the path of the file.
    pub address: String,
    /// The version of the server; empty for SQLite.
    pub version: String,
    /// The version of the tables of Latchkey, if there are any.
    pub schema: Option<i64>,
    /// The version that this program needs.
    pub needed_schema: i64,
    /// The clock of the server, and that of this machine at about the same time.
    pub clocks: Option<(Timestamp, Timestamp)>,
}

/// Asks a database that is not the embedded one. Returns `None` if its file does not exist yet.
pub async fn inspect(settings: &Settings) -> Result<Option<DatabaseFacts>, StoreError> {
    let invalid = |cause| StoreError::Corrupt { store: NAME, cause };
    let url = settings.parse_url().map_err(invalid)?;
    if let DatabaseUrl::Sqlite(path) = &url
        && !path.exists()
    {
        return Ok(None);
    }
    let pools = Pools::new(&url, settings, WriteAccess::None);
    let (timeouts, readiness) = (Timeouts::new(settings.query_timeout), Arc::new(Readiness::ready()));
    let client = SqlClient::new(NAME, url.address().into(), pools, timeouts, readiness);
    let (version, clock) = match url.dialect() {
        Dialect::Sqlite => ("SELECT '' AS version", None),
        Dialect::Postgres => (
            "SELECT version() AS version",
            Some("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) AS now"),
        ),
        Dialect::MySql => (
            "SELECT VERSION() AS version",
            Some("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED) AS now"),
        ),
    };
    let rows = client.fetch(version, &[]).await?;
    let version =
        rows.first().map(|row| row.text("version").map(str::to_owned)).transpose()?.unwrap_or_default();
    let clocks = match clock {
        None => None,
        Some(statement) => {
            let (asked, before) = (Instant::now(), SystemClock.now());
            let rows = client.fetch(statement, &[]).await?;
            let local = before.after(asked.elapsed() / 2);
            rows.first().and_then(|row| row.integer("now").ok()).map(|now| (super::timestamp(now), local))
        }
    };
    let applied = "SELECT MAX(version) AS version FROM latchkey_migrations";
    let applied = if url.dialect() == Dialect::Sqlite {
        applied.replace("latchkey_", "_sqlx_")
    } else {
        applied.into()
    };
    let schema = match client.fetch(&applied, &[]).await.map_err(StoreError::from) {
        Ok(rows) => rows.first().and_then(|row| row.optional_integer("version").ok()).flatten(),
        // The table does not exist yet.
        Err(StoreError::Corrupt { .. }) => None,
        Err(error) => return Err(error),
    };
    let migrations = match url.dialect() {
        Dialect::Sqlite => sqlx::migrate!("src/store/embedded/migrations"),
        Dialect::Postgres => sqlx::migrate!("src/store/sql/migrations/postgres"),
        Dialect::MySql => sqlx::migrate!("src/store/sql/migrations/mysql"),
    };
    let needed_schema = migrations.iter().map(|migration| migration.version).max().unwrap_or_default();
    Ok(Some(DatabaseFacts { address: url.address(), version, schema, needed_schema, clocks }))
}
