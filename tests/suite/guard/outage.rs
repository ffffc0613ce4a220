//! Latchkey is away: nobody gets in, nobody is told that a session is over, and nothing of it is remembered.

use std::time::{Duration, Instant};

use tonic::Code;

use super::{Guarded, PATIENCE, guard, told};
use crate::support::{
    process::Process,
    proxy::{Proxy, ProxyMode},
    server::{Server, Store},
};

/// The longest that an answer may take: the limit of a verdict is one second.
const FAST: Duration = Duration::from_millis(1800);

/// There is no verdict, and that is told fast.
async fn is_unavailable(guarded: &Guarded, token: &str) {
    let (begun, before) = (Instant::now(), guarded.begun().await);
    let status = guarded.greet(token).await.unwrap_err();
    assert!(begun.elapsed() < FAST, "took {:?}", begun.elapsed());
    assert_eq!(told(&status), (Code::Unavailable, "STORE_UNAVAILABLE".into()));
    assert_eq!(guarded.begun().await, before, "no handler has begun");
}

/// Calls until it is let in; until then there is no verdict, and nothing worse.
async fn until_let_in(guarded: &Guarded, token: &str) {
    let begun = Instant::now();
    while let Err(status) = guarded.greet(token).await {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(begun.elapsed() < PATIENCE, "it does not come back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_and_a_hang_let_nobody_in_and_are_over_when_they_are_over() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let proxy = Proxy::to(server.app.grpc.port()).await;
    // One that remembers as much as it may: outages least of all.
    let remembers =
        guard(proxy.address, &server.client).revocation_feed().max_staleness(Duration::from_mins(1));
    for guard in [guard(proxy.address, &server.client), remembers] {
        let guarded = Guarded::start(guard).await;
        guarded.greet(&token).await.unwrap();
        for mood in [ProxyMode::Disconnect, ProxyMode::Stall, ProxyMode::DropResponses] {
            proxy.set(mood);
            // What was in flight in the feed's connection may be told yet.
            let begun = Instant::now();
            while guarded.greet(&token).await.is_ok() {
                assert!(begun.elapsed() < Duration::from_secs(20), "{mood:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for token in [&token, "rubbish"] {
                is_unavailable(&guarded, token).await;
            }
            let status = guarded.greet_with(&[]).await.unwrap_err();
            assert_eq!(told(&status), (Code::Unauthenticated, "TOKEN_REQUIRED".into()), "{mood:?}");
            // What was swallowed is lost, and with it the connection.
            if mood == ProxyMode::DropResponses {
                proxy.set(ProxyMode::Disconnect);
            }
            proxy.set(ProxyMode::Forward);
            until_let_in(&guarded, &token).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_latchkey_the_latest_login_still_wins() {
    let data = tempfile::tempdir().unwrap();
    let mut latchkey = Process::start(data.path(), &[]);
    let client = latchkey.client().await;
    client.until_serving().await;
    client.user("anna").await;
    let old = client.login("anna", "phone").await.token;
    let guarded = Guarded::start(guard(latchkey.grpc, &client)).await;
    guarded.greet(&old).await.unwrap();
    let new = client.login("anna", "tablet").await.token;
    let address = latchkey.grpc.to_string();
    latchkey.kill();
    is_unavailable(&guarded, &new).await;
    let latchkey = Process::start(data.path(), &[("LISTEN__GRPC", &address)]);
    until_let_in(&guarded, &new).await;
    let status = guarded.greet(&old).await.unwrap_err();
    super::agrees(&status, &latchkey.client().await.rejection(&old).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_latchkey_does_not_know_is_no_fault_of_the_users() {
    let server = Server::with(Store::Embedded, &[("ACCESS__VALIDATE", "caller")]).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let wrong = latchkey_client::Guard::new(super::asks(server.app.grpc, "wrong")).open([super::OPEN]);
    let guarded = Guarded::start(wrong).await;
    for token in [&token, "rubbish"] {
        is_unavailable(&guarded, token).await;
    }
    Guarded::start(guard(server.app.grpc, &server.client)).await.greet(&token).await.unwrap();
}
