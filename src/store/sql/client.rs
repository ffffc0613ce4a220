//! Connections to a database, whichever it is.

use std::{sync::Arc, time::Duration};

use sqlx::{Column as _, MySqlPool, PgPool, SqlitePool, Statement, TypeInfo as _, postgres::PgTypeInfo};

use super::{
    connect::Closable,
    dialect::Dialect,
    error::SqlError,
    row::{Row, Value},
    session::{Connection, Session},
};
use crate::{domain::ports::StoreError, store::embedded::Database};

/// SQLite bounds its waits itself; this is for a disk that hangs.
const EMBEDDED: Limits = Limits { statement: Duration::from_secs(30), answer: Duration::from_secs(30) };

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

/// How long things may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// A statement, before the server ends it.
    pub(super) statement: Duration,
    /// An answer, before we give up the connection.
    pub(super) answer: Duration,
}

impl Limits {
    /// A server ends what takes longer than a statement may. We wait a little longer, because a connection whose
    /// statement the server has ended can still be used.
    pub(super) fn of(statement: Duration) -> Self {
        Self { statement, answer: statement + statement / 4 }
    }
}

/// A database, and what messages to the operator call it.
#[derive(Clone)]
pub(super) struct SqlClient {
    store: &'static str,
    /// Where it is; empty where that goes without saying.
    address: Arc<str>,
    pools: Pools,
    limits: Limits,
    gate: Arc<Closable>,
}

impl SqlClient {
    /// The embedded database.
    pub(super) fn embedded(store: &'static str, database: &Database) -> Self {
        let Database { readers, writer, .. } = database.clone();
        let pools = Pools::Sqlite(Pair { readers, writer });
        let gate = Arc::new(Closable::of_file(database.clone()));
        Self::new(store, "".into(), pools, EMBEDDED, gate)
    }

    /// A database behind a gate.
    pub(super) const fn new(
        store: &'static str,
        address: Arc<str>,
        pools: Pools,
        limits: Limits,
        gate: Arc<Closable>,
    ) -> Self {
        Self { store, address, pools, limits, gate }
    }

    /// The same database under another name.
    pub(super) fn named(&self, store: &'static str) -> Self {
        Self { store, ..self.clone() }
    }

    pub(super) const fn store(&self) -> &'static str {
        self.store
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) const fn dialect(&self) -> Dialect {
        self.pools.dialect()
    }

    /// The rows that a SELECT of ours answers with.
    pub(super) async fn fetch(&self, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>, SqlError> {
        self.session(Purpose::Read).await?.fetch(statement, values).await
    }

    /// Executes a statement of ours by itself: how many rows it changed.
    pub(super) async fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<u64, SqlError> {
        let mut session = self.session(Purpose::Write).await?;
        let rows = session.execute(statement, values).await?;
        session.commit().await?;
        Ok(rows)
    }

    /// The rows that a SELECT answers with that is not ours.
    pub(super) async fn fetch_foreign(&self, text: &str, values: &[Value<'_>]) -> Result<Vec<Row>, SqlError> {
        self.session(Purpose::Read).await?.fetch_foreign(text, values).await
    }

    /// What the database says of a statement that is not ours, for that purpose. PostgreSQL does not mind what it would
    /// write, also where it is a stand-by.
    pub(super) async fn describe(&self, text: &str, purpose: Purpose) -> Result<Description, SqlError> {
        let purpose = if self.dialect() == Dialect::Postgres { Purpose::Read } else { purpose };
        self.session(purpose).await?.describe(text).await
    }

    /// Begins a transaction that may write.
    pub(super) async fn begin(&self) -> Result<Session, SqlError> {
        let mut session = self.session(Purpose::Write).await?;
        session.begin(Purpose::Write).await?;
        Ok(session)
    }

    async fn session(&self, purpose: Purpose) -> Result<Session, SqlError> {
        self.gate.pass()?;
        let connection = match &self.pools {
            Pools::Sqlite(pair) => pair.of(purpose).acquire().await.map(Connection::Sqlite),
            Pools::Postgres(pair) => pair.of(purpose).acquire().await.map(Connection::Postgres),
            Pools::MySql(pair) => pair.of(purpose).acquire().await.map(Connection::MySql),
        };
        let connection = connection.map_err(|error| SqlError::Failed(self.unreachable(&error)))?;
        let (dialect, address) = (self.dialect(), Arc::clone(&self.address));
        let mut session = Session::new(connection, self.store, address, dialect, self.limits);
        if self.dialect() == Dialect::Postgres {
            session.begin(purpose).await?;
        }
        Ok(session)
    }

    /// Whatever kept us from a connection, later it can be different.
    fn unreachable(&self, error: &sqlx::Error) -> StoreError {
        match StoreError::from(SqlError::new(self.store, error)) {
            StoreError::Corrupt { store, cause } if self.dialect() == Dialect::Sqlite => {
                StoreError::Corrupt { store, cause: at(&self.address, &cause) }
            }
            StoreError::Corrupt { store, cause } | StoreError::Unavailable { store, cause } => {
                StoreError::Unavailable { store, cause: at(&self.address, &cause) }
            }
        }
    }
}

/// What has happened at an address, if it is to be said.
pub(super) fn at(address: &str, cause: &str) -> String {
    if address.is_empty() { cause.to_owned() } else { format!("{address}: {cause}") }
}

/// What a database says of a statement.
pub(super) struct Description {
    /// The names of its columns and of their types.
    pub(super) columns: Vec<(String, String)>,
    /// The types of the values that it wants, where it tells.
    pub(super) wanted: Vec<PgTypeInfo>,
}

impl Description {
    pub(super) fn of(statement: &impl Statement) -> Self {
        let columns = statement.columns().iter();
        let columns = columns.map(|column| (column.name().to_owned(), column.type_info().name().to_owned()));
        Self { columns: columns.collect(), wanted: Vec::new() }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
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
