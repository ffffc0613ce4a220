//! Tables of accounts and callers of its own for every test of the suite, whichever database they are in.

use std::sync::Arc;

use latchkey::{
    domain::ports::{Accounts, Callers},
    store::{
        embedded::Database,
        sql::{SqlAccounts, SqlCallers},
    },
};
use tempfile::TempDir;

pub struct Tables {
    pub accounts: Arc<dyn Accounts>,
    pub callers: Arc<dyn Callers>,
    home: Home,
}

/// What the tests must do behind the store's back.
enum Home {
    Embedded { database: Database, dir: TempDir },
}

impl Tables {
    pub async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::open_embedded(dir).await
    }

    async fn open_embedded(dir: TempDir) -> Self {
        let database = Database::open(&dir.path().join("latchkey.db")).await.unwrap();
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
        }
    }

    /// Executes a statement behind the store's back. Tables are written with `@` before their names.
    pub async fn execute(&self, statement: &str) {
        match &self.home {
            Home::Embedded { database, .. } => {
                let statement = sqlx::AssertSqlSafe(statement.replace('@', ""));
                sqlx::query(statement).execute(&database.writer).await.unwrap();
            }
        }
    }
}

/// Runs async tests on every database, each as one test a database.
macro_rules! on_every_database {
    ($($(#[$meta:meta])* async fn $name:ident($tables:ident: Tables) $body:block)+) => {
        $(
            $(#[$meta])*
            mod $name {
                #[allow(unused_imports, reason = "not every test needs them")]
                use super::*;
                use crate::stores::tables::Tables;

                async fn run($tables: Tables) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn embedded() {
                    run(Tables::embedded().await).await;
                }
            }
        )+
    };
}
