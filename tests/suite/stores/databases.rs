//! Accounts under network failures, restarts, and other users of the database.

use rstest::rstest;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::{
    domain::ports::{Accounts, Callers as _},
    store::sql::{Settings, SqlAccounts, SqlCallers},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::task::JoinSet;

use super::{
    accounts::account,
    test_accounts::{execute, settings},
    test_store::{corrupt, unavailable},
};
use crate::support::{
    mysql::MariaDb,
    postgres::Postgres,
    proxy::{Proxy, ProxyMode},
};

/// Settings with short time-outs.
fn quick(url: &str) -> Settings {
    let (connect_timeout, query_timeout) = (Duration::from_secs(1), Duration::from_millis(500));
    Settings { connect_timeout, query_timeout, ..settings(url) }
}

async fn open(url: &str) -> SqlAccounts {
    SqlAccounts::open(&settings(url)).await.unwrap()
}

async fn refusal(url: &str) -> String {
    SqlAccounts::open(&settings(url)).await.err().unwrap()
}

/// Pings the accounts until they answer, for a minute at most.
async fn until_available(accounts: &dyn Accounts) {
    let start = Instant::now();
    while let Err(error) = accounts.ping().await {
        assert!(start.elapsed() < Duration::from_mins(1), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns how long a call took that must have failed with `Unavailable`.
async fn time_to_give_up(accounts: &dyn Accounts) -> Duration {
    let start = Instant::now();
    unavailable(accounts.find(&account("alice").username).await);
    start.elapsed()
}

#[derive(Debug, Clone, Copy)]
enum DatabaseServer {
    Postgres,
    MariaDb,
}

impl DatabaseServer {
    /// Creates a database and returns its URL.
    async fn database(self) -> String {
        match self {
            Self::Postgres => Postgres::shared().database().await,
            Self::MariaDb => MariaDb::shared().database().await,
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_on_an_empty_database_make_its_tables_once(
    #[values(DatabaseServer::Postgres, DatabaseServer::MariaDb)] server: DatabaseServer,
) {
    let url: &str = &server.database().await;

    // Another application has a table in the same database.
    execute(url, "CREATE TABLE accounts (x INT); CREATE TABLE _sqlx_migrations (x INT)").await;
    let mut replicas = JoinSet::new();
    for number in 0..6 {
        let url = url.to_owned();
        replicas.spawn(async move {
            let accounts = open(&url).await;
            assert!(accounts.create(&account(&format!("user{number}"))).await.unwrap());
            accounts
        });
    }
    for accounts in replicas.join_all().await {
        assert_eq!(accounts.list(None, 10).await.unwrap().len(), 6);
    }
    execute(url, "DROP TABLE accounts, _sqlx_migrations").await;
    assert_eq!(open(url).await.list(None, 10).await.unwrap().len(), 6);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_version_is_refused(
    #[values(DatabaseServer::Postgres, DatabaseServer::MariaDb)] server: DatabaseServer,
) {
    let url: &str = &server.database().await;

    open(url).await;
    let newer = "INSERT INTO latchkey_migrations (version, description, success, checksum, execution_time)
                     VALUES (99, 'x', true, 'x', 0)";
    execute(url, newer).await;
    let refusal = refusal(url).await;
    assert!(refusal.contains("newer version of Latchkey (its schema has version 99)"), "{refusal}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_gone_is_told_from_an_outage_and_by_a_ping(
    #[values(DatabaseServer::Postgres, DatabaseServer::MariaDb)] server: DatabaseServer,
) {
    let url: &str = &server.database().await;

    let accounts = open(url).await;
    execute(url, "DROP TABLE latchkey_accounts").await;
    assert!(corrupt(accounts.list(None, 1).await).contains("latchkey_accounts"));
    assert!(corrupt(accounts.ping().await).contains("latchkey_accounts"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_connections_wait_for_each_other(
    #[values(DatabaseServer::Postgres, DatabaseServer::MariaDb)] server: DatabaseServer,
) {
    let url: &str = &server.database().await;

    let accounts = SqlAccounts::open(&Settings { max_connections: 2, ..settings(url) }).await.unwrap();
    let accounts = Arc::new(accounts);
    let mut questions = JoinSet::new();
    for _ in 0..50 {
        let accounts = Arc::clone(&accounts);
        questions.spawn(async move { accounts.ping().await });
    }
    assert!(questions.join_all().await.iter().all(Result::is_ok));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_returns_its_connection(
    #[values(DatabaseServer::Postgres, DatabaseServer::MariaDb)] server: DatabaseServer,
) {
    let url: &str = &server.database().await;

    let accounts = SqlAccounts::open(&Settings { max_connections: 1, ..settings(url) }).await.unwrap();
    for round in 0..30 {
        let account = account(&format!("user{round}"));
        let question = accounts.create(&account);
        let _ = tokio::time::timeout(Duration::from_micros(round * 150), question).await;
    }
    accounts.ping().await.unwrap();
    assert!(accounts.create(&account("alice")).await.unwrap());
}

#[tokio::test]
async fn a_missing_right_to_create_tables_is_an_error_that_says_so() {
    let url = Postgres::shared().database().await;
    execute(&url, "REVOKE CREATE ON SCHEMA public FROM public").await;
    execute(&url, "DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN OTHERS THEN NULL; END $$").await;
    let refusal = refusal(&url.replace("postgres@", "guest@")).await;
    assert!(refusal.contains("give the user the right to create tables"), "{refusal}");
}

#[tokio::test]
async fn callers_can_have_a_database_of_their_own() {
    let url = Postgres::shared().database().await;
    let callers = SqlCallers::open(&settings(&url)).await.unwrap();
    assert_eq!(callers.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_wrong_password_is_an_outage_that_does_not_tell_the_password() {
    let url = MariaDb::shared().database().await.replace(":secret@", ":swordfish@");
    let accounts = SqlAccounts::open(&settings(&url)).await.unwrap();
    let told = unavailable(accounts.ping().await);
    assert!(told.contains("Access denied") && !told.contains("swordfish"), "{told}");
    let server = MariaDb::shared().port();
    assert!(told.starts_with(&format!("127.0.0.1:{server}/test")), "{told}");
}

#[tokio::test]
async fn an_error_of_the_server_names_its_address() {
    let server = Postgres::shared().port();
    let url = Postgres::shared().url("nobody:swordfish", "nowhere");
    let accounts = SqlAccounts::open(&settings(&url)).await.unwrap();
    let told = unavailable(accounts.ping().await);
    assert!(told.starts_with(&format!("127.0.0.1:{server}/nowhere: ")), "{told}");
    assert!(told.contains("nobody") && !told.contains("swordfish"), "{told}");
}

/// Checks a server that is down at the start, comes up, goes down, and comes up again.
async fn outlive_outages(url: &str, mut server: impl FnMut(bool)) {
    server(false);
    let start = Instant::now();
    let accounts = SqlAccounts::open(&quick(url)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "the start does not wait for the database");
    let start = Instant::now();
    unavailable(accounts.ping().await);
    assert!(start.elapsed() < Duration::from_millis(100), "known to be down, told at once");

    server(true);
    until_available(&accounts).await;
    let alice = account("alice");
    assert!(accounts.create(&alice).await.unwrap(), "the tables were not created");

    server(false);
    let took = time_to_give_up(&accounts).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    server(true);
    until_available(&accounts).await;
    assert_eq!(accounts.find(&alice.username).await.unwrap(), Some(alice));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_may_start_later_and_restart() {
    let mut server = Postgres::start();
    let url = server.database().await;
    outlive_outages(&url, |up| if up { server.start_again() } else { server.stop() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_may_start_later_and_restart() {
    let mut server = MariaDb::start();
    let url = server.database().await;
    outlive_outages(&url, |up| if up { server.start_again() } else { server.stop() }).await;
}

/// Checks that calls fail in time while a connection stalls or a server is frozen, and recover afterwards.
async fn outlive_silence(accounts: &SqlAccounts, silence: impl Fn(bool)) {
    let alice = account("alice");
    assert!(accounts.create(&alice).await.unwrap());
    silence(true);
    // The calls are more than the connections.
    for _ in 0..12 {
        let took = time_to_give_up(accounts).await;
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    silence(false);
    until_available(accounts).await;
    assert_eq!(accounts.find(&alice.username).await.unwrap(), Some(alice));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_over_a_stalled_connection_to_postgres_fail_in_time() {
    let url = Postgres::shared().database().await;
    let proxy = Proxy::to(Postgres::shared().port()).await;
    let url = url.replace(&Postgres::shared().port().to_string(), &proxy.address.port().to_string());
    let accounts = SqlAccounts::open(&quick(&url)).await.unwrap();
    outlive_silence(&accounts, |silent| {
        proxy.set(if silent { ProxyMode::Stall } else { ProxyMode::Forward });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_to_a_frozen_mariadb_fail_in_time() {
    let server = MariaDb::start();
    let accounts = SqlAccounts::open(&quick(&server.database().await)).await.unwrap();
    outlive_silence(&accounts, |frozen| server.signal(if frozen { "STOP" } else { "CONT" })).await;
}

/// Returns a certificate authority, and a certificate for 127.0.0.1 with its key, in PEM.
fn certificates() -> (String, String, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();
    (authority.pem(), certificate.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_needs_a_certificate_of_the_right_authority() {
    let (authority, certificate, key) = certificates();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &str| {
        std::fs::write(dir.path().join(name), contents).unwrap();
        dir.path().join(name).display().to_string()
    };
    let (right, other) = (file("right.pem", &authority), file("other.pem", &certificates().0));
    let mut server = Postgres::start();
    let url = server.database().await;
    server.require_tls(&certificate, &key);

    let verified = |root: &str| format!("{url}?sslmode=verify-full&sslrootcert={root}");
    SqlAccounts::open(&settings(&verified(&right))).await.unwrap().ping().await.unwrap();
    for (url, told) in [
        (verified(&other), "certificate"),
        (format!("{url}?sslmode=verify-full"), "certificate"),
        (verified(&right).replace("127.0.0.1", "localhost"), "certificate"),
        (format!("{url}?sslmode=disable"), "no encryption"),
    ] {
        let accounts = SqlAccounts::open(&quick(&url)).await.unwrap();
        let error = unavailable(accounts.ping().await);
        assert!(error.contains(told), "{url}: {error}");
    }
}
