//! Envoy with `deploy/envoy/envoy.yaml`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, auth_service_client::AuthServiceClient};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{SPOOFED, bearer, get_with_token, identity, passes_identity, programs::envoy};
use crate::support::{
    address::unused_address,
    collector::Collector,
    http::Echo,
    process::Process,
    proxy::{Proxy, ProxyMode},
    server::{Server, Store},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_live_session_passes_with_its_identity() {
    let (server, echo) = (Server::start(Store::Embedded).await, Echo::start().await);
    let Some(envoy) = envoy(server.app.grpc, echo.address, &[]).await else { return };
    let client = &server.client;
    let token = &*passes_identity(client, envoy.address, &["/", "/home/"]).await;
    for path in ["/", "/admin/", "/poll/", "/public/../", "/public/%2e%2e/", "//admin/"] {
        let answer = get_with_token(envoy.address, path, None, &SPOOFED).await;
        assert!([401, 307].contains(&answer.status), "{path}: {answer:?}");
    }

    // The newer login wins, and the older one gets the reason.
    let newer = client.login("Jürgen", "iPhone").await.token;
    assert_eq!(get_with_token(envoy.address, "/", Some(&newer), &[]).await.status, 200);
    for path in ["/", "/home/", "/admin/", "/poll/"] {
        let answer = get_with_token(envoy.address, path, Some(token), &[]).await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.contains("error=\"invalid_token\", error_description=\"REPLACED\""), "{challenge}");
        assert_eq!(answer.header("x-latchkey-reason"), Some("REPLACED"));
        let body = answer.json();
        assert_eq!((body["reason"].as_str(), body["by_device"].as_str()), (Some("REPLACED"), Some("iPhone")));
        assert_eq!(body["terminal"], true);
    }
    // Two tokens are denied.
    let second = bearer(&newer);
    let twice =
        get_with_token(envoy.address, "/", Some(&newer), &[("Authorization", second.as_bytes())]).await;
    assert_eq!((twice.status, twice.json()["reason"].as_str()), (401, Some("MALFORMED")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latchkey_removes_forged_headers_that_envoy_forwards() {
    let (server, echo) = (Server::start(Store::Embedded).await, Echo::start().await);
    let careless = [
        ("headers_with_underscores_action: DROP_HEADER", "headers_with_underscores_action: ALLOW"),
        ("- remove: x-latchkey-", "- remove: x-others-"),
        // Envoy forwards the headers of the client to Latchkey.
        ("exact: content-type", "prefix: x"),
    ];
    let Some(envoy) = envoy(server.app.grpc, echo.address, &careless).await else { return };
    // The user has no roles, so no header replaces the forged one.
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    let expected = identity(&get_with_token(envoy.address, "/", Some(&token), &[]).await);
    assert_eq!(expected.len(), 4, "{expected:?}");
    assert_eq!(identity(&get_with_token(envoy.address, "/", Some(&token), &SPOOFED).await), expected);
    assert!(identity(&get_with_token(envoy.address, "/home/", None, &SPOOFED).await).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_headers_and_a_configured_cookie_are_accepted() {
    let server = Server::with(Store::Embedded, &[("GATEWAY__COOKIE", "token")]).await;
    let echo = Echo::start().await;
    let raw = [("clear_route_cache: false", "encode_raw_headers: true")];
    let Some(envoy) = envoy(server.app.grpc, echo.address, &raw).await else { return };
    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    assert_eq!(get_with_token(envoy.address, "/", Some(&token), &[]).await.status, 200);
    let cookie = format!("theme=dark; token={token}");
    assert_eq!(get_with_token(envoy.address, "/", None, &[("cookie", cookie.as_bytes())]).await.status, 200);
    let authorization = bearer(&token);
    let bad: [&[(&str, &[u8])]; 3] = [
        &[("authorization", authorization.as_bytes()), ("authorization", b"Bearer x")],
        &[("authorization", b"Bearer \xff\xfe")],
        &[("cookie", cookie.as_bytes()), ("authorization", b"Basic YTpi")],
    ];
    for headers in bad {
        let answer = get_with_token(envoy.address, "/", None, headers).await;
        assert_eq!(
            (answer.status, answer.json()["reason"].as_str()),
            (401, Some("MALFORMED")),
            "{headers:?}"
        );
    }
}

/// Makes a gRPC call through the gateway and returns its error.
async fn call(gateway: SocketAddr, token: Option<&str>) -> Status {
    try_call(gateway, token).await.unwrap_err()
}

/// Makes a gRPC call through the gateway to Latchkey as the service behind it.
async fn try_call(gateway: SocketAddr, token: Option<&str>) -> Result<String, Status> {
    let mut client = AuthServiceClient::connect(format!("http://{gateway}")).await.unwrap();
    let mut request = tonic::Request::new(pb::GetJwksRequest {});
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", bearer(token).parse().unwrap());
    }
    client.get_jwks(request).await.map(|answer| answer.into_inner().jwks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_gets_the_reason_in_the_status() {
    let server = Server::start(Store::Embedded).await;
    let Some(envoy) = envoy(server.app.grpc, server.app.grpc, &[]).await else { return };
    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    assert!(try_call(envoy.address, Some(&token)).await.unwrap().contains("Ed25519"), "this one passes");
    client.login("alice", "Jürgens iPhone").await;
    for (token, code, reason) in [
        (Some(&*token), Code::Unauthenticated, "REPLACED"),
        (Some("nonsense"), Code::Unauthenticated, "MALFORMED"),
        (None, Code::Unauthenticated, "TOKEN_REQUIRED"),
    ] {
        let status = call(envoy.address, token).await;
        assert_eq!(status.code(), code, "{status:?}");
        let info = status.get_details_error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("latchkey", reason));
    }
    let status = call(envoy.address, Some(&token)).await;
    assert_eq!(status.message(), "You were logged out because of a newer login on Jürgens iPhone.");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["by_device"], "Jürgens iPhone");

    let disabled = client.login("alice", "").await.token;
    client.update(pb::UpdateAccountRequest { user_id, disabled: Some(true), ..Default::default() }).await;
    let status = call(envoy.address, Some(&disabled)).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.get_details_error_info().unwrap().reason, "ACCOUNT_DISABLED");
}

/// Checks Envoy while Latchkey cannot answer: it denies, or with `failure_mode_allow` passes without an identity.
async fn behaves_during_outage(latchkey: SocketAddr, token: &str, break_it: impl AsyncFnOnce()) {
    let echo = Echo::start().await;
    let open = [("failure_mode_allow: false", "failure_mode_allow: true")];
    let Some(closed) = envoy(latchkey, echo.address, &[]).await else { return };
    let Some(open) = envoy(latchkey, echo.address, &open).await else { return };
    break_it().await;
    for path in ["/", "/home/", "/admin/"] {
        let begun = Instant::now();
        let answer = get_with_token(closed.address, path, Some(token), &SPOOFED).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), None, "it is not the token's fault");
        assert!(begun.elapsed() < Duration::from_secs(4), "took {:?}", begun.elapsed());
        // With `failure_mode_allow` every request passes without an identity.
        let answer = get_with_token(open.address, path, Some(token), &SPOOFED).await;
        assert!(identity(&answer).is_empty(), "{path}: {answer:?}");
    }
    assert_eq!(
        get_with_token(closed.address, "/public/", None, &[]).await.status,
        200,
        "this needs no answer"
    );
    let status = call(closed.address, Some(token)).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_denied_while_latchkey_is_down_unless_configured_otherwise() {
    behaves_during_outage(unused_address(), "nonsense", async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_denied_while_latchkey_hangs_unless_configured_otherwise() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    let proxy = Proxy::to(server.app.grpc.port()).await;
    behaves_during_outage(proxy.address, &token, async || proxy.set(ProxyMode::Stall)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_denied_while_the_store_is_down_unless_configured_otherwise() {
    let mut server = Server::start(Store::Redis).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    let grpc = server.app.grpc;
    behaves_during_outage(grpc, &token, async || server.redis.as_mut().unwrap().kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_with_an_unknown_key_denies_every_request() {
    let (server, echo) = (Server::start(Store::Embedded).await, Echo::start().await);
    let misspelt = [("required_role: admin", "require_role: admin")];
    let Some(envoy) = envoy(server.app.grpc, echo.address, &misspelt).await else { return };
    server.client.user_with_roles("alice", &["admin"]).await;
    let token = server.client.login("alice", "").await.token;
    assert_eq!(get_with_token(envoy.address, "/admin/", Some(&token), &[]).await.status, 503);
    assert_eq!(get_with_token(envoy.address, "/", Some(&token), &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trace_of_a_request_reaches_the_span_of_its_check() {
    let (collector, echo) = (Collector::start().await, Echo::start().await);
    let data = tempfile::tempdir().unwrap();
    let settings = [("OTLP__ENDPOINT", &*collector.url()), ("OTLP__SAMPLE_RATIO", "0")];
    let process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    let Some(envoy) = envoy(process.grpc, echo.address, &[]).await else { return };
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let traceparent = format!("00-{trace_id}-b7ad6b7169203331-01");
    let headers = [("traceparent", traceparent.as_bytes()), ("tracestate", b"vendor=1")];
    assert_eq!(get_with_token(envoy.address, "/", Some(&token), &headers).await.status, 200);
    let span = collector.named(trace_id, "envoy.service.auth.v3.Authorization/Check").await;
    assert_eq!((&*span.parent_id, &*span.state), ("b7ad6b7169203331", "vendor=1"));
}
