//! Connections to a database, whichever it is.
//!
//! The library has a type for everything of every database. This file is where the three become one, so that
//! each statement of ours is written once.

use std::{sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Column as _, Either, Executor as _, MySql, MySqlPool, PgPool, Postgres, SqlSafeStr as _,
    Sqlite, SqlitePool, Statement, TypeInfo as _,
    mysql::MySqlQueryResult,
    pool::PoolConnection,
    postgres::{PgQueryResult, PgTypeInfo},
    sqlite::SqliteQueryResult,
};
use tokio::{
    runtime::Handle,
    time::{error::Elapsed, timeout},
};

use super::{
    dialect::Dialect,
    fault::{self, Fault},
    row::{Row, Value},
    start::Gate,
};
use crate::{domain::ports::StoreError, store::embedded::Database};

/// SQLite bounds its waits itself; this is for a disk that hangs.
const EMBEDDED_TIMEOUT: Duration = Duration::from_secs(30);

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

/// The connections for reading, and those for writing.
#[derive(Clone)]
pub(super) struct Pair<P> {
    pub(super) readers: P,
    pub(super) writer: P,
}

/// The connections to a database.
#[derive(Clone)]
pub(super) enum Pools {
    Sqlite(Pair<SqlitePool>),
    Postgres(Pair<PgPool>),
    MySql(Pair<MySqlPool>),
}

impl Pools {
    pub(super) const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }
}

/// A database, and what messages to the operator call it.
#[derive(Clone)]
pub(super) struct Link {
    store: &'static str,
    pools: Pools,
    timeout: Duration,
    gate: Arc<Gate>,
}

/// What a statement that answers with no rows has done.
struct Done {
    rows: u64,
    id: i64,
}

impl Link {
    /// The embedded database.
    pub(super) fn embedded(store: &'static str, database: &Database) -> Self {
        let Database { readers, writer } = database.clone();
        Self::new(store, Pools::Sqlite(Pair { readers, writer }), EMBEDDED_TIMEOUT, Arc::new(Gate::open()))
    }

    /// A database behind a gate. No statement takes longer than `timeout`.
    pub(super) const fn new(store: &'static str, pools: Pools, timeout: Duration, gate: Arc<Gate>) -> Self {
        Self { store, pools, timeout, gate }
    }

    /// The same database under another name.
    pub(super) fn named(&self, store: &'static str) -> Self {
        Self { store, ..self.clone() }
    }

