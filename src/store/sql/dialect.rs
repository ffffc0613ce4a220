//! The differences between the SQL of the databases.

use std::{fmt::Write as _, time::Duration};

/// Whether a statement only reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
    /// MySQL and MariaDB.
    MySql,
}

impl Dialect {
    /// Translates a statement of Latchkey, which has `?` for a value and `@` before the name of a table. In a
    /// database that may be shared with other programs, the names of the tables get a prefix.
    pub(super) fn translate(self, statement: &str) -> String {
        let mut text = String::with_capacity(statement.len() + 64);
        let mut values = 0;
        for character in statement.chars() {
            match character {
                '@' if self != Self::Sqlite => text.push_str("latchkey_"),
                '@' => {}
                '?' if self == Self::Postgres => {
                    values += 1;
                    // Writing to a String cannot fail.
                    let _ = write!(text, "${values}");
                }
                other => text.push(other),
            }
        }
        text
    }

    /// Returns the statements that begin a transaction, on PostgreSQL with its transaction-scoped settings.
    pub(super) fn begin(self, access: Access, time_limit: Duration) -> String {
        match self {
            // Takes the write lock at once: two transactions that read before they write could not both upgrade.
            Self::Sqlite => "BEGIN IMMEDIATE".into(),
            Self::MySql => "START TRANSACTION".into(),
            Self::Postgres => {
                let mode = if access == Access::Read { "READ ONLY" } else { "READ WRITE" };
                format!(
                    "BEGIN {mode}; SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = 60000",
                    time_limit.as_millis()
                )
            }
        }
    }

    /// Returns the suffix of a SELECT that locks its rows. In SQLite the transaction locks the whole database.
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
