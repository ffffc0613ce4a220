//! Accounts and callers in a new database for each test.

use std::{sync::Arc, time::Duration};

use latchkey::{
    domain::ports::{Accounts, Callers},
    store::{
        embedded,
        sql::{Settings, SqlAccounts, SqlCallers},
    },
};
use sqlx::{Connection as _, MySqlConnection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::support::{mysql::MariaDb, postgres::Postgres};

/// The databases that the conformance tests of accounts and callers run on.
#[derive(Debug, Clone, Copy)]
pub enum Database {
    Embedded,
    Postgres,
    MariaDb,
}

pub struct TestAccounts {
    pub accounts: Arc<dyn Accounts>,
    pub callers: Arc<dyn Callers>,
    direct: Direct,
}

/// Access to the database past the store.
enum Direct {
    Embedded { database: embedded::Database, dir: TempDir },
    Server { url: String },
}

impl TestAccounts {
    pub async fn on(database: Database) -> Self {
        match database {
            Database::Embedded => Self::embedded().await,
            Database::Postgres => Self::open(Postgres::shared().database().await).await,
            Database::MariaDb => Self::open(MariaDb::shared().database().await).await,
        }
    }

    async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::open_embedded(dir).await
    }

    /// Opens the tables in the database with this URL.
    pub async fn open(url: String) -> Self {
        let accounts = SqlAccounts::open(&settings(&url)).await.unwrap();
        let callers = Arc::new(accounts.callers());
        Self { accounts: Arc::new(accounts), callers, direct: Direct::Server { url } }
    }

    async fn open_embedded(dir: TempDir) -> Self {
        let database = embedded::Database::open(&dir.path().join("latchkey.db")).await.unwrap();
        Self {
            accounts: Arc::new(SqlAccounts::embedded(&database)),
            callers: Arc::new(SqlCallers::embedded(&database)),
            direct: Direct::Embedded { database, dir },
        }
    }

    /// Closes the connections and opens the same tables again.
    pub async fn reopen(self) -> Self {
        match self.direct {
            Direct::Embedded { database, dir } => {
                database.close().await;
                Self::open_embedded(dir).await
            }
            Direct::Server { url } => Self::open(url).await,
        }
    }

    /// Executes a statement past the store. `@` stands for the prefix of table names.
    pub async fn execute(&self, statement: &str) {
        match &self.direct {
            Direct::Embedded { database, .. } => {
                let statement = sqlx::AssertSqlSafe(statement.replace('@', ""));
                sqlx::query(statement).execute(&database.writer).await.unwrap();
            }
            Direct::Server { url } => execute(url, &statement.replace('@', "latchkey_")).await,
        }
    }
}

/// Settings with long time-outs, because these tests do not measure speed.
pub fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        password: None,
        max_connections: 8,
        connect_timeout: Duration::from_secs(30),
        query_timeout: Duration::from_secs(30),
    }
}

/// Executes statements over a new connection.
pub async fn execute(url: &str, statements: &str) {
    let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()));
    if url.starts_with("postgres") {
        statements.execute(&mut PgConnection::connect(url).await.unwrap()).await.unwrap();
    } else if url.starts_with("mysql") {
        statements.execute(&mut MySqlConnection::connect(url).await.unwrap()).await.unwrap();
    } else {
        statements.execute(&mut SqliteConnection::connect(url).await.unwrap()).await.unwrap();
    }
}
