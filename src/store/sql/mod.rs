//! Accounts in an SQL database.

mod accounts;

pub use accounts::SqliteAccounts;
