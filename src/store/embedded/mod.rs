//! The embedded store: one SQLite file in the data directory, for one process.
//!
//! Write-ahead log and `synchronous = FULL`: what was acknowledged survives the process and the machine.

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

/// What messages to the operator call it.
const NAME: &str = "embedded";

fn unavailable(cause: &str) -> StoreError {
    StoreError::Unavailable { store: NAME, cause: cause.to_owned() }
}

fn failed(error: &sqlx::Error) -> StoreError {
    store_error(NAME, error)
}
