//! A connection that is borrowed from the pool for one statement or one transaction.
//!
//! The library has separate types for each database. This file unifies them, so that each statement is written once.
//!
//! On PostgreSQL every statement runs in a transaction with transaction-scoped settings and unnamed prepared
//! statements. A pooler in transaction mode (pgbouncer with `pool_mode = transaction`) may therefore sit in between:
//! no session state is left on a server connection that others use next, and none is expected there.

use std::{sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection as _, Either, Executor as _, MySql, PgConnection, Postgres, Row as _,
    SqlSafeStr as _, Sqlite, Statement as _, mysql::MySqlQueryResult, pool::PoolConnection,
    postgres::PgQueryResult, sqlite::SqliteQueryResult,
};
use tokio::{
    runtime::Handle,
    time::{error::Elapsed, timeout},
};

use super::{
    client::{Description, Limits, Purpose, at},
    dialect::Dialect,
    error::{self, SqlError},
    row::{Row, Value},
};
use crate::domain::ports::StoreError;

/// Does the same with each database.
macro_rules! each {
    ($kind:ident, $value:expr, $inner:ident => $body:expr) => {
        match $value {
            $kind::Sqlite($inner) => $body,
            $kind::Postgres($inner) => $body,
            $kind::MySql($inner) => $body,
        }
    };
}

/// Binds values to a query of any database.
macro_rules! bind {
    ($query:expr, $values:expr) => {{
        let mut query = $query;
        for value in $values {
            query = match *value {
                Value::Text(text) => query.bind(text),
                Value::Bytes(bytes) => query.bind(bytes),
                Value::Integer(integer) => query.bind(integer),
                Value::Optional(integer) => query.bind(integer),
                Value::Bool(boolean) => query.bind(boolean),
                Value::Typed(typed) => query.bind(typed),
            };
        }
        query
    }};
}

pub(super) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
    MySql(PoolConnection<MySql>),
}

/// A connection, from the pool and back.
///
/// It goes back only if it is known to be idle. One that was left in the middle of something, because the
/// time was up or the caller went away, is thrown away, and the database undoes what was not committed.
pub(super) struct Session {
    connection: Option<Connection>,
    store: &'static str,
    address: Arc<str>,
    dialect: Dialect,
    limits: Limits,
    usable: bool,
    /// The purpose of the open transaction.
    transaction: Option<Purpose>,
    /// Whether the transaction has written something.
    has_written: bool,
    /// Whether the server had dropped the last statement before it was executed.
    forgotten: bool,
}

/// What a statement that answers with no rows has done.
struct Done {
    rows: u64,
    id: i64,
}

impl Session {
    pub(super) const fn new(
        connection: Connection,
        store: &'static str,
        address: Arc<str>,
        dialect: Dialect,
        limits: Limits,
    ) -> Self {
        let connection = Some(connection);
        Self {
            connection,
            store,
            address,
            dialect,
            limits,
            usable: true,
            transaction: None,
            has_written: false,
            forgotten: false,
        }
    }

    /// Begins a transaction, unless it is in one.
    pub(super) async fn begin(&mut self, purpose: Purpose) -> Result<(), SqlError> {
        if self.transaction.is_none() {
            self.transaction = Some(purpose);
            self.raw(self.dialect.begin(purpose, self.limits.statement)).await?;
        }
        Ok(())
    }

