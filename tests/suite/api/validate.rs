//! Validate: every reason, promise P4 (two timeouts) and promise P5 (a rejection is data).

use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::pb::{self, RejectionReason, validate_response::Verdict};
use prost_types::Duration as ProtoDuration;
use tonic::{Code, Request};

use super::{assert_invalid, parts, seconds};
use crate::support::{
    client::is_live,
    server::{Server, Store},
};

const IDLE: Duration = Duration::from_hours(1);
const TOUCH: Duration = Duration::from_mins(1);
const MICROSECOND: Duration = Duration::from_micros(1);

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_token_is_a_verdict_and_no_error(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let (message, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{message}.{}", data_encoding::BASE64URL_NOPAD.encode(&[7; 64]));
    for (token, reason) in [
        ("nonsense".to_owned(), RejectionReason::Malformed),
        ("a.b.c".to_owned(), RejectionReason::Malformed),
        ("x".repeat(60_000), RejectionReason::Malformed),
        (format!("{token}x"), RejectionReason::Malformed),
        (forged, RejectionReason::BadSignature),
    ] {
        let rejection = client.rejection(&token).await;
        assert_eq!(rejection.reason(), reason);
        assert!(!rejection.terminal && rejection.at.is_none() && !rejection.message.is_empty());
    }
    assert!(is_live(&client.validate(&token).await));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_missing_is_an_error(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let status = server.client.try_validate("").await.unwrap_err();
    assert_invalid(&status, "token");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_field_takes_the_token_from_the_metadata(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let validate = async |values: &[&str], field: &str| {
        let mut request = Request::new(pb::ValidateRequest { token: field.into(), ..Default::default() });
        for value in values {
            request.metadata_mut().append("authorization", value.parse().unwrap());
        }
        client.auth.clone().validate(request).await.map(|answer| answer.into_inner().verdict.unwrap())
    };
    let bearer = format!("Bearer {token}");
    assert!(is_live(&validate(&[&bearer], "").await.unwrap()));
    assert!(is_live(&validate(&[&format!("bearer {token}")], "").await.unwrap()));
    assert!(!is_live(&validate(&[&bearer], "nonsense").await.unwrap()), "the field comes first");
    assert_invalid(&validate(&[&bearer, &bearer], "").await.unwrap_err(), "token");
    assert_invalid(&validate(&["Basic YTpi"], "").await.unwrap_err(), "token");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_session_times_out_never_early_and_at_most_one_interval_late(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    server.clock.advance(IDLE);
    let session = client.session(&token).await;
    // That use starts a full idle timeout again, plus a touch interval.
    server.clock.advance(IDLE);
    assert!(peek(&server, &token).await, "still live after {:?}", session.idle_expires_at);
    server.clock.advance(TOUCH);
    let rejection = client.rejection(&token).await;
    assert_eq!(rejection.reason(), RejectionReason::IdleTimeout);
    assert!(!rejection.terminal, "a client may log in again by itself");
    let at = seconds(rejection.at);
    assert!((at - seconds(session.idle_expires_at) - 60).abs() <= 1, "{at} {:?}", session.idle_expires_at);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peek_does_not_slide(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    for _ in 0..4 {
        server.clock.advance(IDLE / 4);
        assert!(peek(&server, &token).await);
    }
    server.clock.advance(TOUCH);
    assert!(!peek(&server, &token).await);
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::IdleTimeout);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_names_the_deadlines(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let login = client.login("alice", "").await;
    let issued = login.session.unwrap();
    server.clock.advance(IDLE / 2);
    let session = client.session(&login.token).await;
    assert_eq!((session.issued_at, session.expires_at), (issued.issued_at, issued.expires_at));
    let slid = seconds(session.idle_expires_at) - seconds(issued.idle_expires_at);
    assert!((1800..=1801).contains(&slid), "{slid}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_extends_the_absolute_deadline(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let login = client.login("alice", "").await;
    let end = login.session.unwrap().expires_at;
    for _ in 0..47 {
        server.clock.advance(IDLE / 2);
        assert!(is_live(&client.validate(&login.token).await));
    }
    let session = client.session(&login.token).await;
    assert_eq!(session.idle_expires_at, end, "the idle deadline never lies beyond the absolute one");
    server.clock.advance(IDLE / 2 + Duration::from_secs(1));
    let rejection = client.rejection(&login.token).await;
    assert_eq!((rejection.reason(), rejection.at), (RejectionReason::Expired, end));
    assert!(!rejection.terminal);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_from_a_clock_ahead_of_ours_is_not_yet_valid(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    server.clock.set_back(Duration::from_secs(4));
    assert!(is_live(&client.validate(&token).await), "within the leeway");
    server.clock.set_back(Duration::from_secs(3));
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::NotYetValid);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_current_and_not_those_in_the_token(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user_with_roles("alice", &["admin", "staff"]).await;
    let token = client.login("alice", "").await.token;
    let answer = client
        .update(pb::UpdateAccountRequest { user_id, roles: vec!["staff".into()], ..Default::default() })
        .await;
    assert_eq!(answer.ended, 0);
    assert_eq!(client.session(&token).await.roles, ["staff"]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_valid_bound_on_staleness_is_kept(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let first = client.login("alice", "").await.token;
    client.login("alice", "").await;
    for (seconds, good) in [(0, true), (3600, true), (-1, false)] {
        let max_staleness = Some(ProtoDuration { seconds, nanos: 0 });
        let message = pb::ValidateRequest { token: first.clone(), peek: false, max_staleness };
        match client.auth.clone().validate(message).await {
            Ok(answer) => assert!(good && !is_live(&answer.into_inner().verdict.unwrap())),
            Err(status) => {
                assert!(!good);
                assert_invalid(&status, "max_staleness");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_store_has_forgotten_is_unknown() {
    let server = Server::start(Store::Redis).await;
    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let () = server.redis.as_ref().unwrap().query(&redis::cmd("FLUSHALL"));
    let rejection = client.rejection(&token).await;
    assert_eq!(rejection.reason(), RejectionReason::UnknownSession);
    assert!(!rejection.terminal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_a_verdict_is_one_get_and_a_login_three_scripts() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    client.user("alice").await;
    // The first call loads the script into Redis.
    client.login("alice", "").await;
    server.until_settled("alice").await;
    // Background tasks send commands too, so only commands for this user count.
    let mut monitor = redis.monitor();
    let mut commands = || {
        let theirs = |command: &str| command.contains(":s:");
        monitor.commands().iter().filter(|c| theirs(c)).map(|c| name_of(c)).collect::<Vec<_>>()
    };
    let token = client.login("alice", "").await.token;
    // The attempt is written before and after the password check, and the session once.
    server.until_settled("alice").await;
    let written = commands().into_iter().filter(|command| command == "evalsha").count();
    assert_eq!(written, 3);

    for _ in 0..10 {
        client.session(&token).await;
    }
    assert_eq!(commands(), ["get"; 10]);
}

/// `1700000000.000000 [0 127.0.0.1:1] "GET" "lk:{1}:s:alice"`
fn name_of(command: &str) -> String {
    command.split('"').nth(1).unwrap_or_default().to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_an_error_and_never_a_verdict() {
    let mut server = Server::start(Store::Redis).await;
    let client = server.client.clone();
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    server.redis.as_mut().unwrap().kill();
    let status = client.try_validate(&token).await.unwrap_err();
    assert_eq!(parts(&status), (Code::Unavailable, "STORE_UNAVAILABLE".into(), vec![]));
    let retry = tonic_types::StatusExt::get_details_retry_info(&status).unwrap().retry_delay.unwrap();
    assert!(retry > Duration::ZERO && retry <= Duration::from_mins(1));
    // A forged token needs no store and is still rejected.
    assert_eq!(client.rejection("a.b.c").await.reason(), RejectionReason::Malformed);
}

async fn peek(server: &Server, token: &str) -> bool {
    let message = pb::ValidateRequest { token: token.into(), peek: true, max_staleness: None };
    let verdict = server.client.auth.clone().validate(message).await.unwrap().into_inner().verdict;
    server.clock.advance(MICROSECOND);
    matches!(verdict, Some(Verdict::Session(_)))
}