    pub(super) const fn store(&self) -> &'static str {
        self.store
    }

    pub(super) const fn dialect(&self) -> Dialect {
        self.pools.dialect()
    }

    /// The rows that a SELECT of ours answers with.
    pub(super) async fn fetch(&self, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fault> {
        self.session(Purpose::Read).await?.fetch(statement, values).await
    }

    /// Executes a statement of ours by itself: how many rows it changed.
    pub(super) async fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<u64, Fault> {
        self.session(Purpose::Write).await?.execute(statement, values).await
    }

    /// The rows that a SELECT answers with that is not ours.
    pub(super) async fn fetch_foreign(&self, text: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fault> {
        self.session(Purpose::Read).await?.rows(text.to_owned(), values).await
    }

    /// Executes a statement that is not ours.
    pub(super) async fn execute_foreign(&self, text: &str, values: &[Value<'_>]) -> Result<u64, Fault> {
        Ok(self.session(Purpose::Write).await?.done(text.to_owned(), values).await?.rows)
    }

    /// What the database says of a statement that is not ours, on a connection for that purpose.
    pub(super) async fn describe(&self, text: &str, purpose: Purpose) -> Result<Description, Fault> {
        self.session(purpose).await?.describe(text).await
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Session, Fault> {
        let mut session = self.session(Purpose::Write).await?;
        session.raw(self.dialect().begin()).await?;
        session.in_transaction = true;
        Ok(session)
    }

    async fn session(&self, purpose: Purpose) -> Result<Session, Fault> {
        self.gate.pass()?;
        let connection = match &self.pools {
            Pools::Sqlite(pair) => pair.of(purpose).acquire().await.map(Connection::Sqlite),
            Pools::Postgres(pair) => pair.of(purpose).acquire().await.map(Connection::Postgres),
            Pools::MySql(pair) => pair.of(purpose).acquire().await.map(Connection::MySql),
        };
        let connection = connection.map_err(|error| Fault::Failed(self.unreachable(&error)))?;
        let (store, dialect, timeout) = (self.store, self.dialect(), self.timeout);
        Ok(Session {
            connection: Some(connection),
            store,
            dialect,
            timeout,
            usable: true,
            in_transaction: false,
        })
    }

    /// Whatever kept us from a connection, later it can be different.
    fn unreachable(&self, error: &sqlx::Error) -> StoreError {
        match StoreError::from(Fault::new(self.store, error)) {
            StoreError::Corrupt { store, cause } if self.dialect() != Dialect::Sqlite => {
                StoreError::Unavailable { store, cause }
            }
            error => error,
        }
    }
}

/// What a database says of a statement.
pub(super) struct Description {
    /// The names of its columns and of their types.
    pub(super) columns: Vec<(String, String)>,
    /// The types of the values that it wants, where it tells.
    pub(super) wanted: Vec<PgTypeInfo>,
}

impl Description {
    fn of(statement: &impl Statement) -> Self {
        let columns = statement.columns().iter();
        let columns = columns.map(|column| (column.name().to_owned(), column.type_info().name().to_owned()));
        Self { columns: columns.collect(), wanted: Vec::new() }
    }
}

/// What a connection is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Read,
    Write,
}

impl<P> Pair<P> {
    const fn of(&self, purpose: Purpose) -> &P {
        match purpose {
            Purpose::Read => &self.readers,
            Purpose::Write => &self.writer,
        }
    }
}

enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
    MySql(PoolConnection<MySql>),
}

/// A connection, from the pool and back: for one statement, or for one transaction.
///
/// It goes back only if it is known to be idle. One that was left in the middle of something, because the
/// time was up or the caller went away, is thrown away, and the database undoes what was not committed.
pub(super) struct Session {
    connection: Option<Connection>,
    store: &'static str,
    dialect: Dialect,
    timeout: Duration,
    usable: bool,
    in_transaction: bool,
}

impl Session {
    /// See [`Link::fetch`].
    pub(super) async fn fetch(&mut self, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fault> {
        self.rows(self.dialect.translate(statement), values).await
    }

    async fn rows(&mut self, text: String, values: &[Value<'_>]) -> Result<Vec<Row>, Fault> {
        let (store, patience) = (self.store, self.timeout);
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                let query = bind!(sqlx::query(AssertSqlSafe(text)), values);
                let rows = query.fetch_all(&mut **connection).await?;
                rows.iter().map(|row| Row::new(store, row)).collect()
            })
        };
        let outcome = timeout(patience, work).await;
        self.end_use(outcome)
    }

    /// See [`Link::execute`].
    pub(super) async fn execute(&mut self, statement: &str, values: &[Value<'_>]) -> Result<u64, Fault> {
        Ok(self.done(self.dialect.translate(statement), values).await?.rows)
    }

    /// Adds a row to a table that numbers them in a column `id`: its number.
    pub(super) async fn insert(&mut self, statement: &str, values: &[Value<'_>]) -> Result<i64, Fault> {
        if self.dialect == Dialect::MySql {
            return Ok(self.done(self.dialect.translate(statement), values).await?.id);
        }
        let rows = self.fetch(&format!("{statement} RETURNING id"), values).await?;
        let missing = || StoreError::Corrupt { store: self.store, cause: "a row without a number".into() };
        Ok(rows.first().ok_or_else(missing)?.integer("id")?)
    }

    /// Makes the transaction last.
    pub(super) async fn commit(mut self) -> Result<(), Fault> {
        self.raw("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Undoes the transaction, with less ado than dropping it.
    pub(super) async fn roll_back(mut self) -> Result<(), Fault> {
        self.raw("ROLLBACK").await?;
        self.in_transaction = false;
        Ok(())
    }

    async fn describe(&mut self, text: &str) -> Result<Description, Fault> {
        let patience = self.timeout;
        let connection = self.begin_use()?;
        let work = async {
            let text = AssertSqlSafe(text.to_owned()).into_sql_str();
            Ok(match connection {
                Connection::Sqlite(connection) => Description::of(&connection.prepare(text).await?),
                Connection::MySql(connection) => Description::of(&connection.prepare(text).await?),
                Connection::Postgres(connection) => {
                    let statement = connection.prepare(text).await?;
                    let wanted = statement.parameters().and_then(Either::left).unwrap_or_default();
                    Description { wanted: wanted.to_vec(), ..Description::of(&statement) }
                }
            })
        };
        let outcome = timeout(patience, work).await;
        self.end_use(outcome)
    }

    async fn done(&mut self, text: String, values: &[Value<'_>]) -> Result<Done, Fault> {
        let patience = self.timeout;
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                let query = bind!(sqlx::query(AssertSqlSafe(text)), values);
                query.execute(&mut **connection).await.map(Done::from)
            })
        };
        let outcome = timeout(patience, work).await;
        self.end_use(outcome)
    }

    async fn raw(&mut self, statement: &'static str) -> Result<(), Fault> {
        let patience = self.timeout;
        let connection = self.begin_use()?;
        let work = async {
            each!(Connection, connection, connection => {
                sqlx::raw_sql(statement).execute(&mut **connection).await.map(|_| ())
            })
        };
        let outcome = timeout(patience, work).await;
        self.end_use(outcome)
    }

    fn begin_use(&mut self) -> Result<&mut Connection, Fault> {
        self.usable = false;
        let gone = || StoreError::Unavailable { store: self.store, cause: "the connection is gone".into() };
        self.connection.as_mut().ok_or_else(|| gone().into())
    }

    fn end_use<T>(&mut self, outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, Fault> {
        let store = self.store;
        // What the database itself refused has come to its end.
        self.usable = match &outcome {
            Ok(Ok(_)) => true,
            Ok(Err(sqlx::Error::Database(error))) => !fault::is_of_connection(&**error),
            Ok(Err(_)) | Err(_) => false,
        };
        if let Ok(outcome) = outcome {
            return outcome.map_err(|error| Fault::new(store, &error));
        }
        let cause = format!("no answer within {:?}", self.timeout);
        Err(StoreError::Unavailable { store, cause }.into())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let reusable = self.usable && !self.in_transaction;
        each!(Connection, connection, connection => {
            if reusable { give_back(connection, self.timeout) } else { drop(connection.detach()) }
        });
    }
}

/// Returns a connection to its pool, which tests it first. Left to itself the pool would wait for a server
/// that hangs for as long as the network does, and count the connection all the while.
fn give_back<D: sqlx::Database>(mut connection: PoolConnection<D>, patience: Duration) {
    if Handle::try_current().is_ok() {
        tokio::spawn(timeout(patience, connection.return_to_pool()));
    } else {
        drop(connection.detach());
    }
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
