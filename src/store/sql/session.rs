//! A connection that is borrowed from the pool for one statement or one transaction.
//!
//! The library has separate types for each database. This file unifies them, so that each statement is written once.
//!
//! On PostgreSQL every statement runs in a transaction with transaction-scoped settings and unnamed prepared
//! statements. A pooler in transaction mode (pgbouncer with `pool_mode = transaction`) may therefore sit in between:
//! no session state is left on a server connection that others use next, and none is expected there.

use std::{sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Column as _, Connection as _, Either, Executor as _, MySql, PgConnection, Postgres,
    Row as _, SqlSafeStr as _, Sqlite, Statement, TypeInfo as _,
    mysql::MySqlQueryResult,
    pool::PoolConnection,
    postgres::{PgQueryResult, PgTypeInfo},
    sqlite::SqliteQueryResult,
};
use tokio::{
    runtime::Handle,
    sync::OwnedMutexGuard,
    time::{error::Elapsed, timeout},
};

use super::{
    dialect::{Access, Dialect},
    error::{self, SqlError, with_address},
    row::{Row, Value},
};
use crate::domain::ports::StoreError;

/// Evaluates the same expression for each database.
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
                Value::OptionalInteger(integer) => query.bind(integer),
                Value::Bool(boolean) => query.bind(boolean),
                Value::Typed(typed) => query.bind(typed),
            };
        }
        query
    }};
}

#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    /// After this time the server cancels a statement.
    pub(super) statement: Duration,
    /// After this time the connection is dropped.
    pub(super) response: Duration,
}

impl Timeouts {
    /// The wait for a response is longer than the time limit of the statement, because a connection whose statement
    /// the server has cancelled can still be used.
    pub(super) fn new(statement: Duration) -> Self {
        Self { statement, response: statement + statement / 4 }
    }
}

/// The description of a statement by the database.
pub(super) struct Description {
    /// The names of the columns and of their types.
    pub(super) columns: Vec<(String, String)>,
    /// The types of the placeholders, which only PostgreSQL reports.
    pub(super) parameters: Vec<PgTypeInfo>,
}

impl Description {
    fn new(statement: &impl Statement) -> Self {
        let columns = statement.columns().iter();
        let columns = columns.map(|column| (column.name().to_owned(), column.type_info().name().to_owned()));
        Self { columns: columns.collect(), parameters: Vec::new() }
    }
}

pub(super) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
    MySql(PoolConnection<MySql>),
}

/// A borrowed connection.
///
/// It returns to the pool only if it is known to be idle. After a time-out or a cancelled request it is closed
/// instead, and the database rolls back the transaction.
pub(super) struct Session {
    connection: Option<Connection>,
    /// Held while the session may write to the embedded database.
    _turn: Option<OwnedMutexGuard<()>>,
    store: &'static str,
    address: Arc<str>,
    dialect: Dialect,
    timeouts: Timeouts,
    /// No statement is under way.
    is_idle: bool,
    /// The access of the open transaction.
    transaction: Option<Access>,
    /// The transaction has written something.
    has_written: bool,
    /// The server has dropped the last statement before it was executed.
    is_statement_dropped: bool,
}

struct ExecuteResult {
    rows_affected: u64,
    last_insert_id: i64,
}

impl Session {
    pub(super) const fn new(
        connection: Connection,
        turn: Option<OwnedMutexGuard<()>>,
        store: &'static str,
        address: Arc<str>,
        dialect: Dialect,
        timeouts: Timeouts,
    ) -> Self {
        let connection = Some(connection);
        Self {
            connection,
            _turn: turn,
            store,
            address,
            dialect,
            timeouts,
            is_idle: true,
            transaction: None,
            has_written: false,
            is_statement_dropped: false,
        }
    }

    /// Begins a transaction, unless one is open.
    pub(super) async fn begin(&mut self, access: Access) -> Result<(), SqlError> {
        if self.transaction.is_none() {
            self.transaction = Some(access);
            self.execute_raw(self.dialect.begin(access, self.timeouts.statement)).await?;
        }
        Ok(())
    }