    /// The rows that a SELECT of ours answers with.
    pub(super) async fn fetch(
        &mut self,
        statement: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, SqlError> {
        self.rows(self.dialect.translate(statement), values).await
    }

    /// The rows that a SELECT answers with that is not ours.
    pub(super) async fn fetch_foreign(
        &mut self,
        text: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, SqlError> {
        self.rows(text.to_owned(), values).await
    }

    async fn rows(&mut self, text: String, values: &[Value<'_>]) -> Result<Vec<Row>, SqlError> {
        let rows = self.try_rows(text.clone(), values).await;
        if self.is_to_be_repeated() {
            self.begin_again().await?;
            return self.try_rows(text, values).await;
        }
        rows
    }

    async fn try_rows(&mut self, text: String, values: &[Value<'_>]) -> Result<Vec<Row>, SqlError> {
        let (store, patience, keeps) = (self.store, self.limits.answer, self.keeps_statements());
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                let query = bind!(sqlx::query(AssertSqlSafe(text)), values).persistent(keeps);
                let rows = query.fetch_all(&mut **connection).await?;
                rows.iter().map(|row| Row::new(store, row)).collect()
            })
        };
        let outcome = timeout(patience, work).await;
        self.end_use(outcome)
    }

    /// Executes a statement of ours: how many rows it changed.
    pub(super) async fn execute(&mut self, statement: &str, values: &[Value<'_>]) -> Result<u64, SqlError> {
        Ok(self.done(self.dialect.translate(statement), values).await?.rows)
    }

    /// Executes a statement that is not ours: how many rows it changed.
    pub(super) async fn execute_foreign(
        &mut self,
        text: &str,
        values: &[Value<'_>],
    ) -> Result<u64, SqlError> {
        Ok(self.done(text.to_owned(), values).await?.rows)
    }

    /// Adds a row to a table that numbers them in a column `id`: its number.
    pub(super) async fn insert(&mut self, statement: &str, values: &[Value<'_>]) -> Result<i64, SqlError> {
        if self.dialect == Dialect::MySql {
            return Ok(self.done(self.dialect.translate(statement), values).await?.id);
        }
        let rows = self.fetch(&format!("{statement} RETURNING id"), values).await?;
        let missing = || StoreError::Corrupt { store: self.store, cause: "a row without a number".into() };
        Ok(rows.first().ok_or_else(missing)?.integer("id")?)
    }

    /// Makes the transaction last, if it is in one.
    pub(super) async fn commit(self) -> Result<(), SqlError> {
        self.end("COMMIT").await
    }

    /// Undoes the transaction, if it is in one, with less ado than dropping it.
    pub(super) async fn roll_back(self) -> Result<(), SqlError> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> Result<(), SqlError> {
        if self.transaction.is_some() {
            self.raw(statement).await?;
            self.transaction = None;
        }
        Ok(())
    }

    /// What the database says of a statement that is not ours.
    pub(super) async fn describe(&mut self, text: &str) -> Result<Description, SqlError> {
        let patience = self.limits.answer;
        let connection = self.begin_use()?;
        let work = async {
            let text = AssertSqlSafe(text.to_owned()).into_sql_str();
            Ok(match connection {
                Connection::Sqlite(connection) => Description::of(&connection.prepare(text).await?),
                Connection::MySql(connection) => Description::of(&connection.prepare(text).await?),
                Connection::Postgres(connection) => {
                    // The library names the statement, so it has to be closed within the transaction.
                    forget_statements(connection).await?;
                    let prepared = connection.prepare(text).await;
                    connection.clear_cached_statements().await?;
                    let statement = prepared?;
                    let wanted = statement.parameters().and_then(Either::left).unwrap_or_default();
                    Description { wanted: wanted.to_vec(), ..Description::of(&statement) }
                }
            })
        };
        let outcome = timeout(patience, work).await;
        self.end_use(outcome)
    }

    async fn done(&mut self, text: String, values: &[Value<'_>]) -> Result<Done, SqlError> {
        let mut done = self.try_done(text.clone(), values).await;
        if self.is_to_be_repeated() {
            self.begin_again().await?;
            done = self.try_done(text, values).await;
        }
        self.has_written = true;
        done
    }

    /// When the library meets a type for the first time on a connection, it queries it between preparing a statement
    /// and executing it, and that query makes the server drop the unnamed statement. The second attempt knows the
    /// type.
    fn is_to_be_repeated(&self) -> bool {
        self.forgotten && !self.has_written
    }

    async fn begin_again(&mut self) -> Result<(), SqlError> {
        self.raw("ROLLBACK").await?;
        match self.transaction.take() {
            Some(purpose) => self.begin(purpose).await,
            None => Ok(()),
        }
    }

    async fn try_done(&mut self, text: String, values: &[Value<'_>]) -> Result<Done, SqlError> {
        let (patience, keeps) = (self.limits.answer, self.keeps_statements());
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                let query = bind!(sqlx::query(AssertSqlSafe(text)), values).persistent(keeps);
                query.execute(&mut **connection).await.map(Done::from)
            })
        };
        let outcome = timeout(patience, work).await;
        self.end_use(outcome)
    }

    async fn raw(&mut self, statement: impl Into<String>) -> Result<(), SqlError> {
        let (patience, statement) = (self.limits.answer, AssertSqlSafe(statement.into()));
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                sqlx::raw_sql(statement).execute(&mut **connection).await.map(|_| ())
            })
        };
        let outcome = timeout(patience, work).await;
        self.end_use(outcome)
    }

