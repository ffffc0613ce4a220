//! Opens a database on a server: connects when it can be reached, and prepares it before the first request.
//!
//! A server may start together with its database, so a database that does not answer yet does not end the start.
//! Until it does, every request fails at once with `Unavailable`.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection as _, Database, MySql, MySqlConnection, PgConnection, Pool, Postgres,
    migrate::{Migrate, MigrateError, Migrator},
    pool::PoolOptions,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    client::SqlClient,
    error::{SqlError, with_address},
    pools::{Pools, WriteAccess},
    readiness::Readiness,
    session::{Timeouts, deallocate_statements},
    url::{DatabaseUrl, Settings},
};
use crate::{
    domain::ports::StoreError,
    isolation::supervisor::{self, Importance},
    store::embedded,
};

/// How long the start of the server waits for the database, in addition to the time limit for connecting.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit for migrations, including the wait for those of another replica.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(5);
/// The number of the advisory lock that replicas take for migrations: `latchkey` in ASCII.
const POSTGRES_LOCK: u64 = 0x6c61_7463_686b_6579;
/// The delay before the next attempt doubles from the first value to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Prepares a database for requests.
pub(super) trait Prepare: Send + Sync + 'static {
    /// May be called again, and by several processes at once. `Corrupt` means that an operator has to act.
    fn prepare<'a>(&'a self, client: &'a SqlClient) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Prepares a database in the background and returns a client, which fails until then. Returns an error if an
/// operator has to act first.
pub(super) async fn start(
    store: &'static str,
    address: String,
    pools: Pools,
    settings: &Settings,
    prepare: impl Prepare,
) -> Result<SqlClient, String> {
    let readiness = Arc::new(Readiness::connecting(store));
    let (address, timeouts) = (Arc::<str>::from(address), Timeouts::new(settings.query_timeout));
    let client = |readiness| SqlClient::new(store, Arc::clone(&address), pools.clone(), timeouts, readiness);
    let (first_attempt, outcome) = oneshot::channel();
    let (weak, preparing, mut first_attempt) =
        (Arc::downgrade(&readiness), client(Arc::new(Readiness::ready())), Some(first_attempt));
    let supervising = async move || supervise(&weak, &preparing, &prepare, &mut first_attempt).await;
    // Health reports the store as unavailable until the database is prepared.
    tokio::spawn(supervisor::supervise("database start", Importance::Deferrable, supervising));
    match timeout(settings.connect_timeout + START_TIMEOUT, outcome).await {
        Ok(Ok(Err(StoreError::Corrupt { cause, .. }))) => Err(cause),
        _ => Ok(client(readiness)),
    }
}

/// Repeats the preparation until it succeeds or the last client is dropped.
async fn supervise(
    readiness: &Weak<Readiness>,
    client: &SqlClient,
    prepare: &impl Prepare,
    first_attempt: &mut Option<oneshot::Sender<Result<(), StoreError>>>,
) {
    let mut backoff = BACKOFF.0;
    let mut last_error = String::new();
    loop {
        let outcome = prepare.prepare(client).await;
        let Some(readiness) = readiness.upgrade() else { return };
        readiness.set(outcome.clone());
        if let Some(first_attempt) = first_attempt.take() {
            let _ = first_attempt.send(outcome.clone());
        }
        let Err(error) = outcome else {
            if !last_error.is_empty() {
                tracing::info!(
                    store.name = client.store(),
                    server.address = client.address(),
                    "the database is ready"
                );
            }
            return;
        };
        drop(readiness);
        let message = error.to_string();
        if message != last_error {
            tracing::warn!(
                store.name = client.store(),
                server.address = client.address(),
                error.message = message,
                "the database is not ready; retrying"
            );
            last_error = message;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Opens a database for tables of Latchkey.
pub(super) async fn open(store: &'static str, settings: &Settings) -> Result<SqlClient, String> {
    let url = settings.parse_url()?;
    if let DatabaseUrl::Sqlite(path) = &url {
        let database = embedded::Database::open(path).await.map_err(|error| error.to_string())?;
        return Ok(SqlClient::embedded(store, &database));
    }
    let pools = Pools::new(&url, settings, WriteAccess::Shared);
    let address = url.address();
    let migrations = Migrations { url, connect_timeout: settings.connect_timeout };
    start(store, address, pools, settings, migrations).await
}

/// Creates or upgrades the tables of Latchkey.
struct Migrations {
    url: DatabaseUrl,
    connect_timeout: Duration,
}

impl Prepare for Migrations {
    fn prepare<'a>(&'a self, client: &'a SqlClient) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match &self.url {
                // `embedded::Database::open` runs the migrations.
                DatabaseUrl::Sqlite(_) => Ok(()),
                DatabaseUrl::Postgres(options) => {
                    let pool = single_connection::<Postgres>(self.connect_timeout)
                        .connect_lazy_with((**options).clone());
                    let work = async { migrate_postgres(&mut *pool.acquire().await?).await };
                    let outcome = with_time_limit(client, work).await;
                    close(&pool).await;
                    outcome
                }
                DatabaseUrl::MySql(options) => {
                    let pool = single_connection::<MySql>(self.connect_timeout)
                        .connect_lazy_with((**options).clone());
                    let mut migrator = sqlx::migrate!("src/store/sql/migrations/mysql");
                    // The library's lock has a time limit of -1 seconds, with which MariaDB takes no lock.
                    migrator.set_locking(false);
                    let work = async {
                        let mut connection = pool.acquire().await?;
                        lock_mysql(&mut connection).await?;
                        migrate(&mut *connection, migrator).await
                    };
                    let outcome = with_time_limit(client, work).await;
                    close(&pool).await;
                    outcome
                }
            }
        })
    }
}

