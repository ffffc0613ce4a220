//! Pools of connections, each set up the way we need it.

use std::time::Duration;

use sqlx::{
    Database, MySqlConnection, Row as _, SqlitePool,
    mysql::MySqlPoolOptions,
    pool::PoolOptions,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use super::{
    client::{Pair, Pools},
    url::{DatabaseUrl, Settings},
};

/// What the connections may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Read and write.
    Both,
    /// Read; and where something is to be written, on connections apart.
    Apart { writes: bool },
}

/// Connections that are made when they are needed.
pub(super) fn pools(target: &DatabaseUrl, settings: &Settings, rights: Rights) -> Pools {
    let limit = settings.query_timeout;
    match target {
        DatabaseUrl::Sqlite(path) => {
            let options = SqliteConnectOptions::new().filename(path).busy_timeout(limit);
            let pool = |options: SqliteConnectOptions, connections| -> SqlitePool {
                sized::<_>(SqlitePoolOptions::new(), settings)
                    .max_connections(connections)
                    .connect_lazy_with(options)
            };
            let readers = pool(options.clone().pragma("query_only", "on"), settings.max_connections);
            let writer = match rights {
                Rights::Apart { writes: false } => readers.clone(),
                Rights::Apart { writes: true } | Rights::Both => pool(options, 1),
            };
            Pools::Sqlite(Pair { readers, writer })
        }
        // What they may do, each transaction says.
        DatabaseUrl::Postgres(options) => {
            let pool = sized(PgPoolOptions::new(), settings).connect_lazy_with((**options).clone());
            Pools::Postgres(Pair { readers: pool.clone(), writer: pool })
        }
        DatabaseUrl::MySql(options) => {
            let pool = |read_only| {
                sized(MySqlPoolOptions::new(), settings)
                    .after_connect(move |connection, _| Box::pin(mysql(connection, limit, read_only)))
                    .connect_lazy_with((**options).clone())
            };
            Pools::MySql(pair(pool, rights))
        }
    }
}

fn sized<D: Database>(options: PoolOptions<D>, settings: &Settings) -> PoolOptions<D> {
    options.max_connections(settings.max_connections).acquire_timeout(settings.connect_timeout)
}

fn pair<P: Clone>(pool: impl Fn(bool) -> P, rights: Rights) -> Pair<P> {
    let readers = pool(rights != Rights::Both);
    let writer = if rights == (Rights::Apart { writes: true }) { pool(false) } else { readers.clone() };
    Pair { readers, writer }
}

async fn mysql(
    connection: &mut MySqlConnection,
    limit: Duration,
    read_only: bool,
) -> Result<(), sqlx::Error> {
    let version: String = sqlx::query("SELECT VERSION()").fetch_one(&mut *connection).await?.try_get(0)?;
    // In seconds, for every statement; and in milliseconds, for a SELECT.
    let limits = if version.contains("MariaDB") {
        format!("max_statement_time = {}", limit.as_secs_f64())
    } else {
        format!("max_execution_time = {}", limit.as_millis())
    };
    let lock = limit.as_secs().max(1);
    let settings = format!("SET SESSION {limits}, innodb_lock_wait_timeout = {lock}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut *connection).await?;
    if read_only {
        sqlx::raw_sql("SET SESSION TRANSACTION READ ONLY").execute(connection).await?;
    }
    Ok(())
}
