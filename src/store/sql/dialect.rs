//! What differs between the databases, as far as statements are concerned: little.

use std::{fmt::Write as _, time::Duration};

use super::client::Purpose;

/// Which SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
    /// MySQL and MariaDB.
    MySql,
}

impl Dialect {
    /// A statement of ours in this dialect. It is written with `?` for a value, and with `@` before the name
    /// of a table: in a database that we share with others our tables have a prefix.
    pub(super) fn translate(self, statement: &str) -> String {
        let mut text = String::with_capacity(statement.len() + 64);
        let mut values = 0;
        for character in statement.chars() {
            match character {
                '@' if self != Self::Sqlite => text.push_str("latchkey_"),
                '@' => {}
                '?' if self == Self::Postgres => {
                    values += 1;
                    // Writing to a String does not fail.
                    let _ = write!(text, "${values}");
                }
                other => text.push(other),
            }
        }
        text
    }

    /// Begins a transaction. On PostgreSQL with what holds for every statement in it, for as long as it lasts.
    pub(super) fn begin(self, purpose: Purpose, limit: Duration) -> String {
        match self {
            // Two that read before they write would otherwise fail each other.
            Self::Sqlite => "BEGIN IMMEDIATE".into(),
            Self::MySql => "START TRANSACTION".into(),
            Self::Postgres => {
                let mode = if purpose == Purpose::Read { "READ ONLY" } else { "READ WRITE" };
                format!(
                    "BEGIN {mode}; SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = 60000",
                    limit.as_millis()
                )
            }
        }
    }

    /// What a SELECT ends with that holds its rows for the transaction. In SQLite the transaction holds all.
    pub(super) const fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres | Self::MySql => " FOR UPDATE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dialect;

    #[test]
    fn one_statement_serves_three_databases() {
        let statement = "UPDATE @accounts SET roles = ? WHERE user_id = ?";
        assert_eq!(Dialect::Sqlite.translate(statement), "UPDATE accounts SET roles = ? WHERE user_id = ?");
        assert_eq!(
            Dialect::Postgres.translate(statement),
            "UPDATE latchkey_accounts SET roles = $1 WHERE user_id = $2"
        );
        assert_eq!(
            Dialect::MySql.translate(statement),
            "UPDATE latchkey_accounts SET roles = ? WHERE user_id = ?"
        );
    }
}
