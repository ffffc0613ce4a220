//! A connection of a thread that runs SQLite.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{NAME, database::ACQUIRE_TIMEOUT, file_identity::FileIdentity, unavailable};
use crate::domain::ports::StoreError;

/// More statements than Latchkey has.
const PREPARED_STATEMENTS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// The connection of a thread. It is opened when it is used.
pub(super) struct ThreadConnection {
    access: Access,
    identity: Arc<FileIdentity>,
    state: Mutex<State>,
}

enum State {
    /// `None` before the first use, and after a use that has failed badly.
    Open(Option<Connection>),
    Closed,
}

impl ThreadConnection {
    pub(super) const fn new(access: Access, identity: Arc<FileIdentity>) -> Self {
        Self { access, identity, state: Mutex::new(State::Open(None)) }
    }

    /// Runs `work` with the connection.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Connection) -> T) -> Result<T, StoreError> {
        let mut state = self.state();
        let State::Open(connection) = &mut *state else { return Err(unavailable("the database is closed")) };
        // Taken out, so that a panic drops it and the next use opens another.
        let used = match connection.take() {
            Some(connection) => connection,
            None => self.open()?,
        };
        let result = work(&used);
        // A connection that is stuck in a transaction could not begin another; dropping it rolls back.
        if used.is_autocommit() {
            *connection = Some(used);
        }
        Ok(result)
    }

    /// Closes the connection for good, once it is not in use.
    pub(super) fn close(&self) {
        *self.state() = State::Closed;
    }

    fn open(&self) -> Result<Connection, StoreError> {
        let connection =
            open(self.identity.path(), self.access).map_err(|error| store_error(NAME, &error))?;
        // The path may name another file by now.
        self.identity.verify_now()?;
        Ok(connection)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path, access: Access) -> rusqlite::Result<Connection> {
    // SQLite needs to write to the -shm file even for reads.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    connection.busy_timeout(ACQUIRE_TIMEOUT)?;
    match access {
        Access::Read => connection.pragma_update(None, "query_only", true)?,
        Access::Write => connection.pragma_update(None, "synchronous", "FULL")?,
    }
    Ok(connection)
}

/// Converts an error of SQLite.
pub(super) fn store_error(store: &'static str, error: &rusqlite::Error) -> StoreError {
    let cause = error.to_string();
    let is_corrupt = match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        }
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        _ => false,
    };
    if is_corrupt { StoreError::Corrupt { store, cause } } else { StoreError::Unavailable { store, cause } }
}
