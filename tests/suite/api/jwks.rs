//! The public keys over gRPC and HTTP.

use crate::support::server::{Server, Store};
use latchkey::grpc::pb;
use rstest::rstest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::part;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_keys_are_the_same_on_both_ports_and_verify(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let answer = client.auth.clone().get_jwks(pb::GetJwksRequest {}).await.unwrap().into_inner();
    let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&answer.jwks).unwrap();

    let kid = part(&token, 0)["kid"].as_str().unwrap().to_owned();
    let key = jsonwebtoken::DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_audience(&["latchkey"]);
    jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).unwrap();

    let (status, body) = get(server.app.http, "/.well-known/jwks.json").await;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<jsonwebtoken::jwk::JwkSet>(&body).unwrap(), jwks);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_port_answers_probes(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    assert_eq!(get(server.app.http, "/livez").await, (200, "ok\n".into()));
    assert_eq!(get(server.app.http, "/readyz").await, (200, "ok\n".into()));
    assert_eq!(get(server.app.http, "/").await.0, 404);
}

/// Sends a GET request and returns the status and the body.
async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}
