//! Rows and names of external users that follow other rules than those of Latchkey.

use rstest::rstest;
use std::time::Duration;

use latchkey::{
    domain::ports::{Accounts as _, Disabled},
    store::sql::{Lookup, SqlAccounts},
};

use super::{
    accounts::{account, name, roles},
    external_users::{ExternalDatabase, Kind, lookup},
    states::user,
    test_accounts::settings,
};
use crate::support::{mysql::MariaDb, postgres::Postgres};

const SELECT: &str = "SELECT id AS user_id, name AS username, hash AS password_hash FROM users";

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_roles_are_left_out_and_the_others_count(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let many: Vec<_> = (0..40).map(|number| format!("role{number:02}")).collect();
    let tables = format!(
            "CREATE TABLE users (id INT, name VARCHAR(50), hash VARCHAR(50), roles VARCHAR(500));
             INSERT INTO users VALUES (1, 'odd', 'x', 'staff,R&D,Geschäftsführung, admin'), (2, 'many', 'x', '{}'),
                 (3, 'none', 'x', '&')",
            many.join(" ")
        );
    let database = ExternalDatabase::new(kind, &tables).await;
    let select = SELECT.replace(" FROM", ", roles FROM") + " WHERE name = :username";
    let accounts = database.open(&lookup(&select)).await;
    let found = async |text: &str| accounts.find(&name(text)).await.unwrap().unwrap().roles;
    assert_eq!(found("odd").await, roles(&["admin", "staff"]));
    assert_eq!(found("none").await, []);
    let first: Vec<_> = many[..32].iter().map(String::as_str).collect();
    assert_eq!(found("many").await, roles(&first));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_names_that_the_statement_does_not_tell_apart_the_typed_one_logs_in(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let tables = "CREATE TABLE users (id INT, name VARCHAR(50), hash VARCHAR(50));
                      INSERT INTO users VALUES (1, 'anna', 'x'), (2, 'Anna', 'y'), (3, 'bob', 'x'), (4, 'bob', 'y')";
    let database = ExternalDatabase::new(kind, tables).await;
    let accounts = database.open(&lookup(&format!("{SELECT} WHERE lower(name) = lower(:username)"))).await;
    let found = async |text: &str| accounts.find(&name(text)).await.unwrap().map(|found| found.user_id);
    assert_eq!(found("anna").await, Some(user("1")));
    assert_eq!(found("Anna").await, Some(user("2")));
    assert_eq!(found("ANNA").await, None, "neither");
    assert_eq!(found("bob").await, None, "both");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_a_usable_login_are_no_accounts(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let tables = "CREATE TABLE users (id VARCHAR(50), name VARCHAR(50), hash VARCHAR(50), mail VARCHAR(50));
                      INSERT INTO users VALUES ('1', 'good', NULL, 'good@x'), ('', 'empty', 'x', ''), (NULL, 'null', 'x', ''),
                          ('ü', 'umlaut', 'x', ''), ('5', NULL, 'x', 'nameless@x')";
    let database = ExternalDatabase::new(kind, tables).await;
    let accounts =
        database.open(&lookup(&format!("{SELECT} WHERE name = :username OR mail = :username"))).await;
    // An account without a password cannot log in.
    assert_eq!(accounts.find(&name("good")).await.unwrap().unwrap().password.as_str(), "");
    for nobody in ["empty", "null", "umlaut"] {
        assert_eq!(accounts.find(&name(nobody)).await.unwrap(), None, "{nobody}");
    }
    let nameless = accounts.find(&name("nameless@x")).await.unwrap().unwrap();
    assert_eq!((nameless.user_id, nameless.username), (user("5"), name("nameless@x")));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn padding_is_removed_from_an_id_if_that_cannot_merge_two_ids(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let tables = "CREATE TABLE users (id VARCHAR(50), name VARCHAR(50), hash VARCHAR(50));
                      INSERT INTO users VALUES ('7  ', 'number', 'x'), ('alice', 'one', 'x'), ('alice  ', 'other', 'x'),
                          (' 0f8fad5b-d9cb-469f-a165-70867728950e ', 'uuid', 'x')";
    let database = ExternalDatabase::new(kind, tables).await;
    let accounts = database.open(&lookup(&format!("{SELECT} WHERE name = :username"))).await;
    let found = async |text: &str| accounts.find(&name(text)).await.unwrap().map(|found| found.user_id);
    assert_eq!(found("number").await, Some(user("7")));
    assert_eq!(found("uuid").await, Some(user("0f8fad5b-d9cb-469f-a165-70867728950e")));
    assert_eq!(found("one").await, Some(user("alice")));
    assert_eq!(found("other").await, None, "not the sessions of alice");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compatibility_variants_are_one_name_in_the_table_of_django_and_in_no_other(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::MariaDb)] kind: Kind,
) {
    let tables = "CREATE TABLE users (id INT, name VARCHAR(150), hash VARCHAR(200));
                      INSERT INTO users VALUES (1, 'anna', 'pbkdf2_sha256$1$x$y'), (2, 'bob', '$2b$04$x'),
                          (3, 'ｃarl', 'argon2$argon2id$x'), (4, 'carl', 'argon2$argon2id$x')";
    let database = ExternalDatabase::new(kind, tables).await;
    let accounts = database.open(&lookup(&format!("{SELECT} WHERE name = :username"))).await;
    let found = async |text: &str| accounts.find(&name(text)).await.unwrap().map(|found| found.user_id);
    assert_eq!(found("anna").await, Some(user("1")));
    assert_eq!(found("ａｎｎａ").await, Some(user("1")));
    assert_eq!(found("ｂｏｂ").await, None);
    assert_eq!(found("ｃarl").await, Some(user("3")), "as it is first");
    assert_eq!(found("ｃａｒｌ").await, Some(user("4")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_are_padded_by_their_type_are_read_without_it() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let tables = "CREATE TABLE users (id CHAR(40), name CHAR(50), hash CHAR(200), roles CHAR(50));
                      INSERT INTO users VALUES ('u-1', 'alice', 'x', 'staff')";
        let database = ExternalDatabase::new(kind, tables).await;
        let select = SELECT.replace(" FROM", ", roles FROM");
        let accounts = database
            .open(&Lookup {
                by_name: format!("{select} WHERE name = :username"),
                by_id: Some(format!("{select} WHERE id = :user_id")),
                update_hash: None,
            })
            .await;
        let alice = accounts.find(&name("alice")).await.unwrap().unwrap();
        assert_eq!((&alice.user_id, alice.password.as_str()), (&user("u-1"), "x"));
        assert_eq!((alice.disabled, &alice.roles), (Disabled::No, &roles(&["staff"])));
        assert_eq!(accounts.get(&user("u-1")).await.unwrap(), Some(alice));
    }
}

/// Names with characters that a character set lacks, and one name in ASCII.
async fn has_only(database: &ExternalDatabase, select: &str, missing: &[&str]) {
    let accounts = database.open(&lookup(select)).await;
    for missing in missing {
        assert_eq!(accounts.find(&name(missing)).await.unwrap(), None, "{missing}");
        assert!(accounts.find(&name("alice")).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_outside_the_character_set_of_a_mariadb_table_is_unknown() {
    for (characters, missing) in [
        ("latin1", &["日本語", "Łukasz", "a😀"][..]),
        ("ascii", &["Jürgen", "日本語", "a😀"]),
        ("utf8mb3", &["a😀", "𝄞"]),
        ("latin1 COLLATE latin1_bin", &["日本語"]),
        ("cp1251", &["Jürgen", "日本語"]),
    ] {
        let tables = format!(
            "CREATE TABLE users (id INT, name VARCHAR(50) CHARACTER SET {characters}, hash VARCHAR(50));
             INSERT INTO users VALUES (1, 'alice', 'x')"
        );
        let database = ExternalDatabase::at(MariaDb::shared().database().await, &tables).await;
        for comparison in ["name = :username", "name LIKE :username", "lower(name) = lower(:username)"] {
            has_only(&database, &format!("{SELECT} WHERE {comparison}"), missing).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_outside_the_encoding_of_a_postgres_database_is_unknown() {
    for (encoding, missing) in
        [("LATIN1", &["日本語", "Łukasz", "a😀"][..]), ("SQL_ASCII", &["日本語", "Jürgen"])]
    {
        let url = Postgres::shared().database_in(encoding).await;
        let tables = "CREATE TABLE users (id INT, name VARCHAR(50), hash VARCHAR(50));
                      INSERT INTO users VALUES (1, 'alice', 'x'), (2, 'bob', 'x')";
        let database = ExternalDatabase::at(url.clone(), tables).await;
        has_only(&database, &format!("{SELECT} WHERE name = :username"), missing).await;

        // The own accounts of Latchkey behave the same.
        let accounts = SqlAccounts::open(&settings(&url)).await.unwrap();
        assert!(accounts.create(&account("alice")).await.unwrap());
        for missing in missing {
            assert_eq!(accounts.find(&name(missing)).await.unwrap(), None, "{missing}");
        }
        accounts.ping().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_with_undecodable_characters_is_no_outage() {
    let url = Postgres::shared().database_in("SQL_ASCII").await;
    let tables = "CREATE TABLE users (id INT, name VARCHAR(50), hash BYTEA);
                  INSERT INTO users VALUES (1, 'alice', 'x'), (2, 'bob', '\\xfc')";
    let database = ExternalDatabase::at(url, tables).await;
    let select = SELECT.replace("hash AS", "convert_from(hash, 'SQL_ASCII') AS");
    let accounts = database.open(&lookup(&format!("{select} WHERE name = :username"))).await;
    let found = tokio::time::timeout(Duration::from_secs(30), accounts.find(&name("bob"))).await.unwrap();
    assert_eq!(found.unwrap(), None);
    assert!(accounts.find(&name("alice")).await.unwrap().is_some());
}
