//! The revocation feed.

use crate::support::server::{Server, Store};
use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::pb::{self, LogoutScope, RejectionReason, watch_sessions_response::Event as FeedEvent};

use super::watch_session::Replicas;
use crate::support::client::{Client, Feed, login_request};

/// Logs a user in repeatedly and returns the displaced sessions.
async fn displace(client: &Client, username: &str, times: usize) -> Vec<String> {
    let mut ended = Vec::new();
    for _ in 0..times {
        let login = client.login(username, "").await;
        ended.extend(login.displaced.into_iter().map(|old| old.session_id));
    }
    ended
}

/// Reads this number of ended sessions.
async fn told(feed: &mut Feed, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        told.push(feed.ended().await.session_id);
    }
    told
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_ended_session_is_reported_with_all_fields(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let mut feed = client.feed("").await;
    let first = client.login("alice", "Laptop").await;
    client.login("alice", "Android").await;
    let ended = feed.ended().await;
    let session = first.session.unwrap();
    assert_eq!((ended.user_id, ended.session_id, ended.slot), (user_id, session.session_id, session.slot));
    assert_eq!(ended.expires_at, session.expires_at, "nobody needs to remember it for longer");
    assert_eq!(ended.rejection, Some(client.rejection(&first.token).await));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_resumes_with_a_cursor_misses_nothing(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    displace(client, "alice", 1).await;
    let mut feed = client.feed("").await;
    let first = displace(client, "alice", 3).await;
    assert_eq!(told(&mut feed, 3).await, first);
    let cursor = feed.cursor.clone();
    drop(feed);

    let missed = displace(client, "alice", 600).await;
    let mut feed = client.feed(&cursor).await;
    assert_eq!(told(&mut feed, 600).await, missed);
    let live = displace(client, "alice", 3).await;
    assert_eq!(told(&mut feed, 3).await, live, "and then what happens now, once");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_between_past_and_live_events(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    displace(client, "alice", 1).await;
    let cursor = client.feed("").await.cursor;
    let displacing = tokio::spawn({
        let client = client.clone();
        async move { displace(&client, "alice", 300).await }
    });
    let mut feeds = Vec::new();
    for _ in 0..10 {
        feeds.push(client.feed(&cursor).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = displacing.await.unwrap();
    for feed in &mut feeds {
        let told = told(feed, 300).await;
        // Lengths first: a failed comparison of the lists would print every id.
        let first_wrong = told.iter().zip(&ended).position(|(told, ended)| told != ended);
        assert_eq!(first_wrong, None);
    }
}

const SLOTS: &[(&str, &str)] = &[("SESSION__SLOTS", "web,mobile")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_lets_through_what_it_names(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, SLOTS).await;

    let client = &server.client;
    let alice = client.user("alice").await;
    client.user("bob").await;
    let of_alice = pb::WatchSessionsRequest { user_id: alice.clone(), ..Default::default() };
    let mut of_alice = client.feed_of(of_alice).await;
    let on_mobile = pb::WatchSessionsRequest { slot: "mobile".into(), ..Default::default() };
    let mut on_mobile = client.feed_of(on_mobile).await;
    for (username, slot) in [("bob", "web"), ("bob", "mobile"), ("alice", "web"), ("alice", "mobile")] {
        let login = pb::LoginRequest { slot: slot.into(), ..login_request(username, "") };
        let token = client.try_login(login).await.unwrap().token;
        client.logout(&token, LogoutScope::This).await;
    }
    let (first, second) = (of_alice.ended().await, of_alice.ended().await);
    assert_eq!((first.user_id, first.slot), (alice.clone(), "web".into()));
    assert_eq!((second.user_id, second.slot), (alice.clone(), "mobile".into()));
    let (first, second) = (on_mobile.ended().await, on_mobile.ended().await);
    assert_eq!((first.user_id == alice, second.user_id == alice), (false, true));
    assert_eq!(first.rejection.unwrap().reason(), RejectionReason::LoggedOut);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_feed_sends_heartbeats(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let mut feed = client.feed("").await;
    let FeedEvent::Heartbeat(heartbeat) = feed.next().await else { panic!("not a heartbeat") };
    assert!(heartbeat.as_of.unwrap().seconds > 1_700_000_000);
    // The cursor of the heartbeat is valid.
    client.user("alice").await;
    let ended = displace(client, "alice", 2).await;
    assert_eq!(told(&mut client.feed(&feed.cursor).await, 1).await, ended);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_cursor_gets_a_resync(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let mut feed = client.feed("nonsense").await;
    assert!(matches!(feed.next().await, FeedEvent::Resync(_)));
    let ended = displace(client, "alice", 2).await;
    assert_eq!(told(&mut feed, 1).await, ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_reports_the_ends_on_all_and_cursors_are_valid_everywhere() {
    let replicas = Replicas::start().await;
    let [here, there] = &replicas.servers;
    let mut feeds = [here.client.feed("").await, there.client.feed("").await];
    let mut ended = displace(&here.client, "alice", 3).await;
    ended.extend(displace(&there.client, "alice", 3).await);
    for feed in &mut feeds {
        assert_eq!(told(feed, 5).await, ended);
    }
    let cursor = &feeds[0].cursor;
    let later = displace(&here.client, "alice", 2).await;
    assert_eq!(told(&mut there.client.feed(cursor).await, 2).await, later);
}
