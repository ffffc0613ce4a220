//! The embedded store: one SQLite file in the data directory, for one process.
//!
//! With a write-ahead log and `synchronous = FULL`, acknowledged commits survive a crash of the process or the
//! machine. One thread writes and puts the commits that have arrived into one transaction, so that many logins share a
//! sync of the disk (`make commits` measures it). Other threads read, and put the reads that have arrived into one
//! transaction. Accounts and callers are read by the same threads and written by a connection of the SQL library.

mod connection;
mod database;
mod file_identity;
mod peek;
mod reader;
mod registers;
mod snapshot;
mod sweep;
mod wal;
mod worker;
mod writer;

pub(super) use database::store_error;
pub use database::{Database, check_wal};
pub use peek::has_accounts;
pub use reader::Rows;
pub use registers::EmbeddedRegisters;
pub use snapshot::{snapshot, verify};

use crate::domain::ports::StoreError;

/// The name of the store in messages.
const NAME: &str = "embedded";

fn unavailable(cause: &str) -> StoreError {
    StoreError::Unavailable { store: NAME, cause: cause.to_owned() }
}