    /// Whether the server keeps prepared statements for this connection.
    fn keeps_statements(&self) -> bool {
        self.dialect != Dialect::Postgres
    }

    fn begin_use(&mut self) -> Result<&mut Connection, SqlError> {
        self.usable = false;
        let gone = || StoreError::Unavailable { store: self.store, cause: "the connection is gone".into() };
        self.connection.as_mut().ok_or_else(|| gone().into())
    }

    fn end_use<T>(&mut self, outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, SqlError> {
        let store = self.store;
        self.forgotten =
            matches!(&outcome, Ok(Err(sqlx::Error::Database(error))) if error::is_forgotten(&**error));
        // What the database itself refused has come to its end.
        self.usable = match &outcome {
            Ok(Ok(_)) => true,
            Ok(Err(sqlx::Error::Database(error))) => !error::is_of_connection(&**error),
            Ok(Err(_)) | Err(_) => false,
        };
        if let Ok(outcome) = outcome {
            return outcome.map_err(|error| SqlError::new(store, &error));
        }
        let cause = at(&self.address, &format!("no answer within {:?}", self.limits.answer));
        Err(StoreError::Unavailable { store, cause }.into())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let reusable = self.usable && self.transaction != Some(Purpose::Write);
        if !reusable || Handle::try_current().is_err() {
            each!(Connection, connection, connection => drop(connection.detach()));
            return;
        }
        let patience = self.limits.answer;
        let reading = self.transaction.is_some();
        // The caller does not wait for the end of a transaction that has only read.
        each!(Connection, connection, connection => {
            let mut connection = connection;
            tokio::spawn(async move {
                let ended = !reading || {
                    let commit = sqlx::raw_sql("COMMIT").execute(&mut *connection);
                    matches!(timeout(patience, commit).await, Ok(Ok(_)))
                };
                if ended {
                    give_back(connection, patience).await;
                } else {
                    drop(connection.detach());
                }
            });
        });
    }
}

/// Returns a connection to its pool, which tests it first. Left to itself the pool would wait for a server
/// that hangs for as long as the network does, and count the connection all the while.
async fn give_back<D: sqlx::Database>(mut connection: PoolConnection<D>, patience: Duration) {
    let _ = timeout(patience, connection.return_to_pool()).await;
}

/// Deallocates the statements that other clients of the same library have left on the server connection of a pooler:
/// their names would collide with ours. Poolers that support named statements rename them, so nobody can rely on
/// these.
pub(super) async fn forget_statements(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let left = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'sqlx\\_s\\_%'";
    let left = sqlx::query(left).persistent(false).fetch_all(&mut *connection).await?;
    for row in left {
        let name: String = row.try_get(0)?;
        let end = format!("DEALLOCATE \"{}\"", name.replace('"', "\"\""));
        sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut *connection).await?;
    }
    Ok(())
}

impl From<SqliteQueryResult> for Done {
    fn from(result: SqliteQueryResult) -> Self {
        Self { rows: result.rows_affected(), id: result.last_insert_rowid() }
    }
}

impl From<PgQueryResult> for Done {
    fn from(result: PgQueryResult) -> Self {
        Self { rows: result.rows_affected(), id: 0 }
    }
}

impl From<MySqlQueryResult> for Done {
    fn from(result: MySqlQueryResult) -> Self {
        let id = i64::try_from(result.last_insert_id()).unwrap_or_default();
        Self { rows: result.rows_affected(), id }
    }
}
