//! A consistent copy of the database file for a backup, also while a server writes.

use std::{fs::File, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::{NAME, connection::store_error, database::ACQUIRE_TIMEOUT};
use crate::domain::ports::StoreError;

/// Copies everything that was committed before the call, and no half transaction, to `target`, which must be empty.
///
/// `VACUUM INTO` reads in one transaction, so writers do not wait for it. It leaves out deleted rows.
pub fn snapshot(database: &Path, target: &Path) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| store_error(NAME, &error);
    // SQLite needs to write to the -shm file even for reads.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).map_err(failed)?;
    connection.busy_timeout(ACQUIRE_TIMEOUT).map_err(failed)?;
    let target_text =
        target.to_str().ok_or_else(|| super::unavailable("the path of the copy is not UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [target_text]).map_err(failed)?;
    let synced = File::open(target).and_then(|file| file.sync_all());
    synced.map_err(|error| StoreError::Unavailable { store: NAME, cause: error.to_string() })
}

/// Fails unless `path` is an undamaged database of Latchkey. Changes nothing.
pub fn verify(path: &Path) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| store_error(NAME, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    let damage: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if damage != "ok" {
        return Err(StoreError::Corrupt { store: NAME, cause: damage });
    }
    let tables =
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('registers', 'accounts')";
    let found: u32 = connection.query_row(tables, [], |row| row.get(0)).map_err(failed)?;
    if found < 2 {
        let cause = "it is not a database of Latchkey".to_owned();
        return Err(StoreError::Corrupt { store: NAME, cause });
    }
    Ok(())
}