    /// Runs a SELECT of Latchkey and returns its rows.
    pub(super) async fn fetch(
        &mut self,
        statement: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, SqlError> {
        self.query(self.dialect.translate(statement), values).await
    }

    /// Runs a SELECT of the operator and returns its rows.
    pub(super) async fn fetch_foreign(
        &mut self,
        text: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, SqlError> {
        self.query(text.to_owned(), values).await
    }

    async fn query(&mut self, text: String, values: &[Value<'_>]) -> Result<Vec<Row>, SqlError> {
        let rows = self.try_query(text.clone(), values).await;
        if self.must_retry() {
            self.restart_transaction().await?;
            return self.try_query(text, values).await;
        }
        rows
    }

    async fn try_query(&mut self, text: String, values: &[Value<'_>]) -> Result<Vec<Row>, SqlError> {
        let (store, time_limit, persistent) = (self.store, self.timeouts.response, self.keeps_statements());
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                let query = bind!(sqlx::query(AssertSqlSafe(text)), values).persistent(persistent);
                let rows = query.fetch_all(&mut **connection).await?;
                rows.iter().map(|row| Row::new(store, row)).collect()
            })
        };
        let outcome = timeout(time_limit, work).await;
        self.end_use(outcome)
    }

    /// Executes a statement of Latchkey and returns the number of rows that it changed.
    pub(super) async fn execute(&mut self, statement: &str, values: &[Value<'_>]) -> Result<u64, SqlError> {
        Ok(self.execute_text(self.dialect.translate(statement), values).await?.rows_affected)
    }

    /// Executes a statement of the operator and returns the number of rows that it changed.
    pub(super) async fn execute_foreign(
        &mut self,
        text: &str,
        values: &[Value<'_>],
    ) -> Result<u64, SqlError> {
        Ok(self.execute_text(text.to_owned(), values).await?.rows_affected)
    }

    /// Inserts a row into a table with a generated column `id` and returns the id.
    pub(super) async fn insert(&mut self, statement: &str, values: &[Value<'_>]) -> Result<i64, SqlError> {
        if self.dialect == Dialect::MySql {
            return Ok(self.execute_text(self.dialect.translate(statement), values).await?.last_insert_id);
        }
        let rows = self.fetch(&format!("{statement} RETURNING id"), values).await?;
        let missing = || StoreError::Corrupt { store: self.store, cause: "INSERT returned no id".into() };
        Ok(rows.first().ok_or_else(missing)?.integer("id")?)
    }

    /// Commits the open transaction, if any.
    pub(super) async fn commit(self) -> Result<(), SqlError> {
        self.end("COMMIT").await
    }

    /// Rolls back the open transaction, if any, and keeps the connection, which dropping the session would close.
    pub(super) async fn roll_back(self) -> Result<(), SqlError> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> Result<(), SqlError> {
        if self.transaction.is_some() {
            self.execute_raw(statement).await?;
            self.transaction = None;
        }
        Ok(())
    }

    /// Has the database describe a statement of the operator.
    pub(super) async fn describe(&mut self, text: &str) -> Result<Description, SqlError> {
        let time_limit = self.timeouts.response;
        let connection = self.begin_use()?;
        let work = async {
            let text = AssertSqlSafe(text.to_owned()).into_sql_str();
            Ok(match connection {
                Connection::Sqlite(connection) => Description::new(&connection.prepare(text).await?),
                Connection::MySql(connection) => Description::new(&connection.prepare(text).await?),
                Connection::Postgres(connection) => {
                    // The library names the statement, so it has to be closed within the transaction.
                    deallocate_statements(connection).await?;
                    let prepared = connection.prepare(text).await;
                    connection.clear_cached_statements().await?;
                    let statement = prepared?;
                    let parameters = statement.parameters().and_then(Either::left).unwrap_or_default();
                    Description { parameters: parameters.to_vec(), ..Description::new(&statement) }
                }
            })
        };
        let outcome = timeout(time_limit, work).await;
        self.end_use(outcome)
    }

    async fn execute_text(&mut self, text: String, values: &[Value<'_>]) -> Result<ExecuteResult, SqlError> {
        let mut result = self.try_execute(text.clone(), values).await;
        if self.must_retry() {
            self.restart_transaction().await?;
            result = self.try_execute(text, values).await;
        }
        self.has_written = true;
        result
    }

    /// When the library meets a type for the first time on a connection, it queries it between preparing a statement
    /// and executing it, and that query makes the server drop the unnamed statement. The second attempt knows the
    /// type.
    fn must_retry(&self) -> bool {
        self.is_statement_dropped && !self.has_written
    }

    async fn restart_transaction(&mut self) -> Result<(), SqlError> {
        self.execute_raw("ROLLBACK").await?;
        match self.transaction.take() {
            Some(access) => self.begin(access).await,
            None => Ok(()),
        }
    }

    async fn try_execute(&mut self, text: String, values: &[Value<'_>]) -> Result<ExecuteResult, SqlError> {
        let (time_limit, persistent) = (self.timeouts.response, self.keeps_statements());
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                let query = bind!(sqlx::query(AssertSqlSafe(text)), values).persistent(persistent);
                query.execute(&mut **connection).await.map(ExecuteResult::from)
            })
        };
        let outcome = timeout(time_limit, work).await;
        self.end_use(outcome)
    }

    async fn execute_raw(&mut self, statement: impl Into<String>) -> Result<(), SqlError> {
        let (time_limit, statement) = (self.timeouts.response, AssertSqlSafe(statement.into()));
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                sqlx::raw_sql(statement).execute(&mut **connection).await.map(|_| ())
            })
        };
        let outcome = timeout(time_limit, work).await;
        self.end_use(outcome)
    }

