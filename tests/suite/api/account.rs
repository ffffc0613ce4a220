//! `AccountService`, and the effect of its changes on sessions.

use crate::support::server::Store;
use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::pb::{self, RejectionReason, get_account_request::Key};
use tonic::{Code, Status};

use super::{assert_invalid, disable, parts};
use crate::support::{
    client::{Client, PASSWORD, is_live, login_request},
    server::Server,
};

async fn get(client: &Client, key: Key) -> Result<pb::Account, Status> {
    let request = client.admin(pb::GetAccountRequest { key: Some(key) });
    client.accounts.clone().get_account(request).await.map(|answer| answer.into_inner().account.unwrap())
}

async fn set_password(client: &Client, user_id: &str, password: &str) -> Result<u32, Status> {
    let message = pb::SetPasswordRequest { user_id: user_id.into(), password: password.into() };
    let answer = client.accounts.clone().set_password(client.admin(message)).await;
    answer.map(|answer| answer.into_inner().ended)
}

async fn delete(client: &Client, user_id: &str) -> Result<u32, Status> {
    let message = pb::DeleteAccountRequest { user_id: user_id.into() };
    let answer = client.accounts.clone().delete_account(client.admin(message)).await;
    answer.map(|answer| answer.into_inner().ended)
}

async fn create(client: &Client, message: pb::CreateAccountRequest) -> Result<pb::Account, Status> {
    let answer = client.accounts.clone().create_account(client.admin(message)).await;
    answer.map(|answer| answer.into_inner().account.unwrap())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_found_by_id_and_by_any_spelling_of_its_name(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user_with_roles("Alice", &["staff", "admin", "staff"]).await;
    let account = get(client, Key::UserId(user_id.clone())).await.unwrap();
    assert_eq!(
        account,
        pb::Account {
            user_id: user_id.clone(),
            username: "Alice".into(),
            roles: vec!["admin".into(), "staff".into()],
            disabled: false,
            disabled_until: None,
            created_at: account.created_at,
        }
    );
    assert!(account.created_at.is_some());
    assert_eq!(get(client, Key::Username("aLICE".into())).await.unwrap(), account);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_taken_in_every_spelling(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("Jürgen").await;
    for username in ["Jürgen", "JÜRGEN", "ju\u{308}rgen"] {
        let message =
            pb::CreateAccountRequest { username: username.into(), password: PASSWORD.into(), roles: vec![] };
        let status = create(client, message).await.unwrap_err();
        assert_eq!(parts(&status), (Code::AlreadyExists, "ACCOUNT_EXISTS".into(), vec![]));
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_account_is_not_found(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let not_found = |status: Status| {
        assert_eq!(parts(&status), (Code::NotFound, "ACCOUNT_NOT_FOUND".into(), vec![]));
    };
    not_found(get(client, Key::UserId("nobody".into())).await.unwrap_err());
    not_found(get(client, Key::Username("nobody".into())).await.unwrap_err());
    not_found(set_password(client, "nobody", PASSWORD).await.unwrap_err());
    not_found(delete(client, "nobody").await.unwrap_err());
    let update = client.accounts.clone().update_account(client.admin(disable("nobody"))).await;
    not_found(update.unwrap_err());
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_listed_in_pages_in_the_order_of_their_names(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let names = ["adam", "Bea", "Çelik", "dora", "Émile"];
    for name in ["dora", "Émile", "adam", "Çelik", "Bea"] {
        client.user(name).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = client.admin(pb::ListAccountsRequest { page_size: 2, page_token });
        let page = client.accounts.clone().list_accounts(request).await.unwrap().into_inner();
        assert!(page.accounts.len() <= 2);
        seen.extend(page.accounts.into_iter().map(|account| account.username));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut expected = names.map(str::to_owned).to_vec();
    expected.sort_by_key(|name| name.to_lowercase());
    assert_eq!(seen, expected);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabling_ends_every_session_at_once_and_prevents_logins(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let answer = client.update(disable(&user_id)).await;
    assert_eq!(answer.ended, 1);
    assert!(answer.account.unwrap().disabled);
    let rejection = client.rejection(&token).await;
    assert_eq!(rejection.reason(), RejectionReason::AccountDisabled);
    assert!(rejection.terminal);
    client.try_login(login_request("alice", "")).await.unwrap_err();

    let enable = pb::UpdateAccountRequest { user_id, disabled: Some(false), ..Default::default() };
    assert!(!client.update(enable).await.account.unwrap().disabled);
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::AccountDisabled, "dead stays dead");
    assert!(is_live(&client.validate(&client.login("alice", "").await.token).await));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_disabled_until_a_time_is_enabled_again_at_that_time(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let issued = client.login("alice", "").await.session.unwrap().issued_at.unwrap();
    let until = prost_types::Timestamp { seconds: issued.seconds + 600, nanos: 0 };
    let answer = client
        .update(pb::UpdateAccountRequest {
            user_id: user_id.clone(),
            disabled_until: Some(until),
            ..Default::default()
        })
        .await;
    let account = answer.account.unwrap();
    assert_eq!((answer.ended, account.disabled, account.disabled_until), (1, true, Some(until)));
    let status = client.try_login(login_request("alice", "")).await.unwrap_err();
    assert_eq!(parts(&status).1, "ACCOUNT_DISABLED");
    server.clock.advance(Duration::from_mins(11));
    client.login("alice", "").await;
    assert!(!get(client, Key::UserId(user_id.clone())).await.unwrap().disabled);

    let past = pb::UpdateAccountRequest { user_id, disabled_until: Some(issued), ..Default::default() };
    let status = client.accounts.clone().update_account(client.admin(past)).await.unwrap_err();
    assert_invalid(&status, "disabled_until");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_ends_every_session_and_is_the_only_one_that_works(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    assert_eq!(set_password(client, &user_id, "another long password").await.unwrap(), 1);
    let rejection = client.rejection(&token).await;
    assert_eq!(rejection.reason(), RejectionReason::CredentialsChanged);
    assert!(!rejection.terminal);
    let status = client.try_login(login_request("alice", "")).await.unwrap_err();
    assert_eq!(parts(&status).1, "INVALID_CREDENTIALS");
    let message = pb::LoginRequest { password: "another long password".into(), ..login_request("alice", "") };
    client.try_login(message).await.unwrap();
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_account_is_gone_with_its_sessions_and_its_name_is_free(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    assert_eq!(delete(client, &user_id).await.unwrap(), 1);
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::AccountDisabled);
    let status = client.try_login(login_request("alice", "")).await.unwrap_err();
    assert_eq!(parts(&status).1, "INVALID_CREDENTIALS");
    assert_ne!(client.user("alice").await, user_id, "an id is never given out again");
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::AccountDisabled);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_violation_of_an_account_is_named(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let usual =
        || pb::CreateAccountRequest { username: "bob".into(), password: PASSWORD.into(), roles: vec![] };
    for (message, field) in [
        (pb::CreateAccountRequest { username: String::new(), ..usual() }, "username"),
        (pb::CreateAccountRequest { username: " bob".into(), ..usual() }, "username"),
        (pb::CreateAccountRequest { password: "1234567".into(), ..usual() }, "password"),
        (pb::CreateAccountRequest { password: "ü".repeat(257), ..usual() }, "password"),
        (pb::CreateAccountRequest { roles: vec!["a b".into()], ..usual() }, "roles"),
        (pb::CreateAccountRequest { roles: (0..33).map(|n| n.to_string()).collect(), ..usual() }, "roles"),
    ] {
        assert_invalid(&create(client, message).await.unwrap_err(), field);
    }
    assert_invalid(&set_password(client, &user_id, "short").await.unwrap_err(), "password");
    assert_invalid(&set_password(client, "", PASSWORD).await.unwrap_err(), "user_id");
    assert_invalid(&delete(client, "").await.unwrap_err(), "user_id");
    let nobody = client.admin(pb::GetAccountRequest { key: None });
    assert_invalid(&client.accounts.clone().get_account(nobody).await.unwrap_err(), "user_id");
    for (page_size, page_token, field) in [(-1, "", "page_size"), (0, "???", "page_token")] {
        let request = client.admin(pb::ListAccountsRequest { page_size, page_token: page_token.into() });
        let status = client.accounts.clone().list_accounts(request).await.unwrap_err();
        assert_invalid(&status, field);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_debt_that_was_left_behind_is_settled(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    leave_a_debt(&server).await;
}

/// Leaves a debt, as a crash or an outage between the two databases does.
async fn leave_a_debt(server: &Server) {
    use latchkey::domain::{
        ports::{AccountChange, Clock as _, DebtCause, Disabled},
        types::UserId,
    };
    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let change = AccountChange::Update { roles: None, disabled: Some(Disabled::Yes) };
    let id = UserId::parse(&user_id).unwrap();
    let engine = &server.app.engine;
    let now = server.clock.now();
    engine.accounts().change(&id, change, Some(DebtCause::AccountDisabled), now).await.unwrap().unwrap();
    engine.settle_debts().await.unwrap();
    assert!(is_live(&client.validate(&token).await), "a young debt belongs to the request that made it");
    server.clock.advance(Duration::from_secs(16));
    // The background task of the server settles it from here on.
    let begun = std::time::Instant::now();
    while is_live(&client.validate(&token).await) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the debt is not settled");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::AccountDisabled);
    while !engine.accounts().debts(server.clock.now(), 10).await.unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the debt is settled but still recorded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
