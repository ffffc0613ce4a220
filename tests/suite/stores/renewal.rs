//! Renewal of hashes in tables of external users.

use latchkey::{
    domain::ports::Accounts as _,
    store::sql::{ExternalUsers, Lookup},
};
use rstest::rstest;

use super::{
    accounts::{hash, name},
    external_users::{ExternalDatabase, Kind},
    states::user,
    test_accounts::execute,
};
use crate::support::{mysql::MariaDb, postgres::Postgres};

const OLD: &str = "$2b$04$g36hvT.mjwzpk2aBd5tGMOWdkBs6nCE2UUl48hpT1vNxWA475KHdC";
const NEW: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$ScinrFfSwjGLTZnZxHYhNQ$1Ecver5LLsmbSTfGmvVUZYyBq1RntFiGaSKA0Y57imk";
const SELECT: &str =
    "SELECT id AS user_id, name AS username, hash AS password_hash FROM users WHERE name = :username";
const UPDATE: &str = "UPDATE users SET hash = :new_hash WHERE id = :user_id AND hash = :old_hash";

/// Returns a table with one user and a hash column of this type.
fn users(column: &str) -> String {
    format!(
        "CREATE TABLE users (id INT, name VARCHAR(50), hash {column});
         INSERT INTO users VALUES (1, 'alice', '{OLD}'), (2, 'bob', '{OLD}')"
    )
}

/// Returns a trigger that truncates every hash that is written to the table.
fn trigger(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => {
            "CREATE TRIGGER cut AFTER UPDATE ON users BEGIN
                 UPDATE users SET hash = substr(NEW.hash, 1, 60) WHERE id = NEW.id;
             END"
        }
        Kind::Postgres => {
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.hash = left(NEW.hash, 60); RETURN NEW; END $$;
             CREATE TRIGGER cut BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION cut()"
        }
        Kind::MariaDb => {
            "CREATE TRIGGER cut BEFORE UPDATE ON users FOR EACH ROW SET NEW.hash = LEFT(NEW.hash, 60)"
        }
    }
}

async fn open(database: &ExternalDatabase, update: &str) -> ExternalUsers {
    database.open(&Lookup { by_name: SELECT.into(), by_id: None, update_hash: Some(update.into()) }).await
}

/// Renews the hash of alice and returns the stored one.
async fn renewed(accounts: &ExternalUsers) -> String {
    let alice = accounts.find(&name("alice")).await.unwrap().unwrap();
    accounts.rehash(&name("alice"), &user("1"), &alice.password, &hash(NEW)).await.unwrap();
    accounts.find(&name("alice")).await.unwrap().unwrap().password.as_str().to_owned()
}

async fn is_kept(accounts: &ExternalUsers) {
    assert!(accounts.renews_hashes());
    assert_eq!(renewed(accounts).await, OLD);
    assert!(!accounts.renews_hashes(), "a hash was computed without need");
    assert_eq!(renewed(accounts).await, OLD);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_that_a_trigger_would_truncate_is_not_renewed(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let database = ExternalDatabase::new(kind, &users("VARCHAR(200)")).await;
    execute(&database.url, trigger(kind)).await;
    is_kept(&open(&database, UPDATE).await).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_that_the_statement_would_truncate_is_not_renewed(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let database = ExternalDatabase::new(kind, &users("VARCHAR(200)")).await;
    is_kept(&open(&database, &UPDATE.replace(":new_hash", "substr(:new_hash, 1, 60)")).await).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_would_change_other_users_is_rolled_back(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let database = ExternalDatabase::new(kind, &users("VARCHAR(200)")).await;
    let careless = "UPDATE users SET hash = :new_hash WHERE :user_id <> '' AND hash = :old_hash";
    let accounts = open(&database, careless).await;
    is_kept(&accounts).await;
    assert_eq!(accounts.find(&name("bob")).await.unwrap().unwrap().password, hash(OLD));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_in_a_padded_column_or_with_a_line_break_is_renewed(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let database = ExternalDatabase::new(kind, &users("CHAR(200)")).await;
    let accounts = open(&database, UPDATE).await;
    assert_eq!(renewed(&accounts).await, NEW);
    let broken = format!("UPDATE users SET hash = '{OLD}\n'");
    execute(&database.url, &broken).await;
    assert_eq!(renewed(&accounts).await, NEW);
    assert!(accounts.renews_hashes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_too_short_for_a_new_hash_keeps_the_old_one() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let database = ExternalDatabase::new(kind, &users("VARCHAR(60)")).await;
        is_kept(&open(&database, UPDATE).await).await;
    }
    // Without strict mode the server truncates silently.
    let server = MariaDb::start();
    let database = ExternalDatabase::at(server.database().await, &users("VARCHAR(60)")).await;
    execute(&database.url, "SET GLOBAL sql_mode = ''").await;
    is_kept(&open(&database, UPDATE).await).await;
    let cast = UPDATE.replace(":new_hash", "CAST(:new_hash AS varchar(60))");
    let database = ExternalDatabase::at(Postgres::shared().database().await, &users("TEXT")).await;
    is_kept(&open(&database, &cast).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_transactions_gets_the_old_hash_back() {
    let server = MariaDb::start();
    let database = ExternalDatabase::at(server.database().await, "SELECT 1").await;
    execute(&database.url, "SET GLOBAL sql_mode = ''").await;
    execute(&database.url, &users("VARCHAR(60)").replacen("));", ")) ENGINE = MyISAM;", 1)).await;
    is_kept(&open(&database, UPDATE).await).await;
}
