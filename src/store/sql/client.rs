//! Runs statements on a database of any kind.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    dialect::{Access, Dialect},
    error::{SqlError, with_address},
    pools::{PoolPair, Pools},
    readiness::Readiness,
    row::{Row, Value},
    session::{Connection, Description, Session, Timeouts},
};
use crate::{domain::ports::StoreError, store::embedded::Database};

/// SQLite limits its waits itself; these are for a disk that hangs.
const EMBEDDED: Timeouts = Timeouts { statement: Duration::from_secs(30), response: Duration::from_secs(30) };

#[derive(Clone)]
pub(super) struct SqlClient {
    /// The name of the store in messages.
    store: &'static str,
    /// The address of the server, for messages; empty for the embedded database.
    address: Arc<str>,
    pools: Pools,
    timeouts: Timeouts,
    readiness: Arc<Readiness>,
    /// The embedded database, which reads by itself.
    embedded: Option<Database>,
}

impl SqlClient {
    pub(super) const fn new(
        store: &'static str,
        address: Arc<str>,
        pools: Pools,
        timeouts: Timeouts,
        readiness: Arc<Readiness>,
    ) -> Self {
        Self { store, address, pools, timeouts, readiness, embedded: None }
    }

    pub(super) fn embedded(store: &'static str, database: &Database) -> Self {
        let writer = database.writer.clone();
        let pools = Pools::Sqlite(PoolPair { readers: writer.clone(), writer });
        let readiness = Arc::new(Readiness::of_embedded(database.clone()));
        let embedded = Some(database.clone());
        Self { embedded, ..Self::new(store, "".into(), pools, EMBEDDED, readiness) }
    }

    /// Returns a client of the same database for another store.
    pub(super) fn for_store(&self, store: &'static str) -> Self {
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

    /// Runs a SELECT of Latchkey and returns its rows.
    pub(super) async fn fetch(&self, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>, SqlError> {
        if let Some(database) = &self.embedded {
            self.readiness.check()?;
            let values = values.iter().map(Value::embedded).collect();
            let rows = database.query(self.store, self.dialect().translate(statement), values);
            let rows = timeout(self.timeouts.response, rows).await.map_err(|_| StoreError::Unavailable {
                store: self.store,
                cause: format!("no response within {:?}", self.timeouts.response),
            })?;
            return Ok(Row::of_embedded(self.store, rows?));
        }
        self.session(Access::Read).await?.fetch(statement, values).await
    }

    /// Runs a statement of Latchkey in a transaction of its own and returns the number of rows that it changed.
    pub(super) async fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<u64, SqlError> {
        let mut session = self.session(Access::Write).await?;
        let rows = session.execute(statement, values).await?;
        session.commit().await?;
        Ok(rows)
    }

    /// Runs a SELECT of the operator and returns its rows.
    pub(super) async fn fetch_foreign(&self, text: &str, values: &[Value<'_>]) -> Result<Vec<Row>, SqlError> {
        self.session(Access::Read).await?.fetch_foreign(text, values).await
    }

    /// Has the database describe a statement of the operator. PostgreSQL describes a statement that writes also on a
    /// read-only standby.
    pub(super) async fn describe(&self, text: &str, access: Access) -> Result<Description, SqlError> {
        let access = if self.dialect() == Dialect::Postgres { Access::Read } else { access };
        self.session(access).await?.describe(text).await
    }

    /// Begins a transaction that may write.
    pub(super) async fn begin(&self) -> Result<Session, SqlError> {
        let mut session = self.session(Access::Write).await?;
        session.begin(Access::Write).await?;
        Ok(session)
    }

    async fn session(&self, access: Access) -> Result<Session, SqlError> {
        self.readiness.check()?;
        let turn = match &self.embedded {
            Some(database) => Some(database.begin_writing().await?),
            None => None,
        };
        let connection = match &self.pools {
            Pools::Sqlite(pools) => pools.get(access).acquire().await.map(Connection::Sqlite),
            Pools::Postgres(pools) => pools.get(access).acquire().await.map(Connection::Postgres),
            Pools::MySql(pools) => pools.get(access).acquire().await.map(Connection::MySql),
        };
        let connection = connection.map_err(|error| SqlError::Other(self.connect_error(&error)))?;
        let (dialect, address) = (self.dialect(), Arc::clone(&self.address));
        let mut session = Session::new(connection, turn, self.store, address, dialect, self.timeouts);
        if self.dialect() == Dialect::Postgres {
            session.begin(access).await?;
        }
        Ok(session)
    }

    /// Converts an error of connecting, which is transient except for a damaged SQLite file.
    fn connect_error(&self, error: &sqlx::Error) -> StoreError {
        match StoreError::from(SqlError::new(self.store, error)) {
            StoreError::Corrupt { store, cause } if self.dialect() == Dialect::Sqlite => {
                StoreError::Corrupt { store, cause: with_address(&self.address, &cause) }
            }
            StoreError::Corrupt { store, cause } | StoreError::Unavailable { store, cause } => {
                StoreError::Unavailable { store, cause: with_address(&self.address, &cause) }
            }
        }
    }
}