/// Returns options for a connection without the statement time limit, because waiting for the migrations of another
/// replica takes longer.
fn single_connection<D: Database>(connect_timeout: Duration) -> PoolOptions<D> {
    PoolOptions::new().max_connections(1).acquire_timeout(connect_timeout)
}

/// Takes a lock that lasts as long as the connection. The names of locks are global to the server, so the name of the
/// database is part of it.
async fn lock_mysql(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    let lock = "SELECT GET_LOCK(CONCAT('latchkey ', SHA1(DATABASE())), ?)";
    let locked: Option<i64> =
        sqlx::query_scalar(lock).bind(MIGRATION_TIMEOUT.as_secs()).fetch_one(&mut *connection).await?;
    if locked == Some(1) { Ok(()) } else { Err(sqlx::Error::PoolTimedOut) }
}

/// Runs the migrations in one transaction, under an advisory lock of that transaction. The library's own lock belongs
/// to the session, which changes with each transaction behind a pooler.
async fn migrate_postgres(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut migrator = sqlx::migrate!("src/store/sql/migrations/postgres");
    migrator.set_locking(false);
    let mut transaction = connection.begin().await?;
    let lock = format!("SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({POSTGRES_LOCK})");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
    deallocate_statements(&mut transaction).await?;
    let outcome = migrate(&mut *transaction, migrator).await;
    // The statements of the library are named, so they have to be closed within the transaction.
    transaction.clear_cached_statements().await?;
    outcome?;
    Ok(transaction.commit().await?)
}

async fn migrate<C: Migrate>(connection: &mut C, mut migrator: Migrator) -> Result<(), MigrateError> {
    // Other programs that use the library in the same database have a table with its default name.
    migrator.dangerous_set_table_name("latchkey_migrations");
    migrator.run_direct(None, connection, false).await
}

async fn with_time_limit(
    client: &SqlClient,
    work: impl Future<Output = Result<(), MigrateError>>,
) -> Result<(), StoreError> {
    if let Ok(outcome) = timeout(MIGRATION_TIMEOUT, work).await {
        return outcome.map_err(|error| migration_error(client, &error));
    }
    let cause = format!("the migrations did not finish within {MIGRATION_TIMEOUT:?}");
    let cause = with_address(client.address(), &cause);
    Err(StoreError::Unavailable { store: client.store(), cause })
}

/// Closes the connection, which releases its lock. The time limit is for a server that hangs.
async fn close<D: Database>(pool: &Pool<D>) {
    let _ = timeout(Duration::from_secs(1), pool.close()).await;
}

fn migration_error(client: &SqlClient, error: &MigrateError) -> StoreError {
    let store = client.store();
    let corrupt = |cause: String| StoreError::Corrupt { store, cause };
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match StoreError::from(SqlError::new(store, error)) {
                StoreError::Corrupt { cause, .. } => corrupt(format!(
                    "failed to create the tables: {cause}: give the user the right to create tables, or have another user create them"
                )),
                StoreError::Unavailable { store, cause } => {
                    StoreError::Unavailable { store, cause: with_address(client.address(), &cause) }
                }
            }
        }
        MigrateError::VersionMissing(version) => corrupt(format!(
            "the database was written by a newer version of Latchkey (its schema has version {version}): start that version"
        )),
        MigrateError::Dirty(version) => corrupt(format!(
            "a migration was interrupted: remove the row of version {version} from latchkey_migrations, and start again"
        )),
        other => corrupt(other.to_string()),
    }
}
