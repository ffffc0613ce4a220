//! What an error of a database means.

use std::time::Duration;

use sqlx::{
    error::{DatabaseError, ErrorKind},
    mysql::MySqlDatabaseError,
    postgres::PgDatabaseError,
};

use crate::{domain::ports::StoreError, store::embedded::store_error};

/// A transaction is begun again this often.
const ATTEMPTS: u32 = 10;
/// The longest wait before the second attempt, in milliseconds; it doubles each time.
const PAUSE: u64 = 4;

/// Why a statement failed.
#[derive(Debug)]
pub(super) enum SqlError {
    /// Somebody else was at the same rows at the same time. Begin the transaction again.
    Collision(StoreError),
    /// The statement is nothing for this database, or nothing for a connection that can only read.
    Refused(StoreError),
    /// A value has characters that the database, or the column that it is compared with, does not have: it is in no
    /// row. Or, `of_row`, a row has some that cannot be told in UTF-8.
    Characters { of_row: bool, error: StoreError },
    /// Anything else.
    Failed(StoreError),
}

impl SqlError {
    /// What `error` means.
    pub(super) fn new(store: &'static str, error: &sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return Self::Failed(store_error(store, error));
        };
        let cause = describe(database);
        match judge(database) {
            Judgement::Collision => Self::Collision(StoreError::Unavailable { store, cause }),
            Judgement::ReadOnly => Self::Refused(StoreError::Unavailable { store, cause }),
            Judgement::Passing => Self::Failed(StoreError::Unavailable { store, cause }),
            Judgement::Lasting => Self::Refused(StoreError::Corrupt { store, cause }),
            Judgement::Characters { of_row } => {
                Self::Characters { of_row, error: StoreError::Corrupt { store, cause } }
            }
            // SQLITE_ERROR: its grammar or its tables; SQLITE_READONLY.
            Judgement::Embedded if matches!(database.code().as_deref(), Some("1" | "8")) => {
                Self::Refused(store_error(store, error))
            }
            Judgement::Embedded => Self::Failed(store_error(store, error)),
        }
    }
}

impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<SqlError> for StoreError {
    fn from(fault: SqlError) -> Self {
        match fault {
            SqlError::Collision(error)
            | SqlError::Refused(error)
            | SqlError::Characters { error, .. }
            | SqlError::Failed(error) => error,
        }
    }
}

/// How often a transaction has been begun.
#[derive(Default)]
pub(super) struct Attempts(u32);

impl Attempts {
    /// Waits before the next attempt; the error, where there is to be none.
    pub(super) async fn again(&mut self, fault: SqlError) -> Result<(), StoreError> {
        self.0 += 1;
        match fault {
            SqlError::Collision(_) if self.0 < ATTEMPTS => {
                let ceiling = PAUSE << self.0.min(5);
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..ceiling))).await;
                Ok(())
            }
            fault => Err(fault.into()),
        }
    }
}

/// Whether another connection could do better: the server has become a stand-by since.
pub(super) fn is_of_connection(error: &dyn DatabaseError) -> bool {
    matches!(error.code().as_deref(), Some("0A000" | "25006"))
}

/// Whether PostgreSQL has forgotten a statement before it was executed.
pub(super) fn is_forgotten(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| error.code() == "26000")
}

enum Judgement {
    Collision,
    /// Something was to be written where we can only read: a stand-by that has taken over for reading.
    ReadOnly,
    /// Later it can be different.
    Passing,
    /// It is the schema, the rows or the permissions.
    Lasting,
    /// It is characters.
    Characters {
        of_row: bool,
    },
    /// SQLite has codes of its own.
    Embedded,
}

fn judge(error: &dyn DatabaseError) -> Judgement {
    if error.kind() == ErrorKind::UniqueViolation {
        return Judgement::Collision;
    }
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return by_state(error.code());
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return match error.number() {
            // Deadlock.
            1213 => Judgement::Collision,
            // Two collations that cannot be compared, a string that is none of its character set, a character that
            // cannot be converted (MariaDB; MySQL).
            1267 | 1300 | 1366 | 1977 | 3854 | 3988 => Judgement::Characters { of_row: false },
            // No access to the database, unknown database, too many connections of one user, a limit.
            1044 | 1049 | 1203 | 1226 => Judgement::Passing,
            _ => by_state(error.code().unwrap_or_default()),
        };
    }
    Judgement::Embedded
}

/// By the class of the SQLSTATE (ISO/IEC 9075-2, chapter "Status codes").
fn by_state(state: &str) -> Judgement {
    match state.get(..2).unwrap_or_default() {
        // Transaction rollback.
        "40" => Judgement::Collision,
        "22" if state == "22P05" => Judgement::Characters { of_row: false },
        // What we send is UTF-8, so it is what we are sent: from a database whose characters are anybody's guess.
        "22" if state == "22021" => Judgement::Characters { of_row: true },
        // Data exception, integrity constraint violation, syntax error or access rule violation.
        "22" | "23" | "42" => Judgement::Lasting,
        _ => match state {
            "25006" => Judgement::ReadOnly,
            // PostgreSQL: a damaged file, a damaged index.
            "XX001" | "XX002" => Judgement::Lasting,
            _ => Judgement::Passing,
        },
    }
}

/// The message with its code. Not the detail: PostgreSQL shows values of the row there.
fn describe(error: &dyn DatabaseError) -> String {
    match error.code() {
        Some(code) => format!("{} ({code})", error.message()),
        None => error.message().to_owned(),
    }
}
