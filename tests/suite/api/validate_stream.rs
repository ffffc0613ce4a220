//! `ValidateStream`: many verdicts over one stream.

use rstest::rstest;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use latchkey::grpc::pb::{self, RejectionReason, validate_response::Verdict};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::parts;
use crate::support::{
    client::Client,
    server::{Server, Store},
};

fn of(token: &str) -> pb::ValidateRequest {
    pb::ValidateRequest { token: token.into(), ..Default::default() }
}

/// Sends all requests at once and returns the answers.
async fn ask(client: &Client, requests: Vec<pb::ValidateRequest>) -> Vec<pb::ValidateResponse> {
    let answers = client.auth.clone().validate_stream(stream::iter(requests)).await.unwrap().into_inner();
    answers.map(Result::unwrap).collect().await
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_the_order_of_the_requests_and_are_those_of_validate(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let mut tokens = Vec::new();
    for number in 0..20 {
        client.user(&format!("user{number}")).await;
        tokens.push(client.login(&format!("user{number}"), &number.to_string()).await.token);
    }
    let requests: Vec<_> = (0..2000).map(|number| of(&tokens[number * 7 % 20])).collect();
    let answers = ask(client, requests).await;
    assert_eq!(answers.len(), 2000);
    for (number, answer) in answers.iter().enumerate() {
        let Some(Verdict::Session(session)) = &answer.verdict else { panic!("{answer:?}") };
        assert_eq!(session.device, (number * 7 % 20).to_string());
    }
    let Some(Verdict::Session(session)) = &answers[0].verdict else { panic!("rejected") };
    assert_eq!(session.session_id, client.session(&tokens[0]).await.session_id);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_is_answered_and_does_not_end_the_stream(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let old = client.login("alice", "").await.token;
    let token = client.login("alice", "").await.token;
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let requests = vec![
        of("rubbish"),
        of(""),
        of(&old),
        pb::ValidateRequest { max_staleness: negative, ..of(&token) },
        of(&token),
    ];
    let answers = ask(client, requests).await;
    let reason = |answer: &pb::ValidateResponse| match &answer.verdict {
        Some(Verdict::Rejection(rejection)) => rejection.reason(),
        other => panic!("not rejected: {other:?}"),
    };
    assert_eq!(reason(&answers[0]), RejectionReason::Malformed);
    assert_eq!(reason(&answers[2]), RejectionReason::Replaced);
    for answer in [&answers[1], &answers[3]] {
        let (None, Some(failure)) = (&answer.verdict, &answer.failure) else { panic!("{answer:?}") };
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            (Code::InvalidArgument.into(), "INVALID_REQUEST")
        );
    }
    assert!(matches!(answers[4].verdict, Some(Verdict::Session(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_a_failure_of_each_request_and_the_stream_goes_on_after_it() {
    let mut server = Server::start(Store::Redis).await;
    let client = server.client.clone();
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let (send, requests) = mpsc::channel(8);
    let answers = client.auth.clone().validate_stream(ReceiverStream::new(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    let mut ask = async || {
        send.send(of(&token)).await.unwrap();
        answers.message().await.unwrap().unwrap()
    };
    assert!(matches!(ask().await.verdict, Some(Verdict::Session(_))));
    server.redis.as_mut().unwrap().kill();
    let pb::ValidateResponse { verdict: None, failure: Some(failure) } = ask().await else {
        panic!("a verdict in an outage")
    };
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Unavailable.into(), "STORE_UNAVAILABLE"));
    assert!(failure.retry_after.is_some());
    server.redis.as_mut().unwrap().restart();
    loop {
        match ask().await.verdict {
            None => tokio::time::sleep(Duration::from_millis(10)).await,
            // The server has made its commits again in the empty Redis.
            Some(Verdict::Session(_)) => break,
            Some(Verdict::Rejection(rejection)) => panic!("a rejection after an outage: {rejection:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_answers_is_not_read_from() {
    let server = Server::start(Store::Embedded).await;
    let (send, requests) = mpsc::channel(1);
    let answers = server.client.auth.clone().validate_stream(ReceiverStream::new(requests)).await.unwrap();
    let answers: Streaming<pb::ValidateResponse> = answers.into_inner();
    // The HTTP/2 windows and the requests in flight hold far less than this.
    let large = "x".repeat(4000);
    let mut count = 0;
    while tokio::time::timeout(Duration::from_millis(500), send.send(of(&large))).await.is_ok() {
        count += 1;
        assert!(count < 100_000, "nothing holds the sender back");
    }
    drop(answers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_validate_needs_a_role_the_stream_does_too() {
    let server = Server::with(Store::Embedded, &[("ACCESS__VALIDATE", "caller")]).await;
    let refused = server.client.auth.clone().validate_stream(stream::iter([of("x")])).await.unwrap_err();
    assert_eq!(parts(&refused).1, "CALLER_UNAUTHENTICATED");
    let allowed = server.client.admin(stream::iter([of("x")]));
    server.client.auth.clone().validate_stream(allowed).await.unwrap();
}
