//! Conformance of the callers store.

use super::test_accounts::{Database, TestAccounts};
use rstest::rstest;
use std::{sync::Arc, time::Duration};

use latchkey::domain::ports::{Caller, CallerKeyHash, Callers};
use tokio::task::JoinSet;

use super::states::now;

fn caller(name: &str, key: u8) -> Caller {
    Caller {
        name: name.into(),
        key: CallerKeyHash([key; 32]),
        roles: vec!["issuer".into(), "operator".into()],
        created_at: now(),
        last_used_at: None,
    }
}

async fn created(callers: &dyn Callers, name: &str, key: u8) -> Caller {
    let caller = caller(name, key);
    assert!(callers.create(&caller).await.unwrap());
    caller
}

/// Finds the caller with this key.
async fn with_key(callers: &dyn Callers, key: &CallerKeyHash) -> Option<Caller> {
    callers.list().await.unwrap().into_iter().find(|caller| caller.key == *key)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_found_by_its_key_as_it_was_created(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let callers = &*store.callers;
    let shop = created(callers, "shop", 0).await;
    let used = Caller { last_used_at: Some(now()), roles: Vec::new(), ..caller("Bücher & mehr", 255) };
    assert!(callers.create(&used).await.unwrap());
    assert_eq!(with_key(callers, &shop.key).await.as_ref(), Some(&shop));
    assert_eq!(with_key(callers, &used.key).await.as_ref(), Some(&used));
    assert_eq!(with_key(callers, &CallerKeyHash([1; 32])).await, None);
    let store = store.reopen().await;
    assert_eq!(store.callers.list().await.unwrap(), [used, shop]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_unique_to_the_letter_and_listed_in_order(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let callers = &*store.callers;
    for (key, name) in (0..).zip(["b", "a", "B", "é", "e", "z"]) {
        created(callers, name, key).await;
    }
    assert!(!callers.create(&caller("b", 99)).await.unwrap());
    assert_eq!(with_key(callers, &CallerKeyHash([99; 32])).await, None, "the failed change left a trace");
    let names: Vec<_> = callers.list().await.unwrap().into_iter().map(|caller| caller.name).collect();
    assert_eq!(names, ["B", "a", "b", "e", "z", "é"]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_belongs_to_one_caller(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let shop = created(&*store.callers, "shop", 1).await;
    store.callers.create(&caller("other", 1)).await.unwrap_err();
    assert_eq!(store.callers.list().await.unwrap(), [shop]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_caller_is_gone_and_its_name_is_free(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let callers = &*store.callers;
    let shop = created(callers, "shop", 1).await;
    let other = created(callers, "other", 2).await;
    assert!(!callers.revoke("Shop").await.unwrap());
    assert!(callers.revoke("shop").await.unwrap());
    assert!(!callers.revoke("shop").await.unwrap());
    assert_eq!(with_key(callers, &shop.key).await, None);
    assert_eq!(callers.list().await.unwrap(), [other]);
    created(callers, "shop", 3).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_use_never_moves_back(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let callers = &*store.callers;
    let shop = created(callers, "shop", 1).await;
    created(callers, "other", 2).await;
    let now = now();
    let later = now.after(Duration::from_secs(1));
    for (at, expected) in [(now, now), (later, later), (now, later), (later, later)] {
        callers.used("shop", at).await.unwrap();
        let left = with_key(callers, &shop.key).await.unwrap();
        assert_eq!(left, Caller { last_used_at: Some(expected), ..shop.clone() });
    }
    callers.used("nobody", later).await.unwrap();
    assert_eq!(with_key(callers, &CallerKeyHash([2; 32])).await.unwrap().last_used_at, None);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_creations_of_one_name_exactly_one_succeeds(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let mut tasks = JoinSet::new();
    for key in 0..12 {
        let callers = Arc::clone(&store.callers);
        tasks.spawn(async move { callers.create(&caller("shop", key)).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|created| *created).count(), 1);
    assert_eq!(store.callers.list().await.unwrap().len(), 1);
}
