//! Requests share a stream and questions, and never an answer that is older than they are.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tonic::Code;

use super::{Guarded, PATIENCE, guard, relay::Relay, told};
use crate::support::{
    proxy::{Proxy, ProxyMode},
    server::{Server, Store},
};

/// A server whose Latchkey can be held up, and what Latchkey is asked.
async fn stand(server: &Server) -> (Guarded, Proxy, Relay) {
    let relay = Relay::to(server.app.grpc).await;
    let proxy = Proxy::to(relay.address.port()).await;
    let guarded = Guarded::start(guard(proxy.address, &server.client)).await;
    (guarded, proxy, relay)
}

async fn until_asked(relay: &Relay, count: usize) {
    let begun = Instant::now();
    while relay.asked() < count {
        assert!(begun.elapsed() < PATIENCE, "asked {} times and not {count}", relay.asked());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_come_together_with_one_token_share_a_question() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let (guarded, proxy, relay) = stand(&server).await;
    guarded.greet(&token).await.unwrap();
    assert_eq!(relay.asked(), 1);

    proxy.set(ProxyMode::HoldResponses);
    let first = guarded.greet(&token);
    let others = async {
        until_asked(&relay, 2).await;
        let others = join_all((0..50).map(|_| guarded.greet(&token)));
        let release = async {
            // So that they have all come.
            tokio::time::sleep(Duration::from_millis(200)).await;
            proxy.set(ProxyMode::Forward);
        };
        tokio::join!(others, release).0
    };
    let (first, others) = tokio::join!(first, others);
    first.unwrap();
    for other in others {
        assert_eq!(other.unwrap().identity.unwrap().username, "anna");
    }
    assert_eq!(relay.asked(), 3, "one for the first, and one for all the others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_after_a_displacement_is_not_let_in_by_an_answer_from_before() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let (guarded, proxy, relay) = stand(&server).await;
    guarded.greet(&token).await.unwrap();

    proxy.set(ProxyMode::HoldResponses);
    let before = guarded.greet(&token);
    let after = async {
        until_asked(&relay, 2).await;
        // It was asked; wait until it was judged, too, which nobody tells.
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.client.login("anna", "tablet").await;
        let after = guarded.greet(&token);
        let release = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            proxy.set(ProxyMode::Forward);
        };
        tokio::join!(after, release).0
    };
    let (before, after) = tokio::join!(before, after);
    assert_eq!(before.unwrap().identity.unwrap().device, "phone", "it came before");
    assert_eq!(told(&after.unwrap_err()), (Code::Unauthenticated, "REPLACED".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answers_of_many_tokens_over_one_stream_are_not_mixed_up() {
    let server = Server::start(Store::Embedded).await;
    let (guarded, _proxy, _relay) = stand(&server).await;
    let mut tokens = Vec::new();
    for number in 0..20 {
        let name = format!("user{number}");
        server.client.user(&name).await;
        tokens.push((server.client.login(&name, "phone").await.token, name));
    }
    let calls = (0..500).map(|number| {
        let (guarded, (token, name)) = (&guarded, &tokens[number * 7 % 20]);
        async move { assert_eq!(guarded.username(token).await, *name) }
    });
    join_all(calls).await;
    // What is far too long for a token does not break the stream for the others.
    let long = "x".repeat(14_000);
    let (long, _) = tokio::join!(guarded.greet(&long), guarded.username(&tokens[0].0));
    assert_eq!(told(&long.unwrap_err()), (Code::Unauthenticated, "MALFORMED".into()));
}
