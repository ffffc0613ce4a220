//! Traces: the spans of requests reach a receiver that speaks OTLP, in the traces of callers.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use latchkey::grpc::{envoy::service::auth::v3::authorization_client::AuthorizationClient, pb};
use serde_json::Value;
use tonic::{Request, transport::Channel};

use super::serve;
use crate::{
    gateways::check_request,
    support::{
        address::{server_port, unused_address},
        client::{Client, PASSWORD, login_request},
        collector::Collector,
        http,
        process::{Process, command},
        redis::RedisServer,
    },
};

const LOGIN: &str = "latchkey.v1.AuthService/Login";
const VALIDATE: &str = "latchkey.v1.AuthService/Validate";
const CHECK: &str = "envoy.service.auth.v3.Authorization/Check";
const SPAN_ID: &str = "b7ad6b7169203331";

/// Returns a trace id of its own for each test, and the header with it.
fn caller(is_sampled: bool) -> (String, String) {
    let trace_id = format!("{:032x}", rand::random::<u128>());
    let traceparent = format!("00-{trace_id}-{SPAN_ID}-0{}", u8::from(is_sampled));
    (trace_id, traceparent)
}

fn with<T>(message: T, traceparent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=1".parse().unwrap());
    request
}

async fn validate(client: &Client, token: &str, traceparent: &str) {
    let message = pb::ValidateRequest { token: token.into(), ..Default::default() };
    client.auth.clone().validate(with(message, traceparent)).await.unwrap();
}

async fn login(client: &Client, username: &str, traceparent: &str) -> String {
    let request = with(login_request(username, "the-device"), traceparent);
    client.auth.clone().login(request).await.unwrap().into_inner().token
}

