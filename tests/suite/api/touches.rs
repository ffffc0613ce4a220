//! Touches: a use is recorded after its answer, once per touch interval, and never lost.

use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::pb;

use super::seconds;
use crate::support::{
    client::is_live,
    server::{Server, Store},
};

const IDLE: Duration = Duration::from_hours(1);
const TOUCH: Duration = Duration::from_mins(1);

/// Returns the seconds from the login to the latest recorded use.
async fn recorded(server: &Server, user_id: &str) -> i64 {
    let sessions = server.client.list_sessions(user_id).await;
    seconds(sessions[0].last_seen_at) - seconds(sessions[0].issued_at)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_is_recorded_soon_and_once_an_interval(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    for (advance, expected) in [(TOUCH / 2, 0), (TOUCH / 2, 60), (TOUCH / 2, 60), (TOUCH, 150)] {
        server.clock.advance(advance);
        client.session(&token).await;
        server.until_recorded().await;
        assert!((recorded(&server, &user_id).await - expected).abs() <= 1, "{expected}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_in_the_last_interval_is_recorded_before_its_answer(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    server.clock.advance(IDLE + TOUCH / 2);
    // The write-behind queue is closed, so the use is recorded before the answer.
    server.app.engine.uses().close();
    client.session(&token).await;
    assert!((recorded(&server, &user_id).await - 3630).abs() <= 1);
    // The session lapses a touch interval after a full idle timeout from that use.
    server.clock.advance(IDLE + TOUCH / 2);
    assert!(is_live(&client.validate(&token).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_uses_are_one_write() {
    let server = Server::start(Store::Redis).await;
    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    server.clock.advance(TOUCH);
    let revision = || {
        let redis = server.redis.as_ref().unwrap();
        let keys: Vec<String> = redis.query(redis::cmd("KEYS").arg(format!("*:s:{user_id}")));
        let value: Vec<u8> = redis.query(redis::cmd("GET").arg(&keys[0]));
        u64::from_be_bytes(value[..8].try_into().unwrap())
    };
    let before = revision();
    let uses = (0..200).map(|_| client.session(&token));
    futures_util::future::join_all(uses).await;
    server.until_recorded().await;
    assert_eq!(revision(), before + 1, "each write is a revision");
    assert!((recorded(&server, &user_id).await - 60).abs() <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_records_confirmed_uses() {
    let server = Server::start(Store::Redis).await;
    let tokens: Vec<_> = {
        let mut tokens = Vec::new();
        for number in 0..100 {
            let name = format!("user{number}");
            let user_id = server.client.user(&name).await;
            tokens.push((user_id, server.client.login(&name, "").await.token));
        }
        tokens
    };
    let other = Server::beside(&server, &[]).await;
    server.clock.advance(2 * TOUCH);
    let uses = tokens.iter().map(|(_, token)| server.client.session(token));
    futures_util::future::join_all(uses).await;
    assert!(server.app.stop().await);
    for (user_id, _) in &tokens {
        assert!(recorded(&other, user_id).await >= 119);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peeks_and_ended_sessions_record_no_use(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    server.clock.advance(TOUCH);
    let peek = pb::ValidateRequest { token: token.clone(), peek: true, ..Default::default() };
    client.auth.clone().validate(peek).await.unwrap();
    server.until_recorded().await;
    assert_eq!(recorded(&server, &user_id).await, 0);
    // Use and end are concurrent, and the session is dead in either order.
    for _ in 0..20 {
        let token = client.login("alice", "").await.token;
        server.clock.advance(TOUCH);
        let (_, ended) = tokio::join!(client.validate(&token), client.logout(&token, pb::LogoutScope::This));
        assert_eq!(ended.ended, 1);
        server.until_recorded().await;
        assert!(!is_live(&client.validate(&token).await), "promise P2");
    }
}

/// Returns the idle deadline of a verdict, in seconds after the login.
async fn promised(server: &Server, token: &str) -> i64 {
    let session = server.client.session(token).await;
    seconds(session.idle_expires_at) - seconds(session.issued_at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_an_outage_verdicts_promise_only_recorded_uses() {
    let server = Server::start(Store::Redis).await;
    let redis = server.redis.as_ref().unwrap();
    let memory = |limit: &str| {
        let () = redis.query(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(limit));
    };
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    memory("1");
    // This answer precedes the failed recording.
    server.clock.advance(TOUCH * 3 / 2);
    assert!((promised(&server, &token).await - 3690).abs() <= 1);
    // Later answers promise no more than what is recorded.
    let begun = std::time::Instant::now();
    while promised(&server, &token).await > 3601 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the answers go on promising");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // In the last interval and beyond it there is an error and no verdict.
    for advance in [IDLE.saturating_sub(TOUCH), TOUCH * 3 / 4] {
        server.clock.advance(advance);
        let status = server.client.try_validate(&token).await.unwrap_err();
        assert_eq!(super::parts(&status).1, "STORE_UNAVAILABLE");
        let peek = pb::ValidateRequest { token: token.clone(), peek: true, ..Default::default() };
        let peeked = server.client.auth.clone().validate(peek).await;
        let told = peeked.map(|answer| is_live(&answer.into_inner().verdict.unwrap()));
        assert_ne!(told.ok(), Some(false), "it is not told to have timed out");
    }
    // The promise of the first answer is kept.
    memory("0");
    assert!(is_live(&server.client.validate(&token).await));
    server.until_recorded().await;
    server.clock.advance(IDLE + TOUCH + Duration::from_secs(1));
    let rejection = server.client.rejection(&token).await;
    assert_eq!(rejection.reason(), pb::RejectionReason::IdleTimeout);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reported_timeout_stays_when_the_clock_steps_back(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    for tell in 0..3 {
        let token = client.login("alice", "").await.token;
        let watch = client.watch(&token).await;
        server.clock.advance(IDLE + TOUCH + Duration::from_secs(1));
        match tell {
            0 => assert_eq!(client.rejection(&token).await.reason(), pb::RejectionReason::IdleTimeout),
            1 => assert_eq!(watch.end().await.reason(), pb::RejectionReason::IdleTimeout),
            _ => {
                let told = client.logout(&token, pb::LogoutScope::This).await;
                assert_eq!(told.rejection.unwrap().reason(), pb::RejectionReason::IdleTimeout);
            }
        }
        server.clock.set_back(IDLE);
        assert_eq!(client.rejection(&token).await.reason(), pb::RejectionReason::IdleTimeout, "{tell}");
        assert!(client.list_sessions(&user_id).await.is_empty());
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_a_fast_clock_that_was_displaced_is_replaced(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    server.clock.advance(IDLE * 24);
    let fast = client.login("alice", "fast").await.token;
    server.clock.set_back(IDLE * 24);
    assert_eq!(client.rejection(&fast).await.reason(), pb::RejectionReason::NotYetValid);
    let token = client.login("alice", "right").await.token;
    let rejection = client.rejection(&fast).await;
    assert_eq!(rejection.reason(), pb::RejectionReason::Replaced);
    assert_eq!(rejection.by_device, "right");
    assert!(is_live(&client.validate(&token).await));
}
