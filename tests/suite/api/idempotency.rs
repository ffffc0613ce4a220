//! Idempotency keys: a login that is repeated because its answer was lost.

use crate::support::server::{Server, Store};
use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::pb::{self, RejectionReason};
use tonic::Code;

use super::{assert_invalid, parts};
use crate::support::client::login_request;

fn keyed(key: &str, device: &str) -> pb::LoginRequest {
    pb::LoginRequest { idempotency_key: key.into(), ..login_request("alice", device) }
}

const SLOTS: &[(&str, &str)] = &[("SESSION__SLOTS", "web,mobile")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_login_returns_the_same_session_and_displaces_none(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, SLOTS).await;

    let client = &server.client;
    client.user("alice").await;
    client.login("alice", "before").await;
    let first = client.try_login(keyed("k1", "phone")).await.unwrap();
    assert_eq!(first.displaced[0].device, "before");
    let again = client.try_login(keyed("k1", "another name")).await.unwrap();
    assert_eq!((&again.token, &again.session, again.displaced), (&first.token, &first.session, vec![]));
    client.session(&first.token).await;

    let wrong = pb::LoginRequest { password: "wrong".into(), ..keyed("k1", "phone") };
    assert_eq!(parts(&client.try_login(wrong).await.unwrap_err()).1, "INVALID_CREDENTIALS");
    let elsewhere = pb::LoginRequest { slot: "mobile".into(), ..keyed("k1", "phone") };
    assert_invalid(&client.try_login(elsewhere).await.unwrap_err(), "idempotency_key");

    let other = client.try_login(keyed("k2", "tablet")).await.unwrap();
    assert_eq!(other.displaced.len(), 1);
    // The repeated session has ended: it is neither revived nor displaces its successor.
    let status = client.try_login(keyed("k1", "phone")).await.unwrap_err();
    assert_eq!(parts(&status), (Code::Unauthenticated, "REPLACED".into(), vec![]));
    client.session(&other.token).await;
    client.logout(&other.token, pb::LogoutScope::This).await;
    assert_eq!(parts(&client.try_login(keyed("k2", "tablet")).await.unwrap_err()).1, "LOGGED_OUT");

    server.clock.advance(Duration::from_secs(61));
    let fresh = client.try_login(keyed("k2", "tablet")).await.unwrap();
    assert_ne!(fresh.session.unwrap().session_id, other.session.unwrap().session_id);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_of_another_user_is_another_login(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    client.user("bob").await;
    let alice = client.try_login(keyed("k", "")).await.unwrap();
    let bob = pb::LoginRequest { username: "bob".into(), ..keyed("k", "") };
    let bob = client.try_login(bob).await.unwrap();
    assert_ne!(alice.session.unwrap().user_id, bob.session.unwrap().user_id);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_logins_with_one_key_get_the_same_session(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let logins = (0..20).map(|_| client.try_login(keyed("k", "phone")));
    let answers = futures_util::future::join_all(logins).await;
    let tokens: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().token).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]), "the token is the same, too");
    client.session(&tokens[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_visible_ascii_and_not_too_long() {
    use crate::support::server::{Server, Store};
    let server = Server::start(Store::Embedded).await;
    server.client.user("alice").await;
    for bad in ["with space", "ключ", &"x".repeat(129)] {
        assert_invalid(&server.client.try_login(keyed(bad, "")).await.unwrap_err(), "idempotency_key");
    }
    server.client.try_login(keyed(&"x".repeat(128), "")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_repeated_on_another_replica() {
    let replicas = super::watch_session::Replicas::start().await;
    let [here, there] = &replicas.servers;
    let first = here.client.try_login(keyed("k", "phone")).await.unwrap();
    let again = there.client.try_login(keyed("k", "phone")).await.unwrap();
    assert_eq!(first.token, again.token);
    assert_eq!(again.displaced, []);
    assert_eq!(here.client.rejection("x").await.reason(), RejectionReason::Malformed);
    here.client.session(&first.token).await;
}
