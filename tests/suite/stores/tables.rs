//! Tables of accounts and callers of its own for every test of the suite, whichever database they are in.

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

/// The databases that Latchkey keeps accounts of its own in.
#[derive(Debug, Clone, Copy)]
pub enum Database {
    Embedded,
    Postgres,
    MariaDb,
}

pub struct Tables {
    pub accounts: Arc<dyn Accounts>,
    pub callers: Arc<dyn Callers>,
    home: Home,
}

/// What the tests must do behind the store's back.
enum Home {
    Embedded { database: embedded::Database, dir: TempDir },
    Server { url: String },
}

impl Tables {
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

    /// Tables of ours in the database with this URL.
    pub async fn open(url: String) -> Self {
        let accounts = SqlAccounts::open(&settings(&url)).await.unwrap();
        let callers = Arc::new(accounts.callers());
        Self { accounts: Arc::new(accounts), callers, home: Home::Server { url } }
    }

    async fn open_embedded(dir: TempDir) -> Self {
        let database = embedded::Database::open(&dir.path().join("latchkey.db")).await.unwrap();
        Self {
            accounts: Arc::new(SqlAccounts::embedded(&database)),
            callers: Arc::new(SqlCallers::embedded(&database)),
            home: Home::Embedded { database, dir },
        }
    }

    /// Closes the connections and opens the same tables again.
    pub async fn reopen(self) -> Self {
        match self.home {
            Home::Embedded { database, dir } => {
                database.close().await;
                Self::open_embedded(dir).await
            }
            Home::Server { url } => Self::open(url).await,
        }
    }

    /// Executes a statement behind the store's back. Tables are written with `@` before their names.
    pub async fn execute(&self, statement: &str) {
        match &self.home {
            Home::Embedded { database, .. } => {
                let statement = sqlx::AssertSqlSafe(statement.replace('@', ""));
                sqlx::query(statement).execute(&database.writer).await.unwrap();
            }
            Home::Server { url } => execute(url, &statement.replace('@', "latchkey_")).await,
        }
    }
}

/// Patient ones: these tests are of what is true, not of how fast.
pub fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        password: None,
        max_connections: 8,
        connect_timeout: Duration::from_secs(30),
        query_timeout: Duration::from_secs(30),
    }
}

/// Executes statements, over a connection of their own.
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
