//! Promise P2: no race makes an ended session live again, nor lets a late login survive.

use crate::support::server::{Server, Store};
use latchkey::domain::ports::{AccountChange, Clock as _, DebtCause};
use latchkey::grpc::pb::{self, LogoutScope, RejectionReason, validate_response::Verdict};
use rstest::rstest;
use tonic::Code;

use super::{disable, parts};
use crate::support::client::{PASSWORD, is_live, login_request};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_concurrent_logins_exactly_one_survives(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let logins: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.login("alice", &n.to_string()).await.token })
        })
        .collect();
    let mut live = 0;
    let mut tokens = Vec::new();
    for login in logins {
        tokens.push(login.await.unwrap());
    }
    for token in &tokens {
        match client.validate(token).await {
            Verdict::Session(_) => live += 1,
            Verdict::Rejection(rejection) => assert_eq!(rejection.reason(), RejectionReason::Replaced),
        }
    }
    assert_eq!(live, 1);
}

/// Hashes slow enough that a login is still hashing when the account changes.
const SLOW: &[(&str, &str)] = &[("PASSWORD__MEMORY_KIB", "8192"), ("PASSWORD__ITERATIONS", "8")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_overlaps_a_disable_or_a_delete_does_not_survive_it(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, SLOW).await;

    for delete in [false, true] {
        let client = &server.client;
        let name = if delete { "bob" } else { "alice" };
        let user_id = client.user(name).await;
        let before = server.app.engine.passwords().hasher().hashes();
        let login = tokio::spawn({
            let client = client.clone();
            async move { client.try_login(login_request(name, "")).await }
        });
        while server.app.engine.passwords().hasher().hashes() == before {
            tokio::task::yield_now().await;
        }
        if delete {
            let message = pb::DeleteAccountRequest { user_id };
            client.accounts.clone().delete_account(client.admin(message)).await.unwrap();
        } else {
            client.update(disable(&user_id)).await;
        }
        match login.await.unwrap() {
            Ok(answer) => {
                assert!(!is_live(&client.validate(&answer.token).await), "it was first, and was ended");
            }
            Err(status) => {
                let reason = if delete { "INVALID_CREDENTIALS" } else { "ACCOUNT_DISABLED" };
                assert_eq!(parts(&status).1, reason);
            }
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_overlaps_a_password_change_does_not_survive_it(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, SLOW).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    // The hash of the new password is made before the login begins, so only the change itself overlaps.
    let engine = &server.app.engine;
    let hash = engine
        .passwords()
        .hasher()
        .hash(latchkey::domain::password::Password::presented("another password".into()).unwrap())
        .await
        .unwrap();
    let id = latchkey::domain::types::UserId::parse(&user_id).unwrap();
    let before = engine.passwords().hasher().hashes();
    let login = tokio::spawn({
        let client = client.clone();
        async move { client.try_login(login_request("alice", "")).await }
    });
    while engine.passwords().hasher().hashes() == before {
        tokio::task::yield_now().await;
    }
    let change = AccountChange::Password(hash);
    let now = server.clock.now();
    engine.accounts().change(&id, change, Some(DebtCause::CredentialsChanged), now).await.unwrap();
    server.clock.advance(std::time::Duration::from_mins(1));
    engine.settle_debts().await.unwrap();
    match login.await.unwrap() {
        Ok(answer) => assert!(!is_live(&client.validate(&answer.token).await)),
        Err(status) => assert_eq!(
            (status.code(), parts(&status).1.as_str()),
            (Code::Unauthenticated, "INVALID_CREDENTIALS")
        ),
    }
    let old = pb::LoginRequest { password: PASSWORD.into(), ..login_request("alice", "") };
    client.try_login(old).await.unwrap_err();
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validate_that_races_a_logout_never_revives_the_session(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    for round in 0..20_u64 {
        let token = client.login("alice", "").await.token;
        // A touch is due, so each of these calls writes.
        server.clock.advance(std::time::Duration::from_mins(2));
        let uses: Vec<_> = (0..10)
            .map(|_| {
                let (client, token) = (client.clone(), token.clone());
                tokio::spawn(async move { client.validate(&token).await })
            })
            .collect();
        assert_eq!(client.logout(&token, LogoutScope::This).await.ended, 1, "round {round}");
        assert_eq!(client.rejection(&token).await.reason(), RejectionReason::LoggedOut);
        for validate in uses {
            validate.await.unwrap();
        }
        assert_eq!(client.rejection(&token).await.reason(), RejectionReason::LoggedOut);
    }
}
