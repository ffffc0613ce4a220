//! Reads a database file without changing it.

use std::path::Path;

use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{NAME, database::store_error};
use crate::domain::ports::StoreError;

/// Whether a database file has accounts. Creates neither the file nor a table.
pub async fn has_accounts(path: &Path) -> Result<bool, StoreError> {
    if !path.exists() {
        return Ok(false);
    }
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    // If there is a -wal file, a server is running or has crashed, and the contents of that file count, too.
    // Otherwise nobody writes, and `immutable` keeps SQLite from creating files to coordinate with writers.
    let options =
        SqliteConnectOptions::new().filename(path).read_only(true).immutable(!Path::new(&wal).exists());
    let failed = |error| store_error(NAME, &error);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(failed)?;
    let table = sqlx::query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'accounts'");
    let has_table = table.fetch_optional(&mut connection).await.map_err(failed)?.is_some();
    let any = has_table && {
        let account = sqlx::query("SELECT 1 FROM accounts LIMIT 1");
        account.fetch_optional(&mut connection).await.map_err(failed)?.is_some()
    };
    let _ = connection.close().await;
    Ok(any)
}
