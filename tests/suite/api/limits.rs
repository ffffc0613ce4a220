//! Session limits: rules for each slot, full slots, and victims.

use crate::support::server::{Server, Store};
use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::pb::{self, RejectionReason};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::parts;
use crate::support::client::{Client, login_request};

fn login_to(slot: &str, device: &str) -> pb::LoginRequest {
    pb::LoginRequest { slot: slot.into(), ..login_request("alice", device) }
}

async fn token(client: &Client, slot: &str, device: &str) -> String {
    client.try_login(login_to(slot, device)).await.unwrap().token
}

const OWN_RULES: &[(&str, &str)] = &[
    ("SESSION__SLOTS", "web,mobile"),
    ("SLOT__MOBILE__IDLE_TIMEOUT", "30d"),
    ("SLOT__MOBILE__ABSOLUTE_TIMEOUT", "90d"),
    ("SLOT__MOBILE__LIMIT", "2"),
];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_can_have_rules_of_its_own(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, OWN_RULES).await;

    let client = &server.client;
    client.user("alice").await;
    let (web, phone) = (token(client, "web", "w").await, token(client, "mobile", "phone").await);
    let tablet = token(client, "mobile", "tablet").await;
    client.session(&phone).await;
    server.clock.advance(Duration::from_hours(2));
    assert_eq!(client.rejection(&web).await.reason(), RejectionReason::IdleTimeout);
    client.session(&tablet).await;
    server.clock.advance(Duration::from_hours(24));
    assert_eq!(client.rejection(&web).await.reason(), RejectionReason::Expired);
    let session = client.session(&phone).await;
    assert_eq!(session.expires_at.unwrap().seconds - session.issued_at.unwrap().seconds, 90 * 86400 + 1);

    let third = client.try_login(login_to("mobile", "watch")).await.unwrap();
    assert_eq!(third.displaced.iter().map(|old| old.device.as_str()).collect::<Vec<_>>(), ["phone"]);
    assert_eq!(client.rejection(&phone).await.reason(), RejectionReason::Evicted);
    client.session(&tablet).await;
}

const LEAST_RECENTLY_USED: &[(&str, &str)] =
    &[("SESSION__LIMIT", "2"), ("SESSION__VICTIM", "least_recently_used")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_recently_used_session_is_evicted_and_not_the_oldest(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, LEAST_RECENTLY_USED).await;

    let client = &server.client;
    client.user("alice").await;
    let old = client.login("alice", "old").await.token;
    let young = client.login("alice", "young").await.token;
    server.clock.advance(Duration::from_mins(5));
    client.session(&old).await;
    server.until_recorded().await;
    let third = client.login("alice", "third").await;
    assert_eq!(third.displaced[0].device, "young");
    assert_eq!(client.rejection(&young).await.reason(), RejectionReason::Evicted);
    client.session(&old).await;
}

const EXCLUSIVE: &[(&str, &str)] = &[("SESSION__SLOTS", "web,mobile,tv"), ("SESSION__EXCLUSIVE", "true")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_login_ends_the_sessions_in_all_slots(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, EXCLUSIVE).await;

    let client = &server.client;
    client.user("alice").await;
    let web = token(client, "web", "laptop").await;
    let mobile = client.try_login(login_to("mobile", "phone")).await.unwrap();
    assert_eq!(mobile.displaced[0].slot, "web");
    let rejection = client.rejection(&web).await;
    assert_eq!((rejection.reason(), rejection.by_device.as_str()), (RejectionReason::Replaced, "phone"));
    // This holds even after the tombstone was pruned.
    let mut last = mobile.token;
    for number in 0..20 {
        last = token(client, ["web", "tv"][number % 2], "again").await;
    }
    let rejection = client.rejection(&web).await;
    assert_eq!((rejection.reason(), rejection.terminal), (RejectionReason::Replaced, true));
    client.session(&last).await;
}

const DENY: &[(&str, &str)] = &[("SESSION__ON_LIMIT", "deny")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_login_names_the_holder_and_a_takeover_succeeds(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, DENY).await;

    let client = &server.client;
    client.user("alice").await;
    let first = client.login("alice", "Android").await;
    server.clock.advance(Duration::from_mins(7));

    let status = client.try_login(login_request("alice", "iPhone")).await.unwrap_err();
    assert_eq!(parts(&status), (Code::FailedPrecondition, "SESSION_LIMIT".into(), vec![]));
    assert!(status.message().contains("Android") && status.message().contains("takeover"), "{status:?}");
    let metadata = status.get_details_error_info().unwrap().metadata;
    assert_eq!((metadata["device"].as_str(), metadata["slot"].as_str()), ("Android", "default"));
    assert_eq!(metadata["idle_seconds"], "420");
    let issued = first.session.unwrap().issued_at.unwrap().seconds;
    assert_eq!(metadata["issued_at_unix"], issued.to_string());
    client.session(&first.token).await;

    // Only the right password gets this answer, and it counts as no failure.
    let wrong = pb::LoginRequest { password: "wrong".into(), ..login_request("alice", "iPhone") };
    assert_eq!(parts(&client.try_login(wrong).await.unwrap_err()).1, "INVALID_CREDENTIALS");
    for _ in 0..10 {
        let status = client.try_login(login_request("alice", "iPhone")).await.unwrap_err();
        assert_eq!(parts(&status).1, "SESSION_LIMIT");
    }

    let takeover = pb::LoginRequest { takeover: true, ..login_request("alice", "iPhone") };
    let second = client.try_login(takeover).await.unwrap();
    assert_eq!(second.displaced[0].device, "Android");
    assert_eq!(client.rejection(&first.token).await.reason(), RejectionReason::Replaced);

    client.logout(&second.token, pb::LogoutScope::This).await;
    client.login("alice", "tablet").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_holder_denies_no_login(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, DENY).await;

    let client = &server.client;
    client.user("alice").await;
    client.login("alice", "Android").await;
    server.clock.advance(Duration::from_hours(2));
    assert_eq!(client.login("alice", "iPhone").await.displaced, []);
}