/// Ends the server, which exports the last spans, and returns its log.
async fn end(process: Process) -> String {
    process.terminate();
    let (code, log) =
        tokio::task::spawn_blocking(move || process.wait(Duration::from_secs(20))).await.unwrap();
    assert_eq!(code, Some(0), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_part_of_the_trace_of_its_caller() {
    let (collector, redis) = (Collector::start().await, RedisServer::start());
    let settings =
        [("OTLP__ENDPOINT", &*collector.url()), ("OTLP__SAMPLE_RATIO", "0"), ("SESSIONS__URL", &redis.url())];
    let (process, client, _data) = serve(&settings).await;
    let user_id = client.user("the-username").await;
    let (trace_id, traceparent) = caller(true);
    let token = login(&client, "the-username", &traceparent).await;

    let root = collector.named(&trace_id, LOGIN).await;
    assert_eq!((&*root.parent_id, root.kind, &*root.state), (SPAN_ID, 2, "vendor=1"));
    assert_eq!(root.attribute("rpc.system.name"), "grpc");
    assert_eq!(root.attribute("rpc.method"), LOGIN);
    assert_eq!(root.attribute("rpc.response.status_code"), "OK");
    assert!(!root.is_error);
    for (name, system, operation, collection) in [
        ("find accounts", "sqlite", "find", "accounts"),
        ("load_many sessions", "redis", "load_many", "sessions"),
        ("commit sessions", "redis", "commit", "sessions"),
        ("commit throttle", "redis", "commit", "throttle"),
    ] {
        let span = collector.named(&trace_id, name).await;
        assert_eq!((&span.parent_id, span.kind), (&root.span_id, 3), "{span:?}");
        assert_eq!(span.attribute("db.system.name"), system);
        assert_eq!(span.attribute("db.operation.name"), operation);
        assert_eq!(span.attribute("db.collection.name"), collection);
        assert!(!span.is_error);
    }
    for name in ["password queue", "password hash"] {
        let span = collector.named(&trace_id, name).await;
        assert_eq!((&span.parent_id, span.kind), (&root.span_id, 1), "{span:?}");
    }
    // Nobody else's request was sampled.
    end(process).await;
    let traces: BTreeSet<_> = collector.spans().into_iter().map(|span| span.trace_id).collect();
    assert_eq!(traces, BTreeSet::from([trace_id]));
    let arrived = collector.bytes();
    let secrets = [&token, PASSWORD, &user_id, "the-username", "the-device", "127.0.0.1", "x-latchkey-key"];
    for secret in secrets {
        let found = arrived.windows(secret.len()).any(|bytes| bytes == secret.as_bytes());
        assert!(!found, "{secret} is in a span");
    }
    let resource = &collector.resources()[0];
    assert_eq!(resource["service.name"], "latchkey");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_decides_whether_its_request_is_traced() {
    let collector = Collector::start().await;
    let settings = [("OTLP__ENDPOINT", &*collector.url()), ("OTLP__SAMPLE_RATIO", "1")];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    let (unsampled, traceparent) = caller(false);
    for _ in 0..20 {
        validate(&client, &token, &traceparent).await;
    }
    login(&client, "alice", &traceparent).await;
    let (sampled, traceparent) = caller(true);
    validate(&client, &token, &traceparent).await;
    let span = collector.named(&sampled, VALIDATE).await;
    assert_eq!((&*span.parent_id, span.attribute("rpc.response.status_code")), (SPAN_ID, "OK"));
    // Without a caller that decides, the ratio does.
    client.validate(&token).await;
    collector.span(|span| span.name == VALIDATE && span.parent_id.is_empty()).await;
    end(process).await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id != unsampled), "{spans:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_are_not_followed_cannot_force_a_trace() {
    let collector = Collector::start().await;
    let settings = [
        ("OTLP__ENDPOINT", &*collector.url()),
        ("OTLP__SAMPLE_RATIO", "0"),
        ("OTLP__FOLLOW_PARENT", "false"),
    ];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    login(&client, "alice", &caller(true).1).await;
    end(process).await;
    assert!(collector.spans().is_empty(), "{:?}", collector.spans());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_server_are_errors_of_the_span_and_those_of_callers_are_not() {
    let (collector, mut redis) = (Collector::start().await, RedisServer::start());
    let settings = [("OTLP__ENDPOINT", &*collector.url()), ("SESSIONS__URL", &redis.url())];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    let (trace_id, traceparent) = caller(true);
    let wrong = pb::LoginRequest { password: "wrong".into(), ..login_request("alice", "") };
    client.auth.clone().login(with(wrong, &traceparent)).await.unwrap_err();
    let span = collector.named(&trace_id, LOGIN).await;
    assert_eq!(
        (span.attribute("rpc.response.status_code"), span.attribute("error.type"), span.is_error),
        ("UNAUTHENTICATED", "UNAUTHENTICATED", false)
    );

    redis.kill();
    let (trace_id, traceparent) = caller(true);
    let message = pb::ValidateRequest { token, ..Default::default() };
    client.auth.clone().validate(with(message, &traceparent)).await.unwrap_err();
    let span = collector.named(&trace_id, VALIDATE).await;
    assert_eq!((span.attribute("error.type"), span.is_error), ("UNAVAILABLE", true));
    let store = collector.named(&trace_id, "load_many sessions").await;
    assert_eq!((store.attribute("error.type"), store.is_error), ("unavailable", true));
    assert_eq!(store.parent_id, span.span_id);
    // A path that a client has made up is no name.
    let (trace_id, traceparent) = caller(true);
    let headers: [(&str, &[u8]); 2] =
        [("content-type", b"application/grpc"), ("traceparent", traceparent.as_bytes())];
    http::exchange_http2(process.grpc, "POST /made.up/Path", &headers, b"\0\0\0\0\0").await;
    let span = collector.named(&trace_id, "_OTHER").await;
    assert_eq!((span.attribute("error.type"), span.is_error), ("UNIMPLEMENTED", true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_sends_its_trace_with_the_call_or_with_the_request_that_it_asks_about() {
    let collector = Collector::start().await;
    let settings = [("OTLP__ENDPOINT", &*collector.url()), ("OTLP__SAMPLE_RATIO", "0")];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    let token = format!("Bearer {}", client.login("alice", "phone").await.token);
    let channel = Channel::from_shared(format!("http://{}", process.grpc)).unwrap().connect_lazy();
    let mut gateway = AuthorizationClient::new(channel);
    let (inner, inner_parent) = caller(true);
    let headers = [("authorization", &*token), ("traceparent", &*inner_parent)];
    gateway.check(check_request(&headers, &[])).await.unwrap();
    let span = collector.named(&inner, CHECK).await;
    assert_eq!((&*span.parent_id, span.kind), (SPAN_ID, 2));
    assert_eq!(span.attribute("rpc.response.status_code"), "OK");

    // The call itself comes first.
    let (outer, outer_parent) = caller(true);
    let (never, never_parent) = caller(true);
    let headers = [("authorization", &*token), ("traceparent", &*never_parent)];
    gateway.check(with(check_request(&headers, &[]), &outer_parent)).await.unwrap();
    collector.named(&outer, CHECK).await;

    let (forwarded, parent) = caller(true);
    let headers = [("authorization", token.as_bytes()), ("traceparent", parent.as_bytes())];
    assert_eq!(http::get(process.http, "/forward-auth?x", &headers).await.status, 500);
    let (allowed, parent) = caller(true);
    let headers = [("authorization", token.as_bytes()), ("traceparent", parent.as_bytes())];
    assert_eq!(http::get(process.http, "/forward-auth", &headers).await.status, 200);
    let span = collector.named(&allowed, "GET /forward-auth").await;
    assert_eq!((&*span.parent_id, span.kind, span.is_error), (SPAN_ID, 2, false));
    assert_eq!(span.attribute("http.request.method"), "GET");
    assert_eq!(span.attribute("http.route"), "/forward-auth");
    assert_eq!(span.attribute("http.response.status_code"), "200");
    let failed = collector.named(&forwarded, "GET /forward-auth").await;
    assert_eq!((failed.attribute("http.response.status_code"), failed.is_error), ("500", true));
    end(process).await;
    assert!(collector.spans().iter().all(|span| span.trace_id != never));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_deliveries_have_traces_of_their_own() {
    let collector = Collector::start().await;
    let webhook = format!("http://{}/hook", unused_address());
    let settings = [
        ("OTLP__ENDPOINT", &*collector.url()),
        ("OTLP__SAMPLE_RATIO", "1"),
        ("WEBHOOK__URL", &webhook),
        ("WEBHOOK__SECRET", "whsec_bm90aGluZyBidXQgYSBzZWNyZXQgb2YgdGhlIHRlc3Rz"),
    ];
    let (_process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    client.login("alice", "phone").await;
    client.login("alice", "tablet").await;
    let events = collector.span(|span| span.name == "process session events").await;
    assert_eq!((&*events.parent_id, events.kind), ("", 5));
    assert_eq!(events.attribute("messaging.batch.message_count"), "1");
    let delivery = collector.span(|span| span.name == "deliver webhook").await;
    assert_eq!((delivery.kind, delivery.is_error), (3, true), "nobody receives it: {delivery:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_of_a_request_have_its_trace_and_its_id() {
    // Not exported, but a caller belongs to a trace.
    for exported in [false, true] {
        let collector = Collector::start().await;
        let endpoint = if exported { collector.url() } else { String::new() };
        let settings = [("LOG__FORMAT", "json"), ("OTLP__ENDPOINT", &*endpoint)];
        let (process, client, _data) = serve(&settings).await;
        client.user("alice").await;
        let (trace_id, traceparent) = caller(true);
        let mut request = with(login_request("alice", "phone"), &traceparent);
        request.metadata_mut().insert("x-request-id", "my-\"request\"".parse().unwrap());
        client.auth.clone().login(request).await.unwrap();
        let log = end(process).await;
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let line = lines.iter().find(|line| line["audit.action"] == "login").unwrap();
        assert_eq!((&line["trace_id"], &line["request.id"]), (&trace_id.into(), &"my-\"request\"".into()));
        let line = log.lines().find(|line| line.contains("\"login\"")).unwrap();
        assert_eq!(line.matches("request.id").count(), 1, "{line}");
        assert!(lines.iter().any(|line| line["message"] == "listening" && line["trace_id"].is_null()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_lines_have_the_ids_too() {
    let (process, client, _data) = serve(&[("LOG__FORMAT", "text"), ("LOG__LEVEL", "debug")]).await;
    client.user("alice").await;
    let (trace_id, traceparent) = caller(false);
    login(&client, "alice", &traceparent).await;
    let log = end(process).await;
    let has_ids = |line: &str| line.contains(&trace_id) && line.contains("request.id=");
    assert!(log.lines().any(|line| line.contains("audit.action") && has_ids(line)), "{log}");
    assert!(log.lines().any(|line| line.contains("rpc.method") && has_ids(line)), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_costs_no_request_and_is_reported_once() {
    let address = SocketAddr::from(([127, 0, 0, 1], server_port()));
    let endpoint = format!("http://{address}");
    let settings = [("OTLP__ENDPOINT", &*endpoint), ("OTLP__SAMPLE_RATIO", "1"), ("OTLP__TIMEOUT", "500ms")];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    for _ in 0..50 {
        client.validate(&token).await;
    }
    let begun = Instant::now();
    while process.metric("latchkey_trace_spans_lost_total").await < 50 {
        assert!(begun.elapsed() < Duration::from_secs(20), "lost spans are not counted");
        client.validate(&token).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let collector = Collector::start_on(address).await;
    let begun = Instant::now();
    while collector.spans().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the collector is not used once it is there");
        client.validate(&token).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process.output_until("exporting spans again");
    drop(collector);
    let begun = Instant::now();
    let log = end(process).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(log.matches("failed to export spans").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_standard_variables_and_a_file_of_headers_are_used() {
    let collector = Collector::start().await;
    let data = tempfile::tempdir().unwrap();
    let headers = data.path().join("headers");
    std::fs::write(&headers, "Authorization: Bearer of-the-collector\n\nx-tenant: one\n").unwrap();
    let mut permissions = std::fs::metadata(&headers).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&headers, permissions).unwrap();
    let settings = [("OTLP__SAMPLE_RATIO", "1"), ("OTLP__HEADERS_FILE", headers.to_str().unwrap())];
    let mut command = command(data.path(), &settings);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_SERVICE_NAME", "login")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,team=a%20b")
        .arg("serve");
    let process = Process::launch(command, data.path());
    process.serving_client().await.user("alice").await;
    collector.span(|span| span.name == "latchkey.v1.AccountService/CreateAccount").await;
    let resource = &collector.resources()[0];
    assert_eq!(resource["service.name"], "login");
    assert_eq!((&*resource["deployment.environment.name"], &*resource["team"]), ("test", "a b"));
    let metadata = collector.metadata();
    assert_eq!(metadata.get("authorization").unwrap(), "Bearer of-the-collector");
    assert_eq!(metadata.get("x-tenant").unwrap(), "one");
    assert!(!end(process).await.contains("of-the-collector"));
}
