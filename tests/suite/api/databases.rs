//! The server with accounts in PostgreSQL and MariaDB, its own and those of other applications.

use std::time::Duration;

use latchkey::{
    domain::password::{Argon2Params, Password, Passwords},
    grpc::pb::{self, RejectionReason, get_account_request::Key},
};
use tonic::Code;

use super::{disable, parts};
use crate::{
    stores::test_accounts::execute,
    support::{
        client::{PASSWORD, login_request},
        mysql::MariaDb,
        pgbouncer::PgBouncer,
        postgres::Postgres,
        server::{Server, Store},
    },
};

/// Checks that an account created on one server logs in on the other and is disabled on the first.
async fn share(accounts: &str) {
    let keys = tempfile::tempdir().unwrap();
    let first = Server::with(Store::Redis, &[("ACCOUNTS__URL", accounts)]).await;
    let redis = first.redis.as_ref().unwrap().url();
    for entry in std::fs::read_dir(first.data.path().join("keys")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, keys.path().join(path.file_name().unwrap())).unwrap();
    }
    let shared = [
        ("ACCOUNTS__URL", accounts),
        ("SESSIONS__URL", redis.as_str()),
        ("TOKEN__KEYS_DIR", keys.path().to_str().unwrap()),
    ];
    let second = Server::with(Store::Embedded, &shared).await;

    let alice = first.client.user_with_roles("alice", &["staff"]).await;
    let login = second.client.login("ALICE", "phone").await;
    assert_eq!(login.session.as_ref().unwrap().user_id, alice);
    assert_eq!(first.client.session(&login.token).await.roles, ["staff"]);
    let answer = first.client.accounts.clone().update_account(first.client.admin(disable(&alice))).await;
    assert_eq!(answer.unwrap().into_inner().ended, 1);
    let rejection = second.client.rejection(&login.token).await;
    assert_eq!(rejection.reason(), RejectionReason::AccountDisabled);
    let refused = second.client.try_login(login_request("alice", "phone")).await.unwrap_err();
    assert_eq!(parts(&refused).1, "ACCOUNT_DISABLED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_accounts_in_postgres_and_sessions_in_redis() {
    share(&Postgres::shared().database().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_accounts_in_mariadb_and_sessions_in_redis() {
    share(&MariaDb::shared().database().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_accounts_through_a_pooler_and_sessions_in_redis() {
    let database = Postgres::shared().database().await;
    let Some(pooler) = PgBouncer::before(Postgres::shared(), 3) else { return };
    share(&pooler.url(&database)).await;
}

/// Checks that a name outside the character set is unknown and costs a hash like any other.
async fn nobody_is_called(url: &str, names: &[&str]) {
    let table = "CREATE TABLE users (id INT, name VARCHAR(50), hash VARCHAR(200)); INSERT INTO users VALUES (1, 'alice', '!')";
    execute(url, table).await;
    let select =
        "SELECT id AS user_id, name AS username, hash AS password_hash FROM users WHERE name = :username";
    let settings = [("ACCOUNTS__URL", url), ("ACCOUNTS__LOOKUP", select)];
    let server = Server::with(Store::Embedded, &settings).await;
    for name in names {
        let before = server.app.engine.passwords().hasher().hashes();
        let refused = server.client.try_login(login_request(name, "phone")).await.unwrap_err();
        assert_eq!(
            (parts(&refused).0, parts(&refused).1.as_str()),
            (Code::Unauthenticated, "INVALID_CREDENTIALS")
        );
        assert_eq!(server.app.engine.passwords().hasher().hashes() - before, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_outside_the_character_set_gets_the_answer_of_an_unknown_one() {
    let names = ["nobody", "日本語", "a😀"];
    let mariadb = MariaDb::shared().database().await;
    execute(&mariadb, "ALTER DATABASE CHARACTER SET latin1").await;
    nobody_is_called(&mariadb, &names).await;
    nobody_is_called(&Postgres::shared().database_in("LATIN1").await, &names).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_users_log_in_and_are_not_modified() {
    let url = Postgres::shared().database().await;
    let cheap = Argon2Params { memory_kib: 8, iterations: 1, parallelism: 1 };
    let passwords = Passwords::new(cheap, 1, 1).unwrap();
    let hash = passwords.hash(Password::presented(PASSWORD.into()).unwrap()).await.unwrap();
    let table = format!(
        "CREATE TABLE users (id SERIAL, name TEXT UNIQUE, hash TEXT, active BOOLEAN, groups TEXT);
         INSERT INTO users VALUES (7, 'alice', '{0}', true, 'staff,admin'), (8, 'eve', '{0}', false, NULL)",
        hash.as_str()
    );
    execute(&url, &table).await;
    let select = "SELECT id AS user_id, name AS username, hash AS password_hash, NOT active AS disabled,
                         groups AS roles FROM users";
    let (by_name, by_id) =
        (format!("{select} WHERE name = :username"), format!("{select} WHERE id = :user_id"));
    let settings = [
        ("ACCOUNTS__URL", url.as_str()),
        ("ACCOUNTS__LOOKUP", by_name.as_str()),
        ("ACCOUNTS__LOOKUP_BY_ID", by_id.as_str()),
    ];
    let server = Server::with(Store::Embedded, &settings).await;
    let client = &server.client;
    let session = client.login("alice", "phone").await.session.unwrap();
    assert_eq!((session.user_id.as_str(), session.username.as_str()), ("7", "alice"));
    assert_eq!(session.roles, ["admin", "staff"]);
    let refused = client.try_login(login_request("eve", "phone")).await.unwrap_err();
    assert_eq!(parts(&refused).1, "ACCOUNT_DISABLED");
    for nobody in ["nobody", "ALICE"] {
        let refused = client.try_login(login_request(nobody, "phone")).await.unwrap_err();
        assert_eq!(parts(&refused).1, "INVALID_CREDENTIALS");
    }

    let get = async |client: &crate::support::client::Client, key| {
        let request = client.admin(pb::GetAccountRequest { key: Some(key) });
        let answer = client.accounts.clone().get_account(request).await;
        answer.map(|answer| answer.into_inner().account.unwrap().user_id)
    };
    assert_eq!(get(client, Key::UserId("7".into())).await.unwrap(), "7");
    assert_eq!(get(client, Key::Username("alice".into())).await.unwrap(), "7");
    let read_only = |status: tonic::Status, told: &str| {
        assert_eq!(
            (parts(&status).0, parts(&status).1.as_str()),
            (Code::FailedPrecondition, "ACCOUNTS_READ_ONLY")
        );
        assert!(status.message().contains(told), "{status:?}");
    };
    let create = pb::CreateAccountRequest { username: "x".into(), password: PASSWORD.into(), roles: vec![] };
    let mut accounts = client.accounts.clone();
    read_only(accounts.create_account(client.admin(create)).await.unwrap_err(), "change them there");
    read_only(accounts.update_account(client.admin(disable("7"))).await.unwrap_err(), "change them there");
    let list = accounts.list_accounts(client.admin(pb::ListAccountsRequest::default())).await;
    read_only(list.unwrap_err(), "list them there");

    // The lookup has no statement by id.
    let server = Server::with(Store::Embedded, &settings[..2]).await;
    assert_eq!(get(&server.client, Key::Username("alice".into())).await.unwrap(), "7");
    read_only(get(&server.client, Key::UserId("7".into())).await.unwrap_err(), "accounts.lookup_by_id");
}

/// Creates a table of users with the usual password.
async fn users(url: &str, columns: &str, rows: &[&str]) {
    let cheap = Argon2Params { memory_kib: 8, iterations: 1, parallelism: 1 };
    let passwords = Passwords::new(cheap, 1, 1).unwrap();
    let hash = passwords.hash(Password::presented(PASSWORD.into()).unwrap()).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| format!("({row}, '{}')", hash.as_str())).collect();
    let table = format!(
        "CREATE TABLE users ({columns}, hash VARCHAR(200)); INSERT INTO users VALUES {}",
        rows.join(", ")
    );
    execute(url, &table).await;
}

/// Logs in and returns the reason of the error, if any.
async fn outcome(server: &Server, username: &str, password: &str) -> String {
    let message = pb::LoginRequest { password: password.into(), ..login_request(username, "phone") };
    server.client.try_login(message).await.map_or_else(|status| parts(&status).1, |_| "OK".into())
}

/// Tries wrong passwords under many names. Each account must be limited as a whole, and answers must be the same for
/// names with and without an account.
async fn check_shared_limit(server: &Server, spellings: &[String], strangers: &[String]) {
    for (spelling, stranger) in spellings.iter().zip(strangers) {
        let (theirs, nobodys) =
            (outcome(server, spelling, "wrong").await, outcome(server, stranger, "wrong").await);
        assert_eq!((theirs.as_str(), nobodys.as_str()), ("INVALID_CREDENTIALS", "INVALID_CREDENTIALS"));
    }
    // The account is throttled now, although none of its names is.
    let (last, stranger) = (spellings.last().unwrap(), strangers.last().unwrap());
    assert_eq!(
        outcome(server, last, PASSWORD).await,
        "INVALID_CREDENTIALS",
        "a right password is not looked at"
    );
    assert_eq!(outcome(server, stranger, PASSWORD).await, "INVALID_CREDENTIALS");
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(outcome(server, last, PASSWORD).await, "OK", "after its wait");
    server.until_settled(last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_mariadb_considers_equal_share_one_limit() {
    for collation in ["utf8mb4_general_ci", "utf8mb4_unicode_ci", "utf8mb4_unicode_520_ci"] {
        let url = MariaDb::shared().database().await;
        let columns = format!("id INT, name VARCHAR(50) COLLATE {collation}");
        users(&url, &columns, &["1, 'alice'", "2, 'bob'"]).await;
        let by_name =
            "SELECT id AS user_id, name AS username, hash AS password_hash FROM users WHERE name = :username";
        let settings = [("ACCOUNTS__URL", url.as_str()), ("ACCOUNTS__LOOKUP", by_name)];
        let server = Server::with(Store::Embedded, &settings).await;
        let names = ["álice", "alíce", "ALÌCE", "alicé", "âlice", "alïce"].map(str::to_owned);
        let strangers = ["carol", "cárol", "caról", "cärol", "CAROL", "çarol"].map(str::to_owned);
        for name in &names {
            assert_eq!(outcome(&server, name, PASSWORD).await, "OK", "{collation} finds her as {name}");
            server.until_settled(name).await;
        }
        check_shared_limit(&server, &names[..5], &strangers[..5]).await;
        assert_eq!(outcome(&server, "bob", PASSWORD).await, "OK", "nobody else has to wait");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_username_and_email_address_of_one_account_share_one_limit() {
    let url = Postgres::shared().database().await;
    let columns = "id INT, name VARCHAR(50), mail VARCHAR(50)";
    users(&url, columns, &["1, 'alice', 'alice@example.com'", "2, 'bob', 'bob@example.com'"]).await;
    let by_either = "SELECT id AS user_id, name AS username, hash AS password_hash FROM users
                     WHERE name = :username OR lower(mail) = lower(:username)";
    let settings = [("ACCOUNTS__URL", url.as_str()), ("ACCOUNTS__LOOKUP", by_either)];
    let server = Server::with(Store::Embedded, &settings).await;
    let names = ["alice", "alice@example.com", "alice", "alice@example.com", "alice"].map(str::to_owned);
    let strangers = ["carol", "carol@example.com", "carol", "carol@example.com", "carol"].map(str::to_owned);
    check_shared_limit(&server, &names, &strangers).await;

    // An operator sees the throttle and lifts it.
    for _ in 0..5 {
        assert_eq!(outcome(&server, "bob@example.com", "wrong").await, "INVALID_CREDENTIALS");
    }
    let key = Some(Key::Username("bob".into()));
    let get = server.client.admin(pb::GetAccountRequest { key });
    let answer = server.client.accounts.clone().get_account(get).await.unwrap().into_inner();
    assert_eq!(answer.login_throttle.unwrap().failures, 5);
    let key = Some(pb::unlock_account_request::Key::Username("bob@example.com".into()));
    let unlock = server.client.admin(pb::UnlockAccountRequest { key });
    assert_eq!(server.client.accounts.clone().unlock_account(unlock).await.unwrap().into_inner().failures, 5);
    assert_eq!(outcome(&server, "bob", PASSWORD).await, "OK");
    assert_eq!(outcome(&server, "bob@example.com", PASSWORD).await, "OK");
}
