//! The database file, with the connections that read it and the one that writes.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rusqlite::types::Value;
use sqlx::{
    ConnectOptions as _, Connection as _, SqlitePool,
    migrate::MigrateError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    NAME, Rows,
    connection::{Access, ThreadConnection},
    file_identity::FileIdentity,
    reader::{Loaded, Reader},
    unavailable,
    wal::{self, Damage},
    writer::Writer,
};
use crate::domain::ports::{Clock, StoreError};

/// The longest wait for a connection, or for another process that is writing.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest wait for another process that opens the database, and may migrate it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/embedded/migrations");

/// The embedded database.
///
/// SQLite lets one connection write at a time. Others have to poll until the lock is free, and under load some of
/// them starve. So the two that write, one for registers and events and one for everything else, take turns by
/// `writing`, a lock with a queue. The pool replaces a connection whose thread has died.
#[derive(Clone)]
pub struct Database {
    /// The connection that writes accounts and callers.
    pub writer: SqlitePool,
    /// Held while a connection writes.
    writing: Arc<Mutex<()>>,
    pub(super) reader: Arc<Reader>,
    register_writer: Arc<ThreadConnection>,
    identity: Arc<FileIdentity>,
}

impl Database {
    /// Opens the database file; creates or migrates it if needed.
    ///
    /// The file holds password hashes, so only its owner may read it. SQLite gives the -wal file the same mode.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let _lock = lock(&path.with_extension("db-lock")).await?;
        open_private(path)?;
        check_wal(&path.with_extension("db-wal"))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(ACQUIRE_TIMEOUT)
            .foreign_keys(true)
            // Slow statements only mean a slow disk.
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // The -wal file exists as long as a connection is open.
            .max_lifetime(None)
            .idle_timeout(None)
            // The pool already tests a connection when it is returned, which is enough for a thread.
            .test_before_acquire(false)
            // SQLite rolls back by itself when the disk is full, but the client library still believes in the
            // transaction: such a connection could never begin another.
            .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            .connect_with(options)
            .await
            .map_err(|error| open_error(&error))?;
        MIGRATIONS.run(&writer).await.map_err(|error| migration_error(&error))?;
        let identity = Arc::new(FileIdentity::of(path).map_err(|error| unavailable(&error.to_string()))?);
        let reader = Arc::new(Reader::new(&identity));
        let register_writer = Arc::new(ThreadConnection::new(Access::Write, Arc::clone(&identity)));
        Ok(Self { writer, writing: Arc::default(), reader, register_writer, identity })
    }

    /// Waits until nobody else writes. The guard is held until the write has been committed or rolled back.
    pub(in crate::store) async fn begin_writing(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        let turn = timeout(ACQUIRE_TIMEOUT, Arc::clone(&self.writing).lock_owned()).await;
        turn.map_err(|_| unavailable("another write takes too long"))
    }

    /// Runs a SELECT with `?` for values, and returns its rows. `store` is named in errors.
    pub(in crate::store) async fn query(
        &self,
        store: &'static str,
        sql: String,
        values: Vec<Value>,
    ) -> Result<Rows, StoreError> {
        self.verify_file()?;
        self.reader.query(store, sql, values).await
    }

    /// Loads registers. The results are in the order of the keys.
    pub(super) async fn load(&self, keys: Vec<String>) -> Vec<Loaded> {
        if let Err(error) = self.verify_file() {
            return vec![Err(error); keys.len()];
        }
        self.reader.load(keys).await
    }

    /// Returns the writer of registers and events. There can be only one.
    pub(super) fn register_writer(&self, clock: Arc<dyn Clock>) -> Writer {
        Writer::new(&self.register_writer, &self.writing, &self.identity, clock)
    }

    /// Runs `work` with the connection that writes registers and events, for tests.
    #[doc(hidden)]
    pub fn with_register_writer<T>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> T,
    ) -> Result<T, StoreError> {
        self.register_writer.with(work)
    }

    /// Fails if the file was deleted or replaced after it was opened.
    pub fn verify_file(&self) -> Result<(), StoreError> {
        self.identity.verify()
    }

    /// Closes every connection, which moves the contents of the -wal file into the database file.
    pub async fn close(&self) {
        self.reader.close();
        self.register_writer.close();
        self.writer.close().await;
    }
}

/// Opens a file that only its owner may read; creates it if needed.
fn open_private(path: &Path) -> Result<File, StoreError> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    opened.map_err(|error| unavailable(&error.to_string()))
}

/// Waits until no other process opens the database. SQLite would not wait for one that changes the journal mode or
/// migrates, but fail.
async fn lock(path: &Path) -> Result<File, StoreError> {
    let file = open_private(path)?;
    let locking = spawn_blocking(move || file.lock().map(|()| file));
    match timeout(OPEN_TIMEOUT, locking).await {
        Ok(Ok(Ok(file))) => Ok(file),
        Ok(Ok(Err(error))) => Err(unavailable(&format!("cannot lock {}: {error}", path.display()))),
        Ok(Err(panic)) => Err(unavailable(&panic.to_string())),
        Err(_) => Err(unavailable(&format!("another process has locked {}: end it", path.display()))),
    }
}

/// Fails if the -wal file is damaged: SQLite would silently drop everything behind the damage. No server may write to it
/// meanwhile.
pub fn check_wal(path: &Path) -> Result<(), StoreError> {
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
