//! A store that has lost acknowledged commits, as replicated Redis can in a failover.

use latchkey::{
    domain::types::UserId,
    grpc::pb::{LogoutScope, RejectionReason},
};
use tonic::Code;

use super::parts;
use crate::support::{
    redis::RedisServer,
    server::{Server, Store},
};

/// Takes a snapshot of all sessions in Redis.
fn snapshot(redis: &RedisServer) -> Vec<(String, Vec<u8>)> {
    let keys: Vec<String> = redis.query(redis::cmd("KEYS").arg("*:s:*"));
    keys.into_iter().map(|key| (key.clone(), redis.query(redis::cmd("DUMP").arg(&key)))).collect()
}

/// Restores the sessions of a snapshot.
fn roll_back(redis: &RedisServer, snapshot: &[(String, Vec<u8>)]) {
    for (key, value) in snapshot {
        let command = redis::cmd("RESTORE").arg(key).arg(0).arg(value).arg("REPLACE").to_owned();
        redis.query::<String>(&command);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_a_lost_login_brings_back_are_ended() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    let user_id = client.user("alice").await;
    let displaced = client.login("alice", "old").await.token;
    let before = snapshot(redis);
    let mut feed = client.feed("").await;
    let lost = client.login("alice", "new").await.token;
    assert_eq!(client.rejection(&displaced).await.reason(), RejectionReason::Replaced);
    // The event was read before the rollback, which affects only the registers.
    feed.ended().await;

    roll_back(redis, &before);
    client.session(&displaced).await;
    let watch = client.watch(&displaced).await;
    // Counter-check: without a newer token the rollback cannot be detected.
    assert_eq!(server.app.engine.metrics().rollbacks.get(), 0);

    assert_eq!(client.rejection(&lost).await.reason(), RejectionReason::UnknownSession);
    assert_eq!(client.rejection(&displaced).await.reason(), RejectionReason::UnknownSession);
    assert_eq!(watch.end().await.reason(), RejectionReason::UnknownSession);
    assert_eq!(feed.ended().await.user_id, user_id);
    for _ in 0..3 {
        let rejection = client.rejection(&lost).await;
        assert_eq!((rejection.reason(), rejection.terminal), (RejectionReason::UnknownSession, false));
    }
    assert_eq!(server.app.engine.metrics().rollbacks.get(), 1, "it is told once");

    let next = client.login("alice", "next").await.token;
    client.session(&next).await;
    assert_eq!(client.rejection(&lost).await.reason(), RejectionReason::UnknownSession);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_with_the_token_of_a_lost_login_detects_the_rollback() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    for (number, name) in ["alice", "bob"].into_iter().enumerate() {
        client.user(name).await;
        let displaced = client.login(name, "old").await.token;
        let before = snapshot(redis);
        let lost = client.login(name, "new").await.token;
        roll_back(redis, &before);
        if number == 0 {
            let answer = client.logout(&lost, LogoutScope::All).await;
            assert_eq!(answer.rejection.unwrap().reason(), RejectionReason::UnknownSession);
        } else {
            let status = client.try_watch(&lost).await.err().unwrap();
            assert_eq!(parts(&status), (Code::Unauthenticated, "UNKNOWN_SESSION".into(), vec![]));
        }
        assert_eq!(client.rejection(&displaced).await.reason(), RejectionReason::UnknownSession);
    }
    assert_eq!(server.app.engine.metrics().rollbacks.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_store_knows_no_session_and_goes_on() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    redis.query::<String>(&redis::cmd("FLUSHALL"));
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::UnknownSession);
    client.session(&client.login("alice", "").await.token).await;
    // A restored backup revives no session of the lost time.
    let read = server.app.engine.sessions().load(&UserId::parse(&user_id).unwrap()).await.unwrap();
    assert!(read.state.fence.is_some());
}
