//! Opening a database of others: connecting when it can be reached, and making it ready first.
//!
//! A server may be started together with its database, so a database that does not answer yet is no reason to
//! give up. Until it does, whoever asks is told at once that the store is unavailable.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use sqlx::{
    AssertSqlSafe, Connection as _, Database, MySql, MySqlConnection, PgConnection, Pool, Postgres,
    migrate::{Migrate, MigrateError, Migrator},
    pool::PoolOptions,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    client::{Limits, Pools, SqlClient, at},
    error::SqlError,
    pools::{Rights, pools},
    session::forget_statements,
    url::{DatabaseUrl, Settings},
};
use crate::{
    domain::ports::StoreError,
    isolation::supervisor::{self, Importance},
    store::embedded,
};

/// How long the start of the server waits for the database, beyond the time to connect.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long migrations may take, with the wait for another replica that is at them.
const MIGRATION: Duration = Duration::from_mins(5);
/// The number of the advisory lock that replicas take while they make tables: `latchkey` in ASCII.
const POSTGRES_LOCK: u64 = 0x6c61_7463_686b_6579;
/// How long to wait before the next attempt: from the first, doubled each time, to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Whether the database is ready for us, and why not.
pub(super) struct Closable {
    ready: ArcSwap<Result<(), StoreError>>,
    /// The embedded database, whose file can go away.
    file: Option<embedded::Database>,
}

impl Closable {
    pub(super) fn open() -> Self {
        Self { ready: ArcSwap::from_pointee(Ok(())), file: None }
    }

    pub(super) fn of_file(database: embedded::Database) -> Self {
        Self { file: Some(database), ..Self::open() }
    }

    fn closed(store: &'static str) -> Self {
        let closed = StoreError::Unavailable { store, cause: "not yet connected".into() };
        Self { ready: ArcSwap::from_pointee(Err(closed)), file: None }
    }

    pub(super) fn pass(&self) -> Result<(), StoreError> {
        if let Some(file) = &self.file {
            file.must_be_in_place()?;
        }
        (**self.ready.load()).clone()
    }
}

/// What makes a database ready.
pub(super) trait Prepare: Send + Sync + 'static {
    /// Safe to repeat, and to do in several processes at once. What is corrupt is for an operator to mend.
    fn prepare<'a>(
        &'a self,
        link: &'a SqlClient,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;
}

/// A link to the database that passes once it is prepared. One sentence if it can never be.
pub(super) async fn start(
    store: &'static str,
    address: String,
    pools: Pools,
    settings: &Settings,
    prepare: impl Prepare,
) -> Result<SqlClient, String> {
    let gate = Arc::new(Closable::closed(store));
    let (address, limits) = (Arc::<str>::from(address), Limits::of(settings.query_timeout));
    let link = |gate| SqlClient::new(store, Arc::clone(&address), pools.clone(), limits, gate);
    let (first, outcome) = oneshot::channel();
    let (weak, open, mut first) = (Arc::downgrade(&gate), link(Arc::new(Closable::open())), Some(first));
    let supervising = async move || supervise(&weak, &open, &prepare, &mut first).await;
    // While the gate is closed, health says so.
    tokio::spawn(supervisor::supervise("database start", Importance::Deferrable, supervising));
    match timeout(settings.connect_timeout + PATIENCE, outcome).await {
        Ok(Ok(Err(StoreError::Corrupt { cause, .. }))) => Err(cause),
        _ => Ok(link(gate)),
    }
}

