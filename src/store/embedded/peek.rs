//! A look into a database file that leaves it as it is.

use std::path::Path;

use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{NAME, database::store_error};
use crate::domain::ports::StoreError;

/// Whether a database file has accounts. Makes no file, and no table.
pub async fn has_accounts(path: &Path) -> Result<bool, StoreError> {
    if !path.exists() {
        return Ok(false);
    }
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    // Where there is a log, a server is running or has crashed: then what is in it counts, too. Where there is none,
    // nobody is writing, and SQLite need not make files to look out for that.
    let options =
        SqliteConnectOptions::new().filename(path).read_only(true).immutable(!Path::new(&log).exists());
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
