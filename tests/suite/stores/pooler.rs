//! Accounts through a pooler that runs each transaction on another connection to the server.

use std::{str::FromStr as _, sync::Arc};

use latchkey::{
    domain::ports::{Account, AccountChange, Accounts, Callers as _, DebtCause},
    store::sql::{ExternalUsers, Lookup, Settings, SqlAccounts},
};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow},
};
use tokio::task::JoinSet;

use super::{
    accounts::{account, hash, name},
    states::{now, user},
    test_accounts::{execute, settings},
};
use crate::support::{pgbouncer::PgBouncer, postgres::Postgres};

/// The number of connections from the pooler to the server.
const CONNECTIONS: usize = 3;

/// Another application that shares the connections and uses the simple protocol.
struct Application(PgConnection);

impl Application {
    /// Runs statements on every connection to the server at the same time.
    async fn on_all(url: &str, statements: &str) {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Self::connect(url).await;
            client.run("BEGIN").await;
            client.run(statements).await;
            clients.push(client);
        }
        for mut client in clients {
            client.run("COMMIT").await;
        }
    }

    async fn connect(url: &str) -> Self {
        let options = PgConnectOptions::from_str(url).unwrap().extra_float_digits(None);
        Self(PgConnection::connect_with(&options).await.unwrap())
    }

    async fn run(&mut self, statement: &str) -> Vec<PgRow> {
        let statement = AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).fetch_all(&mut self.0).await.unwrap()
    }

    /// Selects one value on every connection to the server at the same time.
    async fn on_each(url: &str, select: &str) -> Vec<String> {
        let mut clients = Vec::new();
        let mut found = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Self::connect(url).await;
            client.run("BEGIN").await;
            let rows = client.run(&format!("SELECT ({select})::text")).await;
            // The simple protocol returns text.
            found.push(rows[0].get_unchecked::<Option<String>, _>(0).unwrap_or_default());
            clients.push(client);
        }
        for mut client in clients {
            client.run("COMMIT").await;
        }
        found
    }

    /// Checks that the connections have default settings, no prepared statements or locks, and can write.
    async fn is_unaffected(url: &str) {
        for (select, expected) in [
            ("current_setting('default_transaction_read_only')", "off"),
            ("current_setting('transaction_read_only')", "off"),
            ("current_setting('statement_timeout')", "0"),
            ("current_setting('idle_in_transaction_session_timeout')", "0"),
            ("SELECT count(*) FROM pg_prepared_statements", "0"),
            (
                "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
                 WHERE locktype = 'advisory' AND datname = current_database()",
                "0",
            ),
        ] {
            let found = Self::on_each(url, select).await;
            assert!(found.iter().all(|found| found == expected), "{select}: {found:?}");
        }
        let write = "CREATE TABLE IF NOT EXISTS written (x int); INSERT INTO written VALUES (1)";
        Self::connect(url).await.run(write).await;
    }
}

/// Settings with several connections, which do not share prepared statements.
fn pooled(url: &str) -> Settings {
    Settings { max_connections: 8, ..settings(url) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_work_through_a_pooler_and_leave_its_connections_unchanged() {
    let direct = Postgres::shared().database().await;
    let Some(pooler) = PgBouncer::before(Postgres::shared(), CONNECTIONS) else { return };
    let url = pooler.url(&direct);
    Application::on_all(&url, "SELECT 1").await;

    // Several replicas create the tables at once, then others open them.
    for _ in 0..2 {
        let mut replicas = JoinSet::new();
        for _ in 0..4 {
            let url = url.clone();
            replicas
                .spawn(async move { SqlAccounts::open(&pooled(&url)).await.unwrap().ping().await.unwrap() });
        }
        replicas.join_all().await;
    }

    let accounts = Arc::new(SqlAccounts::open(&pooled(&url)).await.unwrap());
    let mut users = JoinSet::new();
    for number in 0..40 {
        let accounts = Arc::clone(&accounts);
        users.spawn(async move {
            let account = account(&format!("user{number:02}"));
            assert!(accounts.create(&account).await.unwrap());
            let new = AccountChange::Password(hash("$new"));
            let cause = Some(DebtCause::CredentialsChanged);
            let (_, debt) = accounts.change(&account.user_id, new, cause, now()).await.unwrap().unwrap();
            accounts.settled(&debt.unwrap()).await.unwrap();
            let found = accounts.find(&account.username).await.unwrap();
            assert_eq!(found, Some(Account { password: hash("$new"), ..account }));
        });
    }
    users.join_all().await;
    assert_eq!(accounts.list(None, 100).await.unwrap().len(), 40);
    assert_eq!(accounts.callers().list().await.unwrap(), []);
    Application::is_unaffected(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_users_work_through_a_pooler_and_leave_its_connections_unchanged() {
    let direct = Postgres::shared().database().await;
    let Some(pooler) = PgBouncer::before(Postgres::shared(), CONNECTIONS) else { return };
    let url = pooler.url(&direct);
    let table = "CREATE EXTENSION citext;
                 CREATE TABLE users (id int, name citext, hash text);
                 INSERT INTO users SELECT n, 'user' || n, '$old' FROM generate_series(1, 40) n";
    execute(&direct, table).await;
    let select = "SELECT id AS user_id, name AS username, hash AS password_hash FROM users";
    let lookup = Lookup {
        by_name: format!("{select} WHERE name = :username"),
        by_id: Some(format!("{select} WHERE id = :user_id")),
        update_hash: Some(
            "UPDATE users SET hash = :new_hash WHERE id = :user_id AND hash = :old_hash".into(),
        ),
    };
    Application::on_all(&url, "SELECT 1").await;
    for _ in 0..3 {
        let accounts = Arc::new(ExternalUsers::open(&pooled(&url), &lookup).await.unwrap());
        let mut users = JoinSet::new();
        for number in 1..=40 {
            let accounts = Arc::clone(&accounts);
            users.spawn(async move {
                let (id, name) = (user(&number.to_string()), name(&format!("USER{number}")));
                let found = accounts.find(&name).await.unwrap().unwrap();
                assert_eq!(found.user_id, id);
                let new = hash(&format!("$new of {number}"));
                accounts.rehash(&name, &id, &found.password, &new).await.unwrap();
                assert_eq!(accounts.get(&id).await.unwrap().unwrap().password, new);
            });
        }
        users.join_all().await;
        Application::is_unaffected(&url).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_statements_of_other_applications_do_not_conflict() {
    let direct = Postgres::shared().database().await;
    let Some(pooler) = PgBouncer::before(Postgres::shared(), CONNECTIONS) else { return };
    let url = pooler.url(&direct);
    let leave: Vec<_> = (1..10).map(|number| format!("PREPARE sqlx_s_{number} AS SELECT 1")).collect();
    Application::on_all(&url, &leave.join("; ")).await;
    let left = Application::on_each(&url, "SELECT count(*) FROM pg_prepared_statements").await;
    assert!(left.iter().all(|left| left == "9"), "{left:?}");

    let accounts = SqlAccounts::open(&pooled(&url)).await.unwrap();
    assert!(accounts.create(&account("alice")).await.unwrap());
    let select = "SELECT user_id, username, password_hash FROM latchkey_accounts WHERE username = :username";
    let lookup = Lookup { by_name: select.into(), by_id: None, update_hash: None };
    for _ in 0..2 * CONNECTIONS {
        let accounts = ExternalUsers::open(&pooled(&url), &lookup).await.unwrap();
        assert!(accounts.find(&name("alice")).await.unwrap().is_some());
    }
}
