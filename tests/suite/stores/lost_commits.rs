//! Commits that a primary has lost are made again by the process that acknowledged them.

use std::{sync::Arc, time::Duration};

use latchkey::{
    domain::ports::{Commit, EventLog as _, Registers as _, Revision},
    store::{
        codec_store::CodecStore,
        redis::{RedisOptions, RedisRegisters, RedisSettings},
    },
};
use prometheus_client::metrics::counter::Counter;

use super::{
    states::{change, change_with, numbers, state, user},
    test_store::{connect, of_sessions, settings, unavailable, until_up},
};
use crate::support::{
    proxy::{Proxy, ProxyMode},
    redis::{Flavour, RedisServer},
    redis_node::NodeOptions,
    sentinel::{SentinelGroup, SentinelOptions},
};

type Store = Arc<CodecStore<RedisRegisters>>;

async fn counting(settings: &RedisSettings) -> (Store, Counter) {
    let rollbacks = Counter::default();
    let options = RedisOptions { rollbacks: rollbacks.clone(), ..RedisOptions::default() };
    let store = Arc::new(CodecStore::new(RedisRegisters::start_with(settings, "lk", options).unwrap()));
    until_up(&*store).await;
    (store, rollbacks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restarted_server_has_lost_is_there_again_before_it_answers() {
    let mut server = RedisServer::start();
    let (store, rollbacks) = counting(&settings(server.url())).await;
    let users: Vec<_> = (0..1500).map(|number| user(&format!("user{number}"))).collect();
    for (user, number) in users.iter().zip(1..) {
        store.commit(user, Revision::ABSENT, change_with(number, [number])).await.unwrap();
    }
    let latest = store.commit(&users[0], Revision(1), change(2000)).await.unwrap();
    assert!(matches!(latest, Commit::Committed(_)), "{latest:?}");

    let before = store.tail(None, 1).await.unwrap().next;
    server.kill();
    unavailable(of_sessions(&*store).load(&users[0]).await);
    server.restart();
    until_up(&*store).await;
    assert_eq!(rollbacks.get(), 1500);
    for (user, number) in users.iter().zip(1..) {
        let expected = if number == 1 { state(2000) } else { state(number) };
        assert_eq!(*of_sessions(&*store).load(user).await.unwrap().state, expected, "{user}");
    }
    // The events are told again, those of commits that were replaced excepted.
    let page = store.tail(Some(&before), 10_000).await.unwrap();
    assert!(page.gap);
    assert_eq!(numbers(&page.events).len(), 1499);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_does_not_replace_a_later_one_of_another_process() {
    let mut server = RedisServer::start();
    let proxy = Proxy::to(server.port).await;
    let (store, rollbacks) = counting(&settings(format!("redis://{}", proxy.address))).await;
    let (alice, bob) = (user("alice"), user("bob"));
    store.commit(&alice, Revision::ABSENT, change(5)).await.unwrap();
    store.commit(&bob, Revision::ABSENT, change(5)).await.unwrap();

    proxy.set(ProxyMode::Disconnect);
    server.restart();
    // This process has heard of neither commit, and is the first to reach the server after its restart.
    let other = connect(&settings(server.url())).await;
    other.commit(&alice, Revision::ABSENT, change(7)).await.unwrap();
    other.commit(&bob, Revision::ABSENT, change(3)).await.unwrap();
    proxy.set(ProxyMode::Forward);
    until_up(&*store).await;
    assert_eq!(*of_sessions(&*store).load(&alice).await.unwrap().state, state(7));
    // The revision decides, which grows with the generation.
    assert_eq!(*of_sessions(&*store).load(&bob).await.unwrap().state, state(5));
    assert_eq!(rollbacks.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_that_has_expired_is_not_made_again() {
    let mut server = RedisServer::start();
    let (store, rollbacks) = counting(&settings(server.url())).await;
    let mut short = change(1);
    short.keep_until = latchkey::domain::ports::Clock::now(&latchkey::store::clock::SystemClock)
        .after(Duration::from_millis(200));
    store.commit(&user("alice"), Revision::ABSENT, short).await.unwrap();
    server.restart();
    tokio::time::sleep(Duration::from_millis(200)).await;
    until_up(&*store).await;
    assert_eq!(rollbacks.get(), 0);
    let keys: Vec<String> = server.query(redis::cmd("KEYS").arg("*:s:*"));
    assert!(keys.iter().all(|key| !key.ends_with(":s:alice")), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_commits_has_them_once_it_is_the_primary() {
    let options = SentinelOptions {
        replicas: 1,
        nodes: NodeOptions { proxied: true, ..NodeOptions::default() },
        ..SentinelOptions::default()
    };
    let Some(mut group) = SentinelGroup::start(Flavour::Redis, options).await else { return };
    let (store, rollbacks) = counting(&settings(group.url())).await;
    let (alice, bob) = (user("alice"), user("bob"));
    store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
    group.until_in_sync().await;

    // The replica hears nothing more, but keeps its connection.
    let master = group.master().await;
    let replica = group.replicas().await[0];
    let source = group.node(replica).source.unwrap();
    group.node(master).proxy().set_for(crate::support::proxy::Peer::Node(source), ProxyMode::Stall);
    store.commit(&bob, Revision::ABSENT, change_with(2, [2])).await.unwrap();
    let old = group.kill_master().await;
    group.wait_for_master_other_than(old).await;
    until_up(&*store).await;
    assert_eq!(*of_sessions(&*store).load(&alice).await.unwrap().state, state(1));
    assert_eq!(*of_sessions(&*store).load(&bob).await.unwrap().state, state(2));
    assert_eq!(rollbacks.get(), 1);
}
