//! JSON over HTTP on the gRPC port.

use serde_json::json;

use super::json::{JSON, error, login, send};
use super::json_pages::Events;
use crate::support::{
    http::{exchange, exchange_http2},
    server::{Server, Store},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grpc_port_serves_json_if_it_is_switched_on() {
    let server = Server::with(Store::Embedded, &[("LISTEN__GRPC_JSON", "true")]).await;
    server.client.user("alice").await;
    let grpc = server.app.grpc;
    let answer = send(grpc, "POST /v1/login", &login("over HTTP/1.1"), &[]).await;
    assert_eq!(answer.json()["session"]["device"], "over HTTP/1.1", "{answer:?}");
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    let mut stream = Events::open(grpc, &[("authorization", &bearer)]).await;
    stream.until("event: session").await;
    let body = login("over HTTP/2").to_string();
    for line in ["POST /v1/login", "POST /latchkey.v1.AuthService/Login"] {
        let (status, headers) = exchange_http2(grpc, line, &[JSON], body.as_bytes()).await;
        assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"application/json".parse().unwrap()));
    }
    stream.until("over HTTP/2").await;
    // gRPC itself needs HTTP/2, and works beside it.
    let native = [("content-type", &b"application/grpc"[..])];
    let answer = exchange(grpc, "POST /latchkey.v1.AuthService/GetJwks", &native, &[0; 5]).await.unwrap();
    assert_eq!(error(&answer).0, 415);
    assert_eq!(server.client.login("alice", "gRPC").await.session.unwrap().device, "gRPC");
    assert_eq!(send(grpc, "GET /metrics", &json!({}), &[]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grpc_port_serves_no_json_by_default() {
    let server = Server::start(Store::Embedded).await;
    let answer = exchange(server.app.grpc, "POST /v1/login", &[JSON], b"{}").await.unwrap();
    assert!(answer.status == 400 && answer.body.contains("listen.grpc_json"), "{answer:?}");
    let (status, _) = exchange_http2(server.app.grpc, "POST /v1/login", &[JSON], b"{}").await;
    assert_eq!(status, 415);
}
