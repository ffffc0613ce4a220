//! `ListSessions` and `EndSessions`: operators see the sessions of users and end them.

use crate::support::server::{Server, Store};
use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::pb::{self, RejectionReason};
use tonic::Status;

use super::assert_invalid;
use crate::support::client::{Client, login_request};

const SLOTS: &[(&str, &str)] = &[("SESSION__SLOTS", "web,mobile"), ("SESSION__LIMIT", "3")];

async fn login_to(client: &Client, slot: &str, device: &str) -> String {
    let login = pb::LoginRequest { slot: slot.into(), ..login_request("alice", device) };
    client.try_login(login).await.unwrap().token
}

fn of(user_id: &str) -> pb::EndSessionsRequest {
    pb::EndSessionsRequest { user_id: user_id.into(), ..Default::default() }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_sessions_of_a_user_are_listed(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, SLOTS).await;

    let client = &server.client;
    let user_id = client.user_with_roles("alice", &["staff"]).await;
    assert_eq!(client.list_sessions(&user_id).await, []);
    assert_eq!(client.list_sessions("nobody").await, []);
    let old = login_to(client, "web", "old").await;
    let laptop = login_to(client, "web", "laptop").await;
    login_to(client, "mobile", "phone").await;
    client.logout(&old, pb::LogoutScope::This).await;
    server.clock.advance(Duration::from_mins(3));
    let used = client.session(&laptop).await;
    server.until_recorded().await;

    let sessions = client.list_sessions(&user_id).await;
    let shown: Vec<_> = sessions.iter().map(|s| (s.slot.as_str(), s.device.as_str())).collect();
    assert_eq!(shown, [("web", "laptop"), ("mobile", "phone")]);
    let (laptop, phone) = (&sessions[0], &sessions[1]);
    assert_eq!((&laptop.session_id, &laptop.expires_at), (&used.session_id, &used.expires_at));
    assert_eq!((laptop.username.as_str(), laptop.roles.as_slice()), ("alice", &["staff".to_owned()][..]));
    let used_after = |s: &pb::Session| s.last_seen_at.unwrap().seconds - s.issued_at.unwrap().seconds;
    assert_eq!((used_after(laptop), used_after(phone)), (180, 0));
    assert!(laptop.idle_expires_at.unwrap().seconds > phone.idle_expires_at.unwrap().seconds);

    server.clock.advance(Duration::from_mins(57));
    assert_eq!(client.list_sessions(&user_id).await.len(), 2);
    server.clock.advance(Duration::from_mins(2));
    assert_eq!(client.list_sessions(&user_id).await.len(), 1, "what has timed out is not live");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_one_slot_or_all_can_be_ended(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, SLOTS).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let first = login_to(client, "web", "1").await;
    let second = login_to(client, "web", "2").await;
    let third = login_to(client, "web", "3").await;
    let phone = login_to(client, "mobile", "4").await;

    let session_id = client.session(&first).await.session_id;
    let one = pb::EndSessionsRequest { session_id, message: "Lost & found".into(), ..of(&user_id) };
    assert_eq!(client.end_sessions(one.clone()).await, 1);
    let rejection = client.rejection(&first).await;
    assert_eq!((rejection.reason(), rejection.terminal), (RejectionReason::Kicked, true));
    assert_eq!(rejection.message, "Lost & found");
    assert!(rejection.at.is_some());
    assert_eq!(client.end_sessions(one).await, 0, "it has ended before");
    client.session(&second).await;

    let slot = pb::EndSessionsRequest { slot: "web".into(), ..of(&user_id) };
    assert_eq!(client.end_sessions(slot).await, 2);
    for token in [&second, &third] {
        let rejection = client.rejection(token).await;
        assert_eq!(rejection.reason(), RejectionReason::Kicked);
        assert_eq!(rejection.message, "The session was ended by an operator.");
    }
    client.session(&phone).await;

    assert_eq!(
        client.end_sessions(pb::EndSessionsRequest { message: "Bye".into(), ..of(&user_id) }).await,
        1
    );
    assert_eq!(client.rejection(&phone).await.message, "Bye");
    client.session(&login_to(client, "web", "5").await).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_the_store_has_forgotten_are_ended_too(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    for _ in 0..20 {
        client.login("alice", "").await;
    }
    assert_eq!(client.end_sessions(of(&user_id)).await, 1);
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::Kicked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_requests_are_violations() {
    use crate::support::server::{Server, Store};
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let refused = async |message| -> Status {
        client.sessions.clone().end_sessions(client.admin(message)).await.unwrap_err()
    };
    let with = |change: fn(&mut pb::EndSessionsRequest)| {
        let mut message = of("u");
        change(&mut message);
        message
    };
    assert_invalid(&refused(pb::EndSessionsRequest::default()).await, "user_id");
    assert_invalid(&refused(with(|m| m.everyone = true)).await, "everyone");
    assert_invalid(&refused(with(|m| m.session_id = "x".into())).await, "session_id");
    assert_invalid(&refused(with(|m| m.slot = "Web".into())).await, "slot");
    assert_invalid(&refused(with(|m| m.message = "two\nlines".into())).await, "message");
    assert_invalid(&refused(with(|m| m.message = "x".repeat(201))).await, "message");
    let without = pb::EndSessionsRequest { slot: "web".into(), ..Default::default() };
    assert_invalid(&refused(without).await, "user_id");
}
