//! Kick wars: two clients that displace each other in a loop.

use crate::support::server::{Server, Store};
use rstest::rstest;
use std::{fs, time::Duration};

use latchkey::grpc::pb;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::parts;
use crate::support::client::{Client, login_request};

const DEFAULT: &[(&str, &str)] = &[("SESSION__KICK_WAR_CHANGES", "6")];

/// Logs in from a client address, as a proxy forwards it.
async fn login_from(client: &Client, device: &str, from: &str) -> Result<pb::LoginResponse, Status> {
    let mut request = Request::new(login_request("alice", device));
    request.metadata_mut().insert("x-forwarded-for", from.parse().unwrap());
    client.auth.clone().login(request).await.map(tonic::Response::into_inner)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kick_war_is_ended_in_favour_of_the_current_holder(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, DEFAULT).await;

    let client = &server.client;
    client.user("alice").await;
    let (phone, laptop) = ("phone", "laptop");
    client.login("alice", phone).await;
    let mut holder = String::new();
    for device in [laptop, phone, laptop, phone, laptop, phone] {
        server.clock.advance(Duration::from_secs(2));
        holder = client.login("alice", device).await.token;
    }
    server.clock.advance(Duration::from_secs(10));
    for device in [laptop, phone] {
        let status = client.try_login(login_request("alice", device)).await.unwrap_err();
        assert_eq!(parts(&status), (Code::ResourceExhausted, "THROTTLED".into(), vec![]));
        let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!((49..=50).contains(&retry.as_secs()), "{retry:?}");
    }
    client.session(&holder).await;
    // The denied logins had the right password and count as no failure.
    server.until_settled("alice").await;

    // A login into an empty slot displaces no session.
    client.logout(&holder, pb::LogoutScope::This).await;
    let back = client.login("alice", laptop).await.token;
    client.try_login(login_request("alice", phone)).await.unwrap_err();

    server.clock.advance(Duration::from_secs(51));
    let next = client.login("alice", phone).await;
    assert_eq!(next.displaced[0].device, laptop);
    client.rejection(&back).await;
    for device in [laptop, phone, laptop, phone, laptop] {
        client.login("alice", device).await;
    }
    client.try_login(login_request("alice", phone)).await.unwrap_err();
    assert_eq!(server.app.engine.metrics().kick_wars.get(), 2);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_logins_of_a_thief_do_not_lock_out_the_owner(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, DEFAULT).await;

    let client = &server.client;
    client.user("alice").await;
    let (owner, thief) = ("203.0.113.1", "198.51.100.1");
    login_from(client, "phone", owner).await.unwrap();
    // The thief logs in repeatedly, under new device names, and as two clients that displace each other.
    let pretended =
        ["x"; 8].into_iter().chain(["1", "2", "3", "4", "5", "6", "7", "8"]).chain(["x", "y"].repeat(3));
    let mut last = String::new();
    for device in pretended {
        last = login_from(client, device, thief).await.unwrap().token;
    }
    login_from(client, "x", thief).await.unwrap_err();
    // The owner can log in.
    let back = login_from(client, "phone", owner).await.unwrap();
    client.rejection(&last).await;
    client.session(&back.token).await;
    assert_eq!(server.app.engine.metrics().kick_wars.get(), 1);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_displacements_are_no_kick_war(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, DEFAULT).await;

    let client = &server.client;
    client.user("alice").await;
    for number in 0..20 {
        client.login("alice", ["phone", "laptop"][number % 2]).await;
        server.clock.advance(Duration::from_millis(12_100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kick_war_is_one_entry_of_the_audit_trail() {
    use crate::support::server::{Server, Store};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let settings = [("SESSION__KICK_WAR_CHANGES", "3"), ("AUDIT__FILE", file.to_str().unwrap())];
    let server = Server::with(Store::Embedded, &settings).await;
    server.client.user("alice").await;
    for number in 0..4 {
        server.client.login("alice", ["phone", "laptop"][number % 2]).await;
    }
    for _ in 0..3 {
        server.client.try_login(login_request("alice", "phone")).await.unwrap_err();
    }
    assert!(server.app.stop().await);
    let trail = fs::read_to_string(file).unwrap();
    let wars: Vec<_> = trail.lines().filter(|line| line.contains("\"session.kick_war\"")).collect();
    assert_eq!(wars.len(), 1, "{trail}");
    assert!(wars[0].contains("\"device\":\"laptop\""), "{}", wars[0]);
    let refused = trail.lines().filter(|line| line.contains("\"THROTTLED\"")).count();
    assert_eq!(refused, 3, "{trail}");
}
