//! Classifies the errors of the databases.

use std::time::Duration;

use sqlx::{
    error::{DatabaseError, ErrorKind},
    mysql::MySqlDatabaseError,
    postgres::PgDatabaseError,
};

use crate::{domain::ports::StoreError, store::embedded::store_error};

/// The most attempts of a transaction that conflicts with others.
const MAX_ATTEMPTS: u32 = 10;
/// The longest delay before the second attempt, in milliseconds; it doubles each time.
const BACKOFF_MILLIS: u64 = 4;

/// An error of a statement.
#[derive(Debug)]
pub(super) enum SqlError {
    /// The transaction conflicted with another one and can be repeated.
    Conflict(StoreError),
    /// The database cannot execute the statement: it is invalid or not permitted, or it writes on a read-only server.
    Statement(StoreError),
    /// A character set cannot represent a character: one of a value, so that no row matches it, or one in a row.
    Characters {
        in_row: bool,
        error: StoreError,
    },
    Other(StoreError),
}

impl SqlError {
    pub(super) fn new(store: &'static str, error: &sqlx::Error) -> Self {
        let Some(database_error) = error.as_database_error() else {
            return Self::Other(store_error(store, error));
        };
        let cause = describe(database_error);
        match classify(database_error) {
            Class::Conflict => Self::Conflict(StoreError::Unavailable { store, cause }),
            Class::ReadOnly => Self::Statement(StoreError::Unavailable { store, cause }),
            Class::Transient => Self::Other(StoreError::Unavailable { store, cause }),
            Class::Permanent => Self::Statement(StoreError::Corrupt { store, cause }),
            Class::Characters { in_row } => {
                Self::Characters { in_row, error: StoreError::Corrupt { store, cause } }
            }
            // SQLITE_ERROR (invalid SQL, missing table), SQLITE_READONLY.
            Class::Sqlite if matches!(database_error.code().as_deref(), Some("1" | "8")) => {
                Self::Statement(store_error(store, error))
            }
            Class::Sqlite => Self::Other(store_error(store, error)),
        }
    }
}

impl SqlError {
    /// Whether the statement names a table that does not exist.
    pub(super) fn is_missing_table(&self) -> bool {
        // The SQLSTATE of PostgreSQL and that of MySQL, as `describe` writes them.
        let says_so = |cause: &str| cause.ends_with("(42P01)") || cause.ends_with("(42S02)");
        matches!(self, Self::Statement(StoreError::Corrupt { cause, .. }) if says_so(cause))
    }
}

impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

impl From<SqlError> for StoreError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Conflict(error)
            | SqlError::Statement(error)
            | SqlError::Characters { error, .. }
            | SqlError::Other(error) => error,
        }
    }
}

/// Prefixes a message with the address of the server, if there is one.
pub(super) fn with_address(address: &str, cause: &str) -> String {
    if address.is_empty() { cause.to_owned() } else { format!("{address}: {cause}") }
}

/// Limits and delays the attempts of a transaction.
#[derive(Default)]
pub(super) struct Retries {
    attempts: u32,
}

impl Retries {
    /// Waits before the next attempt after a conflict. Fails with any other error, or if there were too many
    /// attempts.
    pub(super) async fn wait(&mut self, error: SqlError) -> Result<(), StoreError> {
        self.attempts += 1;
        match error {
            SqlError::Conflict(_) if self.attempts < MAX_ATTEMPTS => {
                let max_delay = BACKOFF_MILLIS << self.attempts.min(5);
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..max_delay))).await;
                Ok(())
            }
            error => Err(error.into()),
        }
    }
}

/// Whether a new connection may help, because the server of this one has become a read-only standby.
pub(super) fn needs_new_connection(error: &dyn DatabaseError) -> bool {
    matches!(error.code().as_deref(), Some("0A000" | "25006"))
}

/// Whether PostgreSQL has dropped a prepared statement before it was executed.
pub(super) fn is_statement_dropped(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| error.code() == "26000")
}

enum Class {
    Conflict,
    /// A write on a read-only server, such as a standby.
    ReadOnly,
    /// A later attempt may succeed.
    Transient,
    /// An operator has to change the schema, the rows or the permissions.
    Permanent,
    Characters {
        in_row: bool,
    },
    /// An error of SQLite, which has no SQLSTATE.
    Sqlite,
}

fn classify(error: &dyn DatabaseError) -> Class {
    if error.kind() == ErrorKind::UniqueViolation {
        return Class::Conflict;
    }
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return classify_sqlstate(error.code());
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return match error.number() {
            // Deadlock.
            1213 => Class::Conflict,
            // Incompatible collations, a string that is invalid in its character set, a character that cannot be
            // converted (MariaDB; MySQL).
            1267 | 1300 | 1366 | 1977 | 3854 | 3988 => Class::Characters { in_row: false },
            // No access to the database, unknown database, too many connections of one user, a resource limit.
            1044 | 1049 | 1203 | 1226 => Class::Transient,
            _ => classify_sqlstate(error.code().unwrap_or_default()),
        };
    }
    Class::Sqlite
}

/// Classifies an error by the class of its SQLSTATE (ISO/IEC 9075-2, chapter "Status codes").
fn classify_sqlstate(state: &str) -> Class {
    match state.get(..2).unwrap_or_default() {
        // Transaction rollback.
        "40" => Class::Conflict,
        "22" if state == "22P05" => Class::Characters { in_row: false },
        // Values are always valid UTF-8, so the invalid bytes are in a row: the database has the encoding SQL_ASCII.
        "22" if state == "22021" => Class::Characters { in_row: true },
        // Data exception, integrity constraint violation, syntax error or access rule violation.
        "22" | "23" | "42" => Class::Permanent,
        _ => match state {
            "25006" => Class::ReadOnly,
            // PostgreSQL: a damaged file, a damaged index.
            "XX001" | "XX002" => Class::Permanent,
            _ => Class::Transient,
        },
    }
}

/// Returns the message with its code, without the detail, in which PostgreSQL shows values of the row.
fn describe(error: &dyn DatabaseError) -> String {
    match error.code() {
        Some(code) => format!("{} ({code})", error.message()),
        None => error.message().to_owned(),
    }
}
