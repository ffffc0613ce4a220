//! Accounts in a database that starts late, has unusable values, or is configured wrongly.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::{
    stores::test_accounts::execute,
    support::{
        client::{LOGIN, login_request},
        mysql::MariaDb,
        postgres::Postgres,
        process::{Process, command, run},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_before_its_database_serves_once_it_is_up() {
    let mut database = Postgres::start();
    let url = database.database().await;
    let data = tempfile::tempdir().unwrap();
    let settings = [("ACCOUNTS__URL", url.as_str()), ("ACCOUNTS__CONNECT_TIMEOUT", "1s")];
    // Makes the keys.
    drop(Process::start(data.path(), &[]));
    database.stop();
    let process = Process::start(data.path(), &settings);
    let client = process.client().await;
    client.until_service(LOGIN, NotServing, Duration::from_secs(1)).await;
    let begun = Instant::now();
    let status = client.try_login(login_request("alice", "phone")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    database.start_again();
    client.until_service(LOGIN, Serving, Duration::from_secs(30)).await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;

    database.stop();
    client.until_service(LOGIN, NotServing, Duration::from_secs(5)).await;
    assert_eq!(client.serving("").await, Serving, "Validate does not need accounts");
    client.session(&token).await;
    database.start_again();
    client.until_service(LOGIN, Serving, Duration::from_secs(30)).await;
    client.login("alice", "phone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_a_row_that_cannot_be_represented_or_stored_are_logged_once_for_each_user() {
    // The hash is bcrypt of the usual password, and a trigger truncates every hash that is written.
    let tables = "CREATE TABLE users (id INT, name TEXT, hash TEXT, roles TEXT);
         INSERT INTO users SELECT column1, column2, '$2b$04$g36hvT.mjwzpk2aBd5tGMOWdkBs6nCE2UUl48hpT1vNxWA475KHdC', column3
             FROM (VALUES (7, 'alice', 'R&D,staff'), (8, 'bob', 'Geschäftsführung'));
         CREATE TRIGGER cut AFTER UPDATE ON users BEGIN
             UPDATE users SET hash = substr(NEW.hash, 1, 60) WHERE id = NEW.id;
         END";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("shop.db"), "").unwrap();
    let url = format!("sqlite:{}", dir.path().join("shop.db").display());
    execute(&url, tables).await;
    let select = "SELECT id AS user_id, name AS username, hash AS password_hash, roles FROM users WHERE name = :username";
    let update = "UPDATE users SET hash = :new_hash WHERE id = :user_id AND hash = :old_hash";
    let settings =
        [("ACCOUNTS__URL", &*url), ("ACCOUNTS__LOOKUP", select), ("ACCOUNTS__UPDATE_HASH", update)];
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    let log_in = async || {
        assert_eq!(client.login("alice", "").await.session.unwrap().roles, ["staff"]);
        assert_eq!(client.login("bob", "").await.session.unwrap().roles, [""; 0]);
    };
    log_in().await;
    process.output_until("accounts.update_hash did not store a new hash unchanged");
    log_in().await;
    process.terminate();
    let (_, output) = process.wait(Duration::from_secs(30));
    for (told, times) in [
        ("cannot be represented in full", 2),
        ("R&D", 1),
        ("Geschäftsführung", 1),
        ("accounts.update_hash did not store a new hash", 1),
        ("$argon2", 0),
        ("$2b$", 0),
    ] {
        assert_eq!(output.matches(told).count(), times, "{told}: {output}");
    }
}

/// Returns the error of `serve`, with and without `--check`.
fn refusal(data: &Path, settings: &[(&str, &str)]) -> String {
    let said = |arguments: &[&str]| {
        let mut serve = command(data, settings);
        serve.arg("serve").args(arguments);
        let output = run(serve, "");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    let checked = said(&["--check"]);
    assert_eq!(said(&[]), checked);
    checked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_keys_makes_none_for_existing_accounts_in_a_shared_database() {
    let mut postgres = Postgres::start();
    let mariadb = MariaDb::shared().database().await;
    let first = tempfile::tempdir().unwrap();
    let postgres_url = postgres.database().await;
    for url in [&postgres_url, &mariadb] {
        let settings = [("ACCOUNTS__URL", url.as_str()), ("ACCOUNTS__CONNECT_TIMEOUT", "1s")];
        let [data, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let process = Process::start(data.path(), &settings);
        // Without accounts any number of servers may make keys.
        drop(Process::start(other.path(), &settings));
        process.client().await.user("alice").await;
        let fresh = tempfile::tempdir().unwrap();
        let said = refusal(fresh.path(), &settings);
        assert!(said.contains("there are no signing keys in") && said.contains("accounts already"), "{said}");
        assert!(std::fs::read_dir(fresh.path()).unwrap().next().is_none(), "the failed start made a file");
        // The start succeeds with the keys of the first server, or with the explicit flag.
        let keys = data.path().join("keys");
        let admin_key = data.path().join("admin.key");
        let shared = [
            ("TOKEN__KEYS_DIR", keys.to_str().unwrap()),
            ("ACCESS__ADMIN_KEY_FILE", admin_key.to_str().unwrap()),
        ];
        drop(Process::start(fresh.path(), &[&settings[..], &shared].concat()));
        let mut serve = command(fresh.path(), &settings);
        serve.args(["serve", "--allow-new-keys"]);
        drop(Process::launch(serve, fresh.path()));
    }
    // A table that this server may not read does not count as missing.
    let stranger = postgres_url.replace("postgres@", "stranger@");
    execute(&postgres_url, "CREATE ROLE stranger LOGIN").await;
    let fresh = tempfile::tempdir().unwrap();
    let mut serve = command(fresh.path(), &[("ACCOUNTS__URL", stranger.as_str())]);
    serve.arg("serve");
    let said = String::from_utf8(run(serve, "").stderr).unwrap();
    assert!(said.contains("permission denied") && said.contains("is unknown"), "{said}");
    // During an outage of the accounts, a data directory that was used before counts as having accounts, and for another
    // one it is unknown whether there are any. A check of the settings needs no database.
    let settings = [("ACCOUNTS__URL", postgres_url.as_str()), ("ACCOUNTS__CONNECT_TIMEOUT", "1s")];
    drop(Process::start(first.path(), &[]));
    postgres.stop();
    let fresh = tempfile::tempdir().unwrap();
    let mut check = command(fresh.path(), &settings);
    check.args(["serve", "--check"]);
    assert!(run(check, "").status.success());
    let mut serve = command(fresh.path(), &settings);
    serve.arg("serve");
    let said = String::from_utf8(run(serve, "").stderr).unwrap();
    assert!(said.contains("there are no signing keys in") && said.contains("is unknown"), "{said}");
    assert!(said.contains("--allow-new-keys"), "{said}");
    assert!(std::fs::read_dir(fresh.path()).unwrap().next().is_none(), "the failed start made a file");
    std::fs::remove_dir_all(first.path().join("keys")).unwrap();
    let said = refusal(first.path(), &settings);
    assert!(
        said.contains("there are no signing keys in") && said.contains("data_dir was used before"),
        "{said}"
    );
}

#[test]
fn errors_about_database_settings_do_not_contain_the_password() {
    let url = "postgres://app:swordfish@db/app";
    let wrong_mode = format!("{url}?sslmode=verify");
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "swordfish\n").unwrap();
    let file = secret.path().to_str().unwrap();
    for (settings, told) in [
        (
            &[("ACCOUNTS__URL", "oracle://app:swordfish@db/app")][..],
            "accounts.url is not the URL of a supported database",
        ),
        (&[("ACCOUNTS__URL", &wrong_mode)], "accounts.url sslmode must be"),
        (&[("ACCOUNTS__URL", url), ("ACCOUNTS__PASSWORD", "swordfish")], "accounts.url holds a password"),
        (&[("ACCOUNTS__URL", url), ("ACCOUNTS__PASSWORD_FILE", file)], "accounts.url holds a password"),
        (
            &[("ACCOUNTS__URL", url), ("ACCOUNTS__PASSWORD_FILE", "/nowhere")],
            "accounts.password_file: cannot read /nowhere",
        ),
        (
            &[("ACCOUNTS__URL", url), ("ACCOUNTS__LOOKUP", "SELECT 1")],
            "accounts.lookup must have the placeholder",
        ),
        (
            &[("ACCESS__CALLERS_URL", "postgres://swordfish@db")],
            "access.callers_url must name a user and a database",
        ),
    ] {
        let data = tempfile::tempdir().unwrap();
        let mut serve = command(data.path(), settings);
        serve.args(["serve", "--check"]);
        let output = run(serve, "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{settings:?}");
        assert!(said.contains(told) && !said.contains("swordfish"), "{said}");
    }
}
