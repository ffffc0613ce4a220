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
pub(super) enum Fault {
    /// Somebody else was at the same rows at the same time. Begin the transaction again.
    Collision(StoreError),
    /// The statement is nothing for this database, or nothing for a connection that can only read.
    Refused(StoreError),
    /// Anything else.
    Failed(StoreError),
}

impl Fault {
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
            // SQLITE_ERROR: its grammar or its tables; SQLITE_READONLY.
            Judgement::Embedded if matches!(database.code().as_deref(), Some("1" | "8")) => {
                Self::Refused(store_error(store, error))
            }
            Judgement::Embedded => Self::Failed(store_error(store, error)),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Collision(error) | Fault::Refused(error) | Fault::Failed(error) => error,
        }
    }
}

/// How often a transaction has been begun.
#[derive(Default)]
pub(super) struct Attempts(u32);

impl Attempts {
    /// Waits before the next attempt; the error, where there is to be none.
    pub(super) async fn again(&mut self, fault: Fault) -> Result<(), StoreError> {
        self.0 += 1;
        match fault {
            Fault::Collision(_) if self.0 < ATTEMPTS => {
                let ceiling = PAUSE << self.0.min(5);
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..ceiling))).await;
                Ok(())
            }
            Fault::Collision(error) | Fault::Refused(error) | Fault::Failed(error) => Err(error),
        }
    }
}

/// Whether another connection could do better: a statement that was prepared on this one no longer fits its
/// table, or the server has become a stand-by since.
pub(super) fn is_of_connection(error: &dyn DatabaseError) -> bool {
    matches!(error.code().as_deref(), Some("0A000" | "25006" | "26000"))
}

enum Judgement {
    Collision,
    /// Something was to be written where we can only read: a stand-by that has taken over for reading.
    ReadOnly,
    /// Later it can be different.
    Passing,
    /// It is the schema, the rows or the permissions.
    Lasting,
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
