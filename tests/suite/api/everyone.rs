//! The end of all sessions of all users by a new epoch.

use crate::support::server::{Server, Store};
use latchkey::grpc::pb::{self, RejectionReason, watch_sessions_response::Event as FeedEvent};
use rstest::rstest;

use super::watch_session::Replicas;

fn everyone(message: &str) -> pb::EndSessionsRequest {
    pb::EndSessionsRequest { everyone: true, message: message.into(), ..Default::default() }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_sessions_end_and_all_users_can_log_in_again(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    client.user("bob").await;
    let (alice, bob) = (client.login("alice", "").await.token, client.login("bob", "").await.token);
    let watch = client.watch(&alice).await;
    let mut feed = client.feed("").await;

    assert_eq!(client.end_sessions(everyone("A key has leaked")).await, 0);
    let rejection = client.rejection(&alice).await;
    assert_eq!(
        (rejection.reason(), rejection.message.as_str()),
        (RejectionReason::Kicked, "A key has leaked")
    );
    assert_eq!(watch.end().await, rejection);
    assert_eq!(client.list_sessions(&user_id).await, []);
    let FeedEvent::Everyone(told) = feed.next().await else { panic!("not told") };
    assert_eq!(told.rejection, Some(rejection));

    let again = client.login("alice", "again").await;
    assert_eq!(again.displaced, [], "nobody was there any more");
    client.session(&again.token).await;
    assert_eq!(
        client.logout(&bob, pb::LogoutScope::This).await.rejection.unwrap().reason(),
        RejectionReason::Kicked
    );

    // A second epoch ends the sessions of the first.
    client.end_sessions(everyone("")).await;
    let rejection = client.rejection(&again.token).await;
    assert_eq!(rejection.message, "The session was ended by an operator.");
    client.session(&client.login("alice", "").await.token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_answer_no_replica_accepts_an_old_session() {
    let replicas = Replicas::start().await;
    let [here, there] = &replicas.servers;
    for _ in 0..3 {
        // The other replica has the oldest possible reading of the epoch.
        let token = there.client.login("alice", "").await.token;
        let watch = there.client.watch(&token).await;
        here.client.end_sessions(everyone("")).await;
        assert_eq!(there.client.rejection(&token).await.reason(), RejectionReason::Kicked);
        assert_eq!(watch.end().await.reason(), RejectionReason::Kicked);
        // The next round has a clock that is a minute ahead.
        there.clock.advance(std::time::Duration::from_mins(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_epoch_survives_a_restart() {
    use crate::support::{client::PASSWORD, process::Process};
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let client = process.client().await;
    client.until_serving().await;
    client.user("alice").await;
    let token = client.login("alice", PASSWORD).await.token;
    client.end_sessions(everyone("")).await;
    drop(process);
    let process = Process::start(data.path(), &[]);
    let client = process.client().await;
    client.until_serving().await;
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::Kicked);
}
