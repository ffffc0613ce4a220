//! The binding of a value to its register: a value of another register is corrupt.

use super::test_store::{StoreKind, TestStore, every_store};
use rstest::rstest;
use rstest_reuse::apply;
use std::time::Duration;

use latchkey::{
    domain::{
        epoch::EpochKey,
        ports::{Change, Commit, Registers, Revision},
        sessions::Epoch,
        throttle::{Throttle, ThrottleKey},
        username::Username,
    },
    store::redis::RedisSettings,
};

use super::{
    states::{change, now, state, user},
    test_store::{Backend, connect, corrupt, of_sessions, settings, unavailable, until_up},
};
use crate::support::{
    proxy::{Proxy, ProxyMode},
    redis::RedisServer,
};

/// Copies the value of one register to that of another user.
async fn copy(store: &TestStore, from: &str, to: &str) {
    match &store.backend {
        Backend::Embedded { database, .. } => {
            let copied = sqlx::query(
                "UPDATE registers SET value = (SELECT value FROM registers WHERE key = ?) WHERE key = ?",
            );
            let copied = copied.bind(from).bind(to).execute(&database.writer).await.unwrap();
            assert_eq!(copied.rows_affected(), 1);
        }
        Backend::Redis(servers) => {
            let key = |user: &str| servers.keys(&format!("*:s:{user}")).remove(0);
            let ((source, from), (target, to)) = (key(from), key(to));
            let value: Vec<u8> = source.query(redis::cmd("GET").arg(from));
            let () = target.query(redis::cmd("SET").arg(to).arg(value));
        }
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_copied_from_another_register_is_corrupt_for_that_user_only(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    for user in [&alice, &bob, &carol] {
        store.commit(user, Revision::ABSENT, change(1)).await;
    }
    copy(&store, "alice", "bob").await;
    for _ in 0..3 {
        assert!(corrupt(store.registers.load(&bob).await).contains("another register"));
        let reads = store.registers.load_many(&[&alice, &bob, &carol]).await;
        assert!(reads[0].is_ok() && reads[2].is_ok());
        corrupt(reads[1].clone());
        corrupt(store.registers.commit(&bob, Revision(7), change(3)).await);
        assert_eq!(store.load(&alice).await.1, state(1), "others are served as before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_the_format_without_binding_is_read_and_bound_by_the_next_commit() {
    let server = RedisServer::start();
    let store = connect(&settings(server.url())).await;
    let alice = user("alice");
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
    let keys: Vec<String> = server.query(redis::cmd("KEYS").arg("*:s:alice"));
    let bound: Vec<u8> = server.query(redis::cmd("GET").arg(&keys[0]));
    // The revision and the format take 9 bytes, the binding takes 5.
    let unbound = [&bound[..9], &bound[14..]].concat();
    let () = server.query(redis::cmd("SET").arg(&keys[0]).arg(&unbound));
    let read = of_sessions(&*store).load(&alice).await.unwrap();
    assert_eq!(*read.state, state(1));
    let committed = store.commit(&alice, read.revision, change(2)).await.unwrap();
    assert!(matches!(committed, Commit::Committed(_)), "{committed:?}");
    let stands: Vec<u8> = server.query(redis::cmd("GET").arg(&keys[0]));
    assert_eq!(stands[8..14], bound[8..14]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_other_commands_are_never_accepted() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port).await;
    let url = format!("redis://{}", proxy.address);
    let patient = RedisSettings { response_timeout: Duration::from_secs(2), ..settings(url) };
    let store = connect(&patient).await;
    let (alice, bob, nobody) = (user("alice"), user("bob"), user("nobody"));
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
    store.commit(&bob, Revision::ABSENT, change(2)).await.unwrap();
    let revision = of_sessions(&*store).load(&bob).await.unwrap().revision;
    let throttle = ThrottleKey::account(&Username::parse("alice").unwrap());
    let throttles: &dyn Registers<Throttle> = &*store;
    let epochs: &dyn Registers<Epoch> = &*store;
    let epoch = Epoch::after(0, now(), None);
    let begin =
        Change { state: epoch.clone(), keep_until: now().after(Duration::from_hours(1)), events: vec![] };
    epochs.commit(&EpochKey::ALL[0], Revision::ABSENT, begin).await.unwrap();

    for round in 0..10 {
        // The proxy answers the next command with the answer to this one.
        match round % 2 {
            0 => drop(of_sessions(&*store).load(&bob).await.unwrap()),
            _ => drop(of_sessions(&*store).load(&nobody).await.unwrap()),
        }
        proxy.set(ProxyMode::ShiftResponses);
        let cause = match round {
            0 | 1 => unavailable(of_sessions(&*store).load(&alice).await),
            2 | 3 => unavailable(of_sessions(&*store).load_many(&[&alice, &nobody]).await.remove(0)),
            4 | 5 => unavailable(throttles.load(&throttle).await),
            6 | 7 => unavailable(epochs.load(&EpochKey::ALL[0]).await),
            _ => unavailable(store.commit(&bob, revision, change(9)).await),
        };
        assert!(cause.contains("belong"), "round {round}: {cause}");
        proxy.set(ProxyMode::Forward);
        until_up(&*store).await;
        assert_eq!(*of_sessions(&*store).load(&alice).await.unwrap().state, state(1));
        assert_eq!(*epochs.load(&EpochKey::ALL[0]).await.unwrap().state, epoch);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_with_an_impossible_revision_is_corrupt(
    #[values(StoreKind::Embedded, StoreKind::Redis, StoreKind::Valkey)] kind: StoreKind,
    #[values(0, u64::MAX)] revision: u64,
) {
    let Some(store) = TestStore::start(kind).await else { return };
    let alice = user("alice");
    store.commit(&alice, Revision::ABSENT, change(1)).await;
    match &store.backend {
        Backend::Embedded { database, .. } => {
            let changed = sqlx::query("UPDATE registers SET revision = ? WHERE key = ?");
            let changed = changed.bind(revision.cast_signed()).bind("alice");
            assert_eq!(changed.execute(&database.writer).await.unwrap().rows_affected(), 1);
        }
        Backend::Redis(servers) => {
            let (server, key) = servers.keys("*:s:alice").remove(0);
            let value: Vec<u8> = server.query(redis::cmd("GET").arg(&key));
            let value = [&revision.to_be_bytes(), &value[8..]].concat();
            let () = server.query(redis::cmd("SET").arg(&key).arg(value));
        }
    }
    // With revision 0 it would pass for an empty register, and every commit would conflict.
    assert!(corrupt(store.registers.load(&alice).await).contains("revision"));
    corrupt(store.registers.load_many(&[&alice, &user("bob")]).await[0].clone());
    corrupt(store.registers.commit(&alice, Revision::ABSENT, change(2)).await);
}
