//! `WatchSession`: the holder of a token learns of the end of its session.

use rstest::rstest;
use std::{sync::Arc, time::Duration};

use latchkey::grpc::pb::{self, LogoutScope, RejectionReason};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{assert_invalid, disable, parts};
use crate::support::{
    client::PASSWORD,
    server::{Server, Store},
};

/// Two servers with one Redis, shared accounts and keys, and a user `alice`.
pub struct Replicas {
    pub servers: [Server; 2],
    _accounts: tempfile::TempDir,
}

impl Replicas {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let accounts = format!("sqlite:{}", directory.path().join("accounts.db").display());
        let first = Server::with(Store::Redis, &[("ACCOUNTS__URL", &accounts)]).await;
        let keys = first.data.path().join("keys");
        let settings = [("ACCOUNTS__URL", accounts.as_str()), ("TOKEN__KEYS_DIR", keys.to_str().unwrap())];
        let second = Server::beside(&first, &settings).await;
        first.client.user("alice").await;
        Self { servers: [first, second], _accounts: directory }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_begins_with_the_session_and_ends_with_its_end(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let first = client.login("alice", "Laptop").await;
    let (session, watch) = client.try_watch(&first.token).await.unwrap();
    assert_eq!(Some(session), first.session);
    let second = client.login("alice", "Android").await;
    let rejection = watch.end().await;
    assert_eq!((rejection.reason(), rejection.by_device.as_str()), (RejectionReason::Replaced, "Android"));
    assert_eq!(rejection.at, second.session.unwrap().issued_at);
    assert!(rejection.terminal);
    assert_eq!(rejection, client.rejection(&first.token).await, "the session differs from that of Validate");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_is_reported(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let begin = async || {
        let token = client.login("alice", "").await.token;
        let watch = client.watch(&token).await;
        (token, watch)
    };
    let (token, watch) = begin().await;
    client.logout(&token, LogoutScope::This).await;
    assert_eq!(watch.end().await.reason(), RejectionReason::LoggedOut);

    let (_, watch) = begin().await;
    let kick =
        pb::EndSessionsRequest { user_id: user_id.clone(), message: "Hi".into(), ..Default::default() };
    client.end_sessions(kick).await;
    let rejection = watch.end().await;
    assert_eq!((rejection.reason(), rejection.message.as_str()), (RejectionReason::Kicked, "Hi"));

    let (_, watch) = begin().await;
    let set = pb::SetPasswordRequest { user_id: user_id.clone(), password: PASSWORD.into() };
    client.accounts.clone().set_password(client.admin(set)).await.unwrap();
    assert_eq!(watch.end().await.reason(), RejectionReason::CredentialsChanged);

    let (_, watch) = begin().await;
    client.update(disable(&user_id)).await;
    assert_eq!(watch.end().await.reason(), RejectionReason::AccountDisabled);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_timeouts_are_reported_and_uses_elsewhere_count(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let mut watch = client.watch(&token).await;
    server.clock.advance(Duration::from_mins(59));
    client.session(&token).await;
    server.until_recorded().await;
    server.clock.advance(Duration::from_mins(59));
    assert!(watch.is_quiet().await, "the watch counted as a use");
    server.clock.advance(Duration::from_mins(2));
    assert_eq!(watch.end().await.reason(), RejectionReason::IdleTimeout);

    let token = client.login("alice", "").await.token;
    let mut watch = client.watch(&token).await;
    for _ in 0..24 {
        assert!(watch.is_quiet().await);
        server.clock.advance(Duration::from_mins(59));
        client.try_validate(&token).await.unwrap();
        server.until_recorded().await;
    }
    server.clock.advance(Duration::from_mins(25));
    assert_eq!(watch.end().await.reason(), RejectionReason::Expired);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_no_use(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    server.clock.advance(Duration::from_mins(30));
    let _watch = client.watch(&token).await;
    let session = &client.list_sessions(&user_id).await[0];
    assert_eq!(session.last_seen_at, session.issued_at);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_token_is_not_watched(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    client.login("alice", "phone").await;
    let status = client.try_watch(&token).await.err().unwrap();
    assert_eq!(parts(&status), (Code::Unauthenticated, "REPLACED".into(), vec![]));
    let told = status.get_details_error_info().unwrap().metadata;
    assert_eq!((told["by_device"].as_str(), told["terminal"].as_str()), ("phone", "true"));
    let status = client.try_watch("rubbish").await.err().unwrap();
    assert_eq!(parts(&status), (Code::Unauthenticated, "MALFORMED".into(), vec![]));
    assert_eq!(status.get_details_error_info().unwrap().metadata["terminal"], "false");
    assert_invalid(&client.try_watch("").await.err().unwrap(), "token");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_during_the_start_of_the_stream_is_reported(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = Arc::new(server.client.clone());
    client.user("alice").await;
    for _ in 0..50 {
        let token = client.login("alice", "").await.token;
        let displacing = tokio::spawn({
            let client = Arc::clone(&client);
            async move { client.login("alice", "").await }
        });
        match client.try_watch(&token).await {
            Ok((_, watch)) => assert_eq!(watch.end().await.reason(), RejectionReason::Replaced),
            Err(status) => assert_eq!(parts(&status).1, "REPLACED"),
        }
        displacing.await.unwrap();
    }
}

const FEW: &[(&str, &str)] = &[("SERVER__MAX_WATCHES", "2")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_streams_is_limited(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, FEW).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let (first, _feed) = (client.watch(&token).await, client.feed("").await);
    let status = client.try_watch(&token).await.err().unwrap();
    assert_eq!(parts(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    client.session(&token).await;
    drop(first);
    while client.try_watch(&token).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const FEW_EACH: &[(&str, &str)] = &[
    ("SERVER__MAX_WATCHES_PER_SESSION", "2"),
    ("SERVER__MAX_WATCHES_PER_USER", "3"),
    ("SESSION__LIMIT", "2"),
];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_limited_for_each_session_and_user(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, FEW_EACH).await;

    let client = &server.client;
    client.user("alice").await;
    client.user("bob").await;
    let one = client.login("alice", "").await.token;
    let two = client.login("alice", "").await.token;
    let refused = async |token: &str| {
        let status = client.try_watch(token).await.err().unwrap();
        assert_eq!(parts(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
        status.message().to_owned()
    };
    let watches = (client.watch(&one).await, client.watch(&one).await);
    assert!(refused(&one).await.contains("of this session"));
    let third = client.watch(&two).await;
    assert!(refused(&two).await.contains("of this user"));
    let bob = client.login("bob", "").await.token;
    let _bob = client.watch(&bob).await;
    drop((watches, third));
    while client.try_watch(&one).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_server_and_carries_a_retry_delay(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = server.client.clone();
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let watch = client.watch(&token).await;
    let (_, status) = tokio::join!(server.app.stop(), watch.error());
    assert_eq!(parts(&status), (Code::Unavailable, "SHUTTING_DOWN".into(), vec![]));
    let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay <= Duration::from_secs(5), "{delay:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_displacement_is_reported_on_any_replica() {
    let replicas = Replicas::start().await;
    let [here, there] = &replicas.servers;
    let mut holder = here;
    let mut token = here.client.login("alice", "0").await.token;
    for number in 1..10 {
        let watch = holder.client.watch(&token).await;
        let next = if number % 3 == 0 {
            holder
        } else if std::ptr::eq(holder, here) {
            there
        } else {
            here
        };
        token = next.client.login("alice", &number.to_string()).await.token;
        let rejection = watch.end().await;
        assert_eq!(
            (rejection.reason(), rejection.by_device),
            (RejectionReason::Replaced, number.to_string())
        );
        holder = next;
    }
}
