//! The database file: the connections that read it, and the one that writes.

use std::{
    borrow::Cow, fs::OpenOptions, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc, time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, SqlitePool,
    migrate::MigrateError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    NAME,
    file_identity::FileIdentity,
    wal::{self, Damage},
};
use crate::domain::ports::StoreError;

/// How long to wait for a connection, and for another process that is writing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that read.
const READERS: u32 = 4;

/// Rows and results that a connection has ready before it waits for them to be taken: more than what is asked for
/// together has.
const ROWS: usize = 1024;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/embedded/migrations");

/// The embedded database.
///
/// SQLite lets one connection write at a time. Others would have to poll until they happen to find it
/// free, and under load some of them never do. So everybody writes through `writer`, a pool of one
/// connection, in front of which they queue. Both pools replace a connection that has died.
#[derive(Clone)]
pub struct Database {
    /// Connections that can only read.
    pub readers: SqlitePool,
    /// The one connection that writes.
    pub writer: SqlitePool,
    place: Arc<FileIdentity>,
}

impl Database {
    /// Opens the database file, and creates or upgrades it where needed.
    ///
    /// It holds password hashes, so only we can read it: SQLite gives its log the mode of the file.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let unavailable =
            |error: std::io::Error| StoreError::Unavailable { store: NAME, cause: error.to_string() };
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(unavailable)?;
        look_for_damage(&path.with_extension("db-wal"))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE)
            .foreign_keys(true)
            .row_buffer_size(ROWS);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(PATIENCE)
                // The log of the database stays for as long as one is open.
                .max_lifetime(None)
                .idle_timeout(None)
                // Each is asked whether it still lives when it is given back, which is enough for a thread.
                .test_before_acquire(false)
                // SQLite ends a transaction by itself where the disk is full, and the client library goes
                // on believing in it: such a connection would never begin another.
                .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
        };

        // Its statements are long, and how long the disk takes is no matter of theirs.
        let writing = options.clone().disable_statement_logging();
        let writer = pool(1).connect_with(writing).await.map_err(|error| refused(&error))?;
        MIGRATIONS.run(&writer).await.map_err(|error| not_ours(&error))?;
        let readers = pool(READERS)
            .connect_with(options.pragma("query_only", "on"))
            .await
            .map_err(|error| refused(&error))?;
        let place = Arc::new(FileIdentity::of(path).map_err(unavailable)?);
        Ok(Self { readers, writer, place })
    }

    /// Fails where the file was deleted or replaced since it was opened.
    pub fn must_be_in_place(&self) -> Result<(), StoreError> {
        self.place.check()
    }

    /// Fails where what was just committed is gone with the file or its log: to be called before it is acknowledged.
    pub(super) fn must_hold_commit(&self) -> Result<(), StoreError> {
        self.place.check_commit()
    }

    /// Closes every connection, which writes what is in the log of the database into its file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Fails where the log of the database is damaged: SQLite would go on without what is behind the damage.
fn look_for_damage(log: &Path) -> Result<(), StoreError> {
    let name = log.display();
    let what = match wal::damage(log) {
        Ok(None) => return Ok(()),
        Ok(Some(Damage::Header)) => "its header is not one".to_owned(),
        Ok(Some(Damage::Frame { number, lost })) => {
            format!("behind frame {number} there are at least {lost} transactions that cannot be read")
        }
        Err(error) => {
            let cause = format!("cannot read {name}: {error}");
            return Err(StoreError::Unavailable { store: NAME, cause });
        }
    };
    let cause = format!(
        "{name}, which holds the latest changes, is damaged ({what}): restore the whole directory from a backup, or \
         move this file away to go on without the changes in it"
    );
    Err(StoreError::Corrupt { store: NAME, cause })
}

/// What an error of SQLite means to the rules.
pub(crate) fn store_error(store: &'static str, error: &sqlx::Error) -> StoreError {
    let cause = error.to_string();
    // The primary result code is the low byte of the extended one.
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    let undecodable = matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
    match code.map(|code| code & 0xff) {
        // SQLITE_CORRUPT, SQLITE_NOTADB
        Some(11 | 26) => StoreError::Corrupt { store, cause },
        _ if undecodable => StoreError::Corrupt { store, cause },
        _ => StoreError::Unavailable { store, cause },
    }
}

/// As [`store_error`], with what an operator can do about it at the start.
fn refused(error: &sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code().map(Cow::into_owned));
    match store_error(NAME, error) {
        // SQLITE_IOERR_SHORT_READ: the file is shorter than it says.
        StoreError::Unavailable { store, cause } if code.as_deref() == Some("522") => damaged(store, &cause),
        StoreError::Corrupt { store, cause } => damaged(store, &cause),
        unavailable @ StoreError::Unavailable { .. } => unavailable,
    }
}

fn damaged(store: &'static str, cause: &str) -> StoreError {
    let cause = format!(
        "the file is damaged or no database ({cause}): restore it from a backup, or move it away to begin with an empty one"
    );
    StoreError::Corrupt { store, cause }
}

fn not_ours(error: &MigrateError) -> StoreError {
    let corrupt = |cause: String| StoreError::Corrupt { store: NAME, cause };
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => refused(error),
        MigrateError::VersionMissing(version) => corrupt(format!(
            "it was written by a newer version of Latchkey (its schema is number {version}): start that version"
        )),
        other => corrupt(other.to_string()),
    }
}
