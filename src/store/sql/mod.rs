//! Accounts and callers in an SQL database: SQLite, PostgreSQL, MySQL or MariaDB.
//!
//! Each statement is written once. `session` makes one of the three drivers, `dialect` says what differs.
//! `lookup` reads accounts from a table that is not ours.

mod accounts;
mod callers;
mod dialect;
mod fault;
mod found;
mod import;
mod link;
mod lookup;
mod pools;
mod query;
mod renewal;
mod row;
mod session;
mod start;
mod statement;
mod target;
mod typed;

pub use accounts::SqlAccounts;
pub use callers::SqlCallers;
pub use lookup::{Lookup, LookupAccounts};
pub use target::Settings;

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
