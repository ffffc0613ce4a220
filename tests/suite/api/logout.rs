//! Logout, and promise P3: a stale token ends no other session.

use crate::support::server::{Server, Store};
use latchkey::grpc::pb::{self, LogoutScope, RejectionReason};
use rstest::rstest;

use super::assert_invalid;
use crate::support::client::{is_live, login_request};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_ends_the_session_and_says_so_afterwards(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let answer = client.logout(&token, LogoutScope::Unspecified).await;
    assert_eq!((answer.ended, answer.rejection), (1, None));
    let rejection = client.rejection(&token).await;
    assert_eq!(rejection.reason(), RejectionReason::LoggedOut);
    assert!(rejection.terminal && rejection.at.is_some());
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_can_be_repeated(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    client.logout(&token, LogoutScope::This).await;
    let at = client.rejection(&token).await.at;
    for scope in [LogoutScope::This, LogoutScope::Others, LogoutScope::All] {
        let again = client.logout(&token, scope).await;
        let rejection = again.rejection.unwrap();
        assert_eq!((again.ended, rejection.reason(), rejection.at), (0, RejectionReason::LoggedOut, at));
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_token_leaves_the_winner_alone_whatever_the_scope(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let stale = client.login("alice", "Android").await.token;
    let winner = client.login("alice", "iPhone").await.token;
    for scope in [LogoutScope::This, LogoutScope::Others, LogoutScope::All] {
        let answer = client.logout(&stale, scope).await;
        let rejection = answer.rejection.unwrap();
        assert_eq!((answer.ended, rejection.reason()), (0, RejectionReason::Replaced));
        assert_eq!(rejection.by_device, "iPhone");
        assert!(is_live(&client.validate(&winner).await), "{scope:?}");
    }
}

const SLOTS: &[(&str, &str)] = &[("SESSION__SLOTS", "web,mobile,tv")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scope_says_which_sessions_end(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, SLOTS).await;

    let client = &server.client;
    client.user("alice").await;
    let login = async |slot: &str| {
        let message = pb::LoginRequest { slot: slot.into(), ..login_request("alice", slot) };
        client.try_login(message).await.unwrap().token
    };
    let live = async |token: &str| is_live(&client.validate(token).await);

    let (web, mobile, tv) = (login("web").await, login("mobile").await, login("tv").await);
    assert_eq!(client.logout(&web, LogoutScope::This).await.ended, 1);
    assert_eq!((live(&web).await, live(&mobile).await, live(&tv).await), (false, true, true));

    let web = login("web").await;
    assert_eq!(client.logout(&web, LogoutScope::Others).await.ended, 2);
    assert_eq!((live(&web).await, live(&mobile).await, live(&tv).await), (true, false, false));
    let nobody = client.logout(&web, LogoutScope::Others).await;
    assert_eq!((nobody.ended, nobody.rejection), (0, None));
    assert!(live(&web).await);

    let mobile = login("mobile").await;
    assert_eq!(client.logout(&web, LogoutScope::All).await.ended, 2);
    assert_eq!((live(&web).await, live(&mobile).await), (false, false));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_touches_no_other_user(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    client.user("bob").await;
    let (alice, bob) = (client.login("alice", "").await.token, client.login("bob", "").await.token);
    assert_eq!(client.logout(&alice, LogoutScope::All).await.ended, 1);
    assert!(is_live(&client.validate(&bob).await));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_logout_is_named(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let mut auth = server.client.auth.clone();
    let missing = auth.logout(pb::LogoutRequest::default()).await.unwrap_err();
    assert_invalid(&missing, "token");
    let unknown = auth.logout(pb::LogoutRequest { token: "x".into(), scope: 9 }).await.unwrap_err();
    assert_invalid(&unknown, "scope");
    let garbage = server.client.logout("nonsense", LogoutScope::All).await;
    assert_eq!(garbage.rejection.unwrap().reason(), RejectionReason::Malformed);
}
