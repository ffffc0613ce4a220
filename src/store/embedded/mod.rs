//! The embedded store: one SQLite file in the data directory, for one process.
//!
//! Write-ahead log and `synchronous = FULL`: what was acknowledged survives the process and the machine.

mod database;
mod registers;
mod sweep;

pub use database::Database;
pub(super) use database::store_error;
pub use registers::EmbeddedRegisters;

/// What messages to the operator call it.
const NAME: &str = "embedded";