/// Tries until the database is ready or nobody wants it any more.
async fn supervise(
    gate: &Weak<Closable>,
    link: &SqlClient,
    prepare: &impl Prepare,
    first: &mut Option<oneshot::Sender<Result<(), StoreError>>>,
) {
    let mut pause = BACKOFF.0;
    let mut reported = String::new();
    loop {
        let outcome = prepare.prepare(link).await;
        let Some(gate) = gate.upgrade() else { return };
        gate.ready.store(Arc::new(outcome.clone()));
        if let Some(first) = first.take() {
            let _ = first.send(outcome.clone());
        }
        let Err(error) = outcome else {
            if !reported.is_empty() {
                tracing::info!(
                    store.name = link.store(),
                    server.address = link.address(),
                    "the database answers"
                );
            }
            return;
        };
        drop(gate);
        let message = error.to_string();
        if message != reported {
            tracing::warn!(
                store.name = link.store(),
                server.address = link.address(),
                error.message = message,
                "the database is not ready; trying again"
            );
            reported = message;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// A database with tables of ours.
pub(super) async fn open(store: &'static str, settings: &Settings) -> Result<SqlClient, String> {
    let target = settings.target()?;
    if let DatabaseUrl::Sqlite(path) = &target {
        let database = embedded::Database::open(path).await.map_err(|error| error.to_string())?;
        return Ok(SqlClient::embedded(store, &database));
    }
    let pools = pools(&target, settings, Rights::Both);
    start(store, target.address(), pools, settings, Migrations(target, settings.connect_timeout)).await
}

/// Creates or upgrades tables of ours.
struct Migrations(DatabaseUrl, Duration);

impl Prepare for Migrations {
    fn prepare<'a>(
        &'a self,
        link: &'a SqlClient,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>> {
        Box::pin(async move {
            match &self.0 {
                // Opened with its migrations.
                DatabaseUrl::Sqlite(_) => Ok(()),
                DatabaseUrl::Postgres(options) => {
                    let pool = one::<Postgres>(self.1).connect_lazy_with((**options).clone());
                    let work = async { migrate_postgres(&mut *pool.acquire().await?).await };
                    let outcome = within(link, work).await;
                    end(&pool).await;
                    outcome
                }
                DatabaseUrl::MySql(options) => {
                    let pool = one::<MySql>(self.1).connect_lazy_with((**options).clone());
                    let mut migrator = sqlx::migrate!("src/store/sql/migrations/mysql");
                    // The library's lock waits for -1 seconds, which MariaDB takes for a mistake: no lock.
                    migrator.set_locking(false);
                    let work = async {
                        let mut connection = pool.acquire().await?;
                        lock_mysql(&mut connection).await?;
                        migrate(&mut *connection, migrator).await
                    };
                    let outcome = within(link, work).await;
                    end(&pool).await;
                    outcome
                }
            }
        })
    }
}

/// A connection apart: waiting for another replica takes longer than a statement may.
fn one<D: Database>(connect_timeout: Duration) -> PoolOptions<D> {
    PoolOptions::new().max_connections(1).acquire_timeout(connect_timeout)
}

/// For as long as the connection lasts. The names of locks are the server's, not the database's.
async fn lock_mysql(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    let lock = "SELECT GET_LOCK(CONCAT('latchkey ', SHA1(DATABASE())), ?)";
    let locked: Option<i64> =
        sqlx::query_scalar(lock).bind(MIGRATION.as_secs()).fetch_one(&mut *connection).await?;
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
    forget_statements(&mut transaction).await?;
    let outcome = migrate(&mut *transaction, migrator).await;
    // The statements of the library are named, so they have to be closed within the transaction.
    transaction.clear_cached_statements().await?;
    outcome?;
    Ok(transaction.commit().await?)
}

/// Makes the tables, where nobody else is at it.
async fn migrate<C: Migrate>(connection: &mut C, mut migrator: Migrator) -> Result<(), MigrateError> {
    // Others who use the library in the same database have a table of its usual name.
    migrator.dangerous_set_table_name("latchkey_migrations");
    migrator.run_direct(None, connection, false).await
}

async fn within(
    link: &SqlClient,
    work: impl Future<Output = Result<(), MigrateError>>,
) -> Result<(), StoreError> {
    if let Ok(outcome) = timeout(MIGRATION, work).await {
        return outcome.map_err(|error| refused(link, &error));
    }
    let cause = at(link.address(), &format!("the tables were not ready within {MIGRATION:?}"));
    Err(StoreError::Unavailable { store: link.store(), cause })
}

/// Ends the connection and so its lock. A server that hangs must not hold us up.
async fn end<D: Database>(pool: &Pool<D>) {
    let _ = timeout(Duration::from_secs(1), pool.close()).await;
}

fn refused(link: &SqlClient, error: &MigrateError) -> StoreError {
    let store = link.store();
    let corrupt = |cause: String| StoreError::Corrupt { store, cause };
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match StoreError::from(SqlError::new(store, error)) {
                StoreError::Corrupt { cause, .. } => corrupt(format!(
                    "the tables cannot be made: {cause}: give the user the right to create tables, or have them made by one who may"
                )),
                StoreError::Unavailable { store, cause } => {
                    StoreError::Unavailable { store, cause: at(link.address(), &cause) }
                }
            }
        }
        MigrateError::VersionMissing(version) => corrupt(format!(
            "the database was written by a newer version of Latchkey (its schema is number {version}): start that version"
        )),
        MigrateError::Dirty(version) => corrupt(format!(
            "making the tables was interrupted: remove the row of version {version} from latchkey_migrations, and start again"
        )),
        other => corrupt(other.to_string()),
    }
}
