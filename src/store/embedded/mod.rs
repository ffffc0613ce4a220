//! The embedded store: one SQLite file in the data directory, for one process.
//!
//! With a write-ahead log and `synchronous = FULL`, acknowledged commits survive a crash of the process or the
//! machine. One task writes and puts the commits that have arrived into one transaction, so that many logins share a
//! sync of the disk (`make commits` measures it).

mod database;
mod file_identity;
mod peek;
mod registers;
mod sweep;
mod wal;
mod writer;

pub use database::Database;
pub(super) use database::store_error;
pub use peek::has_accounts;
pub use registers::EmbeddedRegisters;

use crate::domain::ports::StoreError;

/// The name of the store in messages.
const NAME: &str = "embedded";

fn unavailable(cause: &str) -> StoreError {
    StoreError::Unavailable { store: NAME, cause: cause.to_owned() }
}

fn query_error(error: &sqlx::Error) -> StoreError {
    store_error(NAME, error)
}
