//! `ChangePassword`.

use crate::support::server::{Server, Store};
use latchkey::grpc::pb::{self, RejectionReason};
use rstest::rstest;
use tonic::{Code, Status};

use super::{assert_invalid, parts};
use crate::support::client::{Client, PASSWORD, login_request};

const NEW: &str = "an entirely different sentence";

async fn change(client: &Client, token: &str, current: &str, new: &str) -> Result<u32, Status> {
    let message = pb::ChangePasswordRequest {
        token: token.into(),
        current_password: current.into(),
        new_password: new.into(),
    };
    client.auth.clone().change_password(message).await.map(|answer| answer.into_inner().ended)
}

fn login_with(username: &str, password: &str) -> pb::LoginRequest {
    pb::LoginRequest { password: password.into(), ..login_request(username, "") }
}

const TWO: &[(&str, &str)] = &[("SESSION__LIMIT", "3")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_that_changes_the_password_is_the_only_one_left(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, TWO).await;

    let client = &server.client;
    client.user("alice").await;
    let own = client.login("alice", "laptop").await.token;
    let others = [client.login("alice", "phone").await.token, client.login("alice", "tablet").await.token];
    assert_eq!(change(client, &own, PASSWORD, NEW).await.unwrap(), 2);
    client.session(&own).await;
    for token in &others {
        assert_eq!(client.rejection(token).await.reason(), RejectionReason::CredentialsChanged);
    }
    let status = client.try_login(login_request("alice", "")).await.unwrap_err();
    assert_eq!(parts(&status).1, "INVALID_CREDENTIALS");
    client.try_login(login_with("alice", NEW)).await.unwrap();
    client.session(&own).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_current_password_changes_nothing_and_counts_as_a_failure(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    for _ in 0..5 {
        let status = change(client, &token, "not this one", NEW).await.unwrap_err();
        assert_eq!(
            (status.code(), parts(&status).1.as_str()),
            (Code::Unauthenticated, "INVALID_CREDENTIALS")
        );
    }
    assert_eq!(parts(&change(client, &token, PASSWORD, NEW).await.unwrap_err()).1, "THROTTLED");
    assert_eq!(parts(&client.try_login(login_request("alice", "")).await.unwrap_err()).1, "THROTTLED");
    client.session(&token).await;
    server.clock.advance(std::time::Duration::from_secs(1));
    client.login("alice", "").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_token_changes_no_password(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let old = client.login("alice", "").await.token;
    client.login("alice", "").await;
    for (token, reason) in [(old.as_str(), "REPLACED"), ("rubbish", "MALFORMED")] {
        let hashes = server.app.engine.passwords().hasher().hashes();
        let status = change(client, token, PASSWORD, NEW).await.unwrap_err();
        assert_eq!((status.code(), parts(&status).1.as_str()), (Code::Unauthenticated, reason));
        assert_eq!(server.app.engine.passwords().hasher().hashes(), hashes);
    }
    client.login("alice", "").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_and_short_fields_are_named(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    assert_invalid(&change(client, "", PASSWORD, NEW).await.unwrap_err(), "token");
    assert_invalid(&change(client, &token, "", NEW).await.unwrap_err(), "current_password");
    assert_invalid(&change(client, &token, PASSWORD, "").await.unwrap_err(), "new_password");
    assert_invalid(&change(client, &token, PASSWORD, "short").await.unwrap_err(), "new_password");
    client.session(&token).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_was_reset_meanwhile_is_not_overwritten(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(
        store,
        &[("PASSWORD__MEMORY_KIB", "8192"), ("PASSWORD__ITERATIONS", "8"), ("PASSWORD__THREADS", "4")],
    )
    .await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let before = server.app.engine.passwords().hasher().hashes();
    let thief = tokio::spawn({
        let client = client.clone();
        async move { change(&client, &token, PASSWORD, "the thief's own new password").await }
    });
    while server.app.engine.passwords().hasher().hashes() == before {
        tokio::task::yield_now().await;
    }
    let message = pb::SetPasswordRequest { user_id, password: NEW.into() };
    client.accounts.clone().set_password(client.admin(message)).await.unwrap();
    // Either the reset came after the change of the thief, or the change was refused.
    let _ = thief.await.unwrap();
    client.try_login(login_with("alice", NEW)).await.unwrap();
    let status = client.try_login(login_with("alice", "the thief's own new password")).await.unwrap_err();
    assert_eq!(parts(&status).1, "INVALID_CREDENTIALS");
}
