//! What a guard remembers, while it reads the revocation feed.

use std::time::{Duration, Instant};

use latchkey::grpc::pb;
use latchkey_client::Guard;
use tonic::Code;

use super::{Guarded, OPEN, PATIENCE, agrees, asks, guard, relay::Relay, told};
use crate::support::{
    proxy::{Proxy, ProxyMode},
    server::{Server, Store},
};

/// Calls until Latchkey is not asked any more: the guard hears the feed, and remembers.
async fn until_remembered(guarded: &Guarded, relay: &Relay, token: &str) {
    let begun = Instant::now();
    loop {
        let before = relay.asked();
        guarded.greet(token).await.unwrap();
        if relay.asked() == before {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing is remembered");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Calls until the token is rejected: how long that took.
async fn until_rejected(guarded: &Guarded, token: &str) -> (Duration, tonic::Status) {
    let begun = Instant::now();
    loop {
        match guarded.greet(token).await {
            Err(status) => return (begun.elapsed(), status),
            Ok(_) => assert!(begun.elapsed() < PATIENCE, "it is still let in"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_is_remembered_and_forgotten_at_once_when_the_session_is_replaced() {
    let server = Server::start(Store::Redis).await;
    server.client.user("anna").await;
    let relay = Relay::to(server.app.grpc).await;
    let age = Duration::from_mins(1);
    let guarded =
        Guarded::start(guard(relay.address, &server.client).revocation_feed().max_staleness(age)).await;
    let token = server.client.login("anna", "phone").await.token;
    until_remembered(&guarded, &relay, &token).await;
    let before = relay.asked();
    for _ in 0..100 {
        assert_eq!(guarded.username(&token).await, "anna");
    }
    assert_eq!(relay.asked(), before);

    server.client.login("anna", "Zoë’s iPhone").await;
    let (took, status) = until_rejected(&guarded, &token).await;
    assert!(took < Duration::from_secs(2), "took {took:?}, which is not at once");
    agrees(&status, &server.client.rejection(&token).await);
    // A no is never remembered.
    let before = relay.asked();
    for _ in 0..3 {
        guarded.greet(&token).await.unwrap_err();
    }
    assert_eq!(relay.asked(), before + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_is_forgotten_when_all_sessions_are_ended() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let relay = Relay::to(server.app.grpc).await;
    let age = Duration::from_mins(1);
    let guarded =
        Guarded::start(guard(relay.address, &server.client).revocation_feed().max_staleness(age)).await;
    let token = server.client.login("anna", "phone").await.token;
    until_remembered(&guarded, &relay, &token).await;
    server.client.end_sessions(pb::EndSessionsRequest { everyone: true, ..Default::default() }).await;
    let (took, status) = until_rejected(&guarded, &token).await;
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert_eq!(told(&status), (Code::Unauthenticated, "KICKED".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_feed_or_an_age_nothing_is_remembered() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let create = pb::CreateCallerRequest { name: "guard".into(), roles: vec!["validator".into()] };
    let create = server.client.admin(create);
    let key = server.client.callers.clone().create_caller(create).await.unwrap().into_inner().key;
    let relay = Relay::to(server.app.grpc).await;
    let age = Duration::from_mins(1);
    let guards = [
        ("no feed", guard(relay.address, &server.client).max_staleness(age)),
        ("no age", guard(relay.address, &server.client).revocation_feed()),
        ("an age of nothing", {
            guard(relay.address, &server.client).revocation_feed().max_staleness(Duration::ZERO)
        }),
        ("a key without the role operator", {
            Guard::new(asks(relay.address, &key)).open([OPEN]).revocation_feed().max_staleness(age)
        }),
    ];
    for (what, guard) in guards {
        let guarded = Guarded::start(guard).await;
        guarded.greet(&token).await.unwrap();
        // Where there were a feed, it would be heard by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = relay.asked();
        for _ in 0..5 {
            guarded.greet(&token).await.unwrap();
        }
        assert_eq!(relay.asked(), before + 5, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_while_the_feed_is_lost_is_not_let_in_after_it() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let relay = Relay::to(server.app.grpc).await;
    let proxy = Proxy::to(relay.address.port()).await;
    let age = Duration::from_mins(1);
    let guarded =
        Guarded::start(guard(proxy.address, &server.client).revocation_feed().max_staleness(age)).await;
    let token = server.client.login("anna", "phone").await.token;
    until_remembered(&guarded, &relay, &token).await;
    proxy.set(ProxyMode::Disconnect);
    server.client.login("anna", "tablet").await;
    // From the moment on at which the guard sees that the feed is gone, which is before anything comes back.
    while guarded.greet(&token).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.set(ProxyMode::Forward);
    let begun = Instant::now();
    loop {
        let status = guarded.greet(&token).await.unwrap_err();
        if status.code() == Code::Unauthenticated {
            assert_eq!(told(&status).1, "REPLACED");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not come back: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_does_not_peek_does_not_live_on_what_one_that_does_remembers() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let relay = Relay::to(server.app.grpc).await;
    let uses = guard(relay.address, &server.client).revocation_feed().max_staleness(Duration::from_mins(1));
    let (peeks, uses) = (Guarded::start(uses.clone().peek()).await, Guarded::start(uses).await);
    until_remembered(&peeks, &relay, &token).await;
    let before = relay.asked();
    uses.greet(&token).await.unwrap();
    assert_eq!(relay.asked(), before + 1);
    peeks.greet(&token).await.unwrap();
    uses.greet(&token).await.unwrap();
    assert_eq!(relay.asked(), before + 1, "copies share what they remember");
}
