//! Accounts and callers in an SQL database: SQLite, PostgreSQL, MySQL or MariaDB.
//!
//! Each statement is written once: `dialect` translates it, and `session` runs it on the driver of the database.
//! `external_users` reads accounts from a table of another system.

mod account_row;
mod accounts;
mod callers;
mod client;
mod connect;
mod dialect;
mod error;
mod external_users;
mod import;
mod inspection;
mod notices;
mod pools;
mod readiness;
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
pub use inspection::{DatabaseFacts, inspect};
pub use url::Settings;

use crate::domain::{Violation, ports::StoreError, types::Timestamp};

fn timestamp(column: i64) -> Timestamp {
    Timestamp::from_micros(u64::try_from(column).unwrap_or_default())
}

fn integer(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.as_micros()).unwrap_or(i64::MAX)
}

fn corrupt(store: &'static str, violation: &Violation) -> StoreError {
    StoreError::Corrupt { store, cause: format!("{} {}", violation.field, violation.description) }
}
