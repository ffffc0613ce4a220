//! Connection pools, with the session settings that Latchkey needs.

use std::time::Duration;

use sqlx::{
    Database, MySqlConnection, MySqlPool, PgPool, Row as _, SqlitePool,
    mysql::MySqlPoolOptions,
    pool::PoolOptions,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use super::{
    dialect::{Access, Dialect},
    url::{DatabaseUrl, Settings},
};

/// The pool for reads and the pool for writes, which may be the same.
#[derive(Clone)]
pub(super) struct PoolPair<P> {
    pub(super) readers: P,
    pub(super) writer: P,
}

impl<P> PoolPair<P> {
    pub(super) const fn get(&self, access: Access) -> &P {
        match access {
            Access::Read => &self.readers,
            Access::Write => &self.writer,
        }
    }
}

/// The pools of a database.
#[derive(Clone)]
pub(super) enum Pools {
    Sqlite(PoolPair<SqlitePool>),
    Postgres(PoolPair<PgPool>),
    MySql(PoolPair<MySqlPool>),
}

/// Which connections may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteAccess {
    /// All connections read and write.
    Shared,
    /// A pool of its own writes; the other connections are read-only.
    Separate,
    /// All connections are read-only.
    None,
}

impl Pools {
    /// Does not connect yet; the pools connect when they are used.
    pub(super) fn new(url: &DatabaseUrl, settings: &Settings, write_access: WriteAccess) -> Self {
        let time_limit = settings.query_timeout;
        match url {
            DatabaseUrl::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path).busy_timeout(time_limit);
                let pool = |options: SqliteConnectOptions, connections| -> SqlitePool {
                    pool_options::<_>(SqlitePoolOptions::new(), settings)
                        .max_connections(connections)
                        .connect_lazy_with(options)
                };
                let readers = pool(options.clone().pragma("query_only", "on"), settings.max_connections);
                let writer = match write_access {
                    WriteAccess::None => readers.clone(),
                    WriteAccess::Separate | WriteAccess::Shared => pool(options, 1),
                };
                Self::Sqlite(PoolPair { readers, writer })
            }
            // Each transaction states whether it is read-only.
            DatabaseUrl::Postgres(options) => {
                let pool =
                    pool_options(PgPoolOptions::new(), settings).connect_lazy_with((**options).clone());
                Self::Postgres(PoolPair { readers: pool.clone(), writer: pool })
            }
            DatabaseUrl::MySql(options) => {
                let pool = |read_only| {
                    pool_options(MySqlPoolOptions::new(), settings)
                        .after_connect(move |connection, _| {
                            Box::pin(set_up_mysql(connection, time_limit, read_only))
                        })
                        .connect_lazy_with((**options).clone())
                };
                let readers = pool(write_access != WriteAccess::Shared);
                let writer = match write_access {
                    WriteAccess::Separate => pool(false),
                    WriteAccess::Shared | WriteAccess::None => readers.clone(),
                };
                Self::MySql(PoolPair { readers, writer })
            }
        }
    }

    pub(super) const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }
}

fn pool_options<D: Database>(options: PoolOptions<D>, settings: &Settings) -> PoolOptions<D> {
    options.max_connections(settings.max_connections).acquire_timeout(settings.connect_timeout)
}

async fn set_up_mysql(
    connection: &mut MySqlConnection,
    time_limit: Duration,
    read_only: bool,
) -> Result<(), sqlx::Error> {
    let version: String = sqlx::query("SELECT VERSION()").fetch_one(&mut *connection).await?.try_get(0)?;
    let statement_limit = if version.contains("MariaDB") {
        // In seconds, for every statement.
        format!("max_statement_time = {}", time_limit.as_secs_f64())
    } else {
        // In milliseconds, for SELECT only.
        format!("max_execution_time = {}", time_limit.as_millis())
    };
    let lock_wait = time_limit.as_secs().max(1);
    let settings = format!("SET SESSION {statement_limit}, innodb_lock_wait_timeout = {lock_wait}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut *connection).await?;
    if read_only {
        sqlx::raw_sql("SET SESSION TRANSACTION READ ONLY").execute(connection).await?;
    }
    Ok(())
}
