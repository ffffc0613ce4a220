//! The database file, with the connections that read it and the one that writes.

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

/// The longest wait for a connection, or for another process that is writing.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
const READERS: u32 = 4;

/// The rows and results that a connection buffers before it waits for the task that reads them: more than a
/// transaction of the writer has.
const ROW_BUFFER: usize = 1024;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/embedded/migrations");

/// The embedded database.
///
/// SQLite lets one connection write at a time. Others have to poll until the lock is free, and under load some of
/// them starve. So all writes go through `writer`, a pool of one connection with a queue in front of it. Both pools
/// replace a connection whose thread has died.
#[derive(Clone)]
pub struct Database {
    /// The read-only connections.
    pub readers: SqlitePool,
    /// The only connection that writes.
    pub writer: SqlitePool,
    identity: Arc<FileIdentity>,
}

impl Database {
    /// Opens the database file; creates or migrates it if needed.
    ///
    /// The file holds password hashes, so only its owner may read it. SQLite gives the -wal file the same mode.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let unavailable =
            |error: std::io::Error| StoreError::Unavailable { store: NAME, cause: error.to_string() };
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(unavailable)?;
        check_wal(&path.with_extension("db-wal"))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(ACQUIRE_TIMEOUT)
            .foreign_keys(true)
            .row_buffer_size(ROW_BUFFER);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                // The -wal file exists as long as a connection is open.
                .max_lifetime(None)
                .idle_timeout(None)
                // The pool already tests a connection when it is returned, which is enough for a thread.
                .test_before_acquire(false)
                // SQLite rolls back by itself when the disk is full, but the client library still believes in the
                // transaction: such a connection could never begin another.
                .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
        };

        // Statements of the writer are long, and slow ones only mean a slow disk.
        let writer_options = options.clone().disable_statement_logging();
        let writer = pool(1).connect_with(writer_options).await.map_err(|error| open_error(&error))?;
        MIGRATIONS.run(&writer).await.map_err(|error| migration_error(&error))?;
        let readers = pool(READERS)
            .connect_with(options.pragma("query_only", "on"))
            .await
            .map_err(|error| open_error(&error))?;
        let identity = Arc::new(FileIdentity::of(path).map_err(unavailable)?);
        Ok(Self { readers, writer, identity })
    }

    /// Fails if the file was deleted or replaced after it was opened.
    pub fn verify_file(&self) -> Result<(), StoreError> {
        self.identity.verify()
    }

    /// Fails if the last commit is lost with the file or its -wal file. It has to be called before the commit is
    /// acknowledged.
    pub(super) fn verify_commit(&self) -> Result<(), StoreError> {
        self.identity.verify_commit()
    }

    /// Closes every connection, which moves the contents of the -wal file into the database file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Fails if the -wal file is damaged: SQLite would silently drop everything behind the damage.
fn check_wal(path: &Path) -> Result<(), StoreError> {
    let name = path.display();
    let damage = match wal::find_damage(path) {
        Ok(None) => return Ok(()),
        Ok(Some(Damage::Header)) => "its header is invalid".to_owned(),
        Ok(Some(Damage::Frame { number, transactions_behind })) => {
            format!(
                "frame {number} is invalid, and SQLite would drop at least {transactions_behind} transactions behind it"
            )
        }
        Err(error) => {
            let cause = format!("cannot read {name}: {error}");
            return Err(StoreError::Unavailable { store: NAME, cause });
        }
    };
    let cause = format!(
        "{name}, which holds the latest changes, is damaged ({damage}): restore the whole directory from a backup, or \
         move this file away to continue without these changes"
    );
    Err(StoreError::Corrupt { store: NAME, cause })
}

/// Converts an error of SQLite.
pub(crate) fn store_error(store: &'static str, error: &sqlx::Error) -> StoreError {
    let cause = error.to_string();
    // The primary result code is the low byte of the extended one.
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    let is_decode_error = matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
    match code.map(|code| code & 0xff) {
        // SQLITE_CORRUPT, SQLITE_NOTADB
        Some(11 | 26) => StoreError::Corrupt { store, cause },
        _ if is_decode_error => StoreError::Corrupt { store, cause },
        _ => StoreError::Unavailable { store, cause },
    }
}

/// Converts an error of opening the file, and adds what an operator can do about damage.
fn open_error(error: &sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code().map(Cow::into_owned));
    match store_error(NAME, error) {
        // SQLITE_IOERR_SHORT_READ: the file is shorter than its header says.
        StoreError::Unavailable { store, cause } if code.as_deref() == Some("522") => damaged(store, &cause),
        StoreError::Corrupt { store, cause } => damaged(store, &cause),
        unavailable @ StoreError::Unavailable { .. } => unavailable,
    }
}

fn damaged(store: &'static str, cause: &str) -> StoreError {
    let cause = format!(
        "the file is damaged or not an SQLite database ({cause}): restore it from a backup, or move it away to start \
         with an empty one"
    );
    StoreError::Corrupt { store, cause }
}

fn migration_error(error: &MigrateError) -> StoreError {
    let corrupt = |cause: String| StoreError::Corrupt { store: NAME, cause };
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => open_error(error),
        MigrateError::VersionMissing(version) => corrupt(format!(
            "it was written by a newer version of Latchkey (its schema has version {version}): start that version"
        )),
        other => corrupt(other.to_string()),
    }
}
