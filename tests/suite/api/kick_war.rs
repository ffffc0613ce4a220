//! Two clients that log each other out again and again.

use std::{fs, time::Duration};

use latchkey::grpc::pb;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::parts;
use crate::{on_both_stores, support::client::login_request};

const DEFAULT: &[(&str, &str)] = &[("SESSION__KICK_WAR_CHANGES", "6")];

on_both_stores! {
    async fn a_slot_that_is_fought_over_stays_with_its_holder_for_a_while(server: Server, DEFAULT) {
        let client = &server.client;
        client.user("alice").await;
        let mut holder = client.login("alice", "first").await.token;
        for number in 0..6 {
            server.clock.advance(Duration::from_secs(2));
            holder = client.login("alice", &number.to_string()).await.token;
        }
        server.clock.advance(Duration::from_secs(10));
        let status = client.try_login(login_request("alice", "seventh")).await.unwrap_err();
        assert_eq!(parts(&status), (Code::ResourceExhausted, "THROTTLED".into(), vec![]));
        let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!((49..=50).contains(&retry.as_secs()), "{retry:?}");
        client.session(&holder).await;
        // A right password is no failure.
        server.until_settled("alice").await;

        // Nobody is displaced by a login into an empty slot.
        client.logout(&holder, pb::LogoutScope::This).await;
        let back = client.login("alice", "back").await.token;
        client.try_login(login_request("alice", "seventh")).await.unwrap_err();

        server.clock.advance(Duration::from_secs(51));
        let next = client.login("alice", "later").await;
        assert_eq!(next.displaced[0].device, "back");
        client.rejection(&back).await;
        for number in 0..5 {
            client.login("alice", &format!("again {number}")).await;
        }
        client.try_login(login_request("alice", "too often")).await.unwrap_err();
        assert_eq!(server.app.engine.counts.kick_wars.get(), 2);
    }
}

on_both_stores! {
    async fn logins_that_take_their_time_are_no_war(server: Server, DEFAULT) {
        let client = &server.client;
        client.user("alice").await;
        for number in 0..20 {
            client.login("alice", &number.to_string()).await;
            server.clock.advance(Duration::from_millis(12_100));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_war_is_one_entry_of_the_audit_trail() {
    use crate::support::server::{Server, Store};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let settings = [("SESSION__KICK_WAR_CHANGES", "3"), ("AUDIT__FILE", file.to_str().unwrap())];
    let server = Server::with(Store::Embedded, &settings).await;
    server.client.user("alice").await;
    for number in 0..4 {
        server.client.login("alice", &number.to_string()).await;
    }
    for _ in 0..3 {
        server.client.try_login(login_request("alice", "x")).await.unwrap_err();
    }
    assert!(server.app.stop().await);
    let trail = fs::read_to_string(file).unwrap();
    let wars: Vec<_> = trail.lines().filter(|line| line.contains("\"session.kick_war\"")).collect();
    assert_eq!(wars.len(), 1, "{trail}");
    assert!(wars[0].contains("\"device\":\"3\""), "{}", wars[0]);
    let refused = trail.lines().filter(|line| line.contains("\"THROTTLED\"")).count();
    assert_eq!(refused, 3, "{trail}");
}
