//! Accounts and callers in an SQL database: SQLite, PostgreSQL, MySQL or MariaDB.
//!
//! Each statement is written once. `session` makes one of the three drivers, `dialect` says what differs.
//! `lookup` reads accounts from a table that is not ours.

mod accounts;
mod callers;
mod client;
mod connect;
mod dialect;
mod error;
mod external_users;
mod import;
mod notices;
mod pools;
mod renewal;
mod row;
mod session;
mod statement;
mod typed;
mod url;
mod user_query;

pub use accounts::SqlAccounts;
pub use callers::SqlCallers;
pub use external_users::{ExternalUsers, Lookup};
pub use url::Settings;

use crate::domain::{Violation, ports::StoreError, types::Timestamp};

/// Microseconds since the epoch, as a column has them.
fn timestamp(column: i64) -> Timestamp {
    Timestamp::from_micros(u64::try_from(column).unwrap_or_default())
}

fn integer(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.as_micros()).unwrap_or(i64::MAX)
}

fn corrupt(store: &'static str, violation: &Violation) -> StoreError {
    StoreError::Corrupt { store, cause: format!("{} {}", violation.field, violation.description) }
}