    /// Whether the server keeps prepared statements for this connection.
    fn keeps_statements(&self) -> bool {
        self.dialect != Dialect::Postgres
    }

    fn begin_use(&mut self) -> Result<&mut Connection, SqlError> {
        self.is_idle = false;
        let closed =
            || StoreError::Unavailable { store: self.store, cause: "the connection is closed".into() };
        self.connection.as_mut().ok_or_else(|| closed().into())
    }

    fn end_use<T>(&mut self, outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, SqlError> {
        let store = self.store;
        self.is_statement_dropped = matches!(
            &outcome,
            Ok(Err(sqlx::Error::Database(error))) if error::is_statement_dropped(&**error)
        );
        // After an error of the database itself the statement has ended.
        self.is_idle = match &outcome {
            Ok(Ok(_)) => true,
            Ok(Err(sqlx::Error::Database(error))) => !error::needs_new_connection(&**error),
            Ok(Err(_)) | Err(_) => false,
        };
        if let Ok(outcome) = outcome {
            return outcome.map_err(|error| SqlError::new(store, &error));
        }
        let cause = format!("no response within {:?}", self.timeouts.response);
        let cause = with_address(&self.address, &cause);
        Err(StoreError::Unavailable { store, cause }.into())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let is_reusable = self.is_idle && self.transaction != Some(Access::Write);
        if !is_reusable || Handle::try_current().is_err() {
            each!(Connection, connection, connection => drop(connection.detach()));
            return;
        }
        let time_limit = self.timeouts.response;
        let is_in_transaction = self.transaction.is_some();
        // The caller does not wait for the end of a transaction that has only read.
        each!(Connection, connection, connection => {
            let mut connection = connection;
            tokio::spawn(async move {
                let has_ended = !is_in_transaction || {
                    let commit = sqlx::raw_sql("COMMIT").execute(&mut *connection);
                    matches!(timeout(time_limit, commit).await, Ok(Ok(_)))
                };
                if has_ended {
                    return_to_pool(connection, time_limit).await;
                } else {
                    drop(connection.detach());
                }
            });
        });
    }
}

/// Returns a connection to its pool, which tests it first. Without the time limit, a server that hangs would occupy a
/// place in the pool until the network gives up.
async fn return_to_pool<D: sqlx::Database>(mut connection: PoolConnection<D>, time_limit: Duration) {
    let _ = timeout(time_limit, connection.return_to_pool()).await;
}

/// Deallocates the statements that other clients of the same library have left on the server connection of a pooler:
/// their names would collide. Nobody can rely on these, because poolers that support named statements rename them.
pub(super) async fn deallocate_statements(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let select = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'sqlx\\_s\\_%'";
    for row in sqlx::query(select).persistent(false).fetch_all(&mut *connection).await? {
        let name: String = row.try_get(0)?;
        let deallocate = format!("DEALLOCATE \"{}\"", name.replace('"', "\"\""));
        sqlx::raw_sql(AssertSqlSafe(deallocate)).execute(&mut *connection).await?;
    }
    Ok(())
}

impl From<SqliteQueryResult> for ExecuteResult {
    fn from(result: SqliteQueryResult) -> Self {
        Self { rows_affected: result.rows_affected(), last_insert_id: result.last_insert_rowid() }
    }
}

impl From<PgQueryResult> for ExecuteResult {
    fn from(result: PgQueryResult) -> Self {
        Self { rows_affected: result.rows_affected(), last_insert_id: 0 }
    }
}

impl From<MySqlQueryResult> for ExecuteResult {
    fn from(result: MySqlQueryResult) -> Self {
        let last_insert_id = i64::try_from(result.last_insert_id()).unwrap_or_default();
        Self { rows_affected: result.rows_affected(), last_insert_id }
    }
}
