//! JSON over HTTP: the paths of the annotations and Connect's unary protocol, on the HTTP port.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use data_encoding::BASE64_NOPAD;
use flate2::{Compression, write::GzEncoder};
use latchkey::{
    domain::{metrics::Surface, rejection::Reason},
    grpc::pb,
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    client::{PASSWORD, login_request},
    http::{Answer, exchange, get},
    server::{Server, Store},
};

pub const JSON: (&str, &[u8]) = ("content-type", b"application/json");
pub const PROTO: (&str, &[u8]) = ("content-type", b"application/proto");

/// Sends a body as JSON, such as `POST /v1/login`.
pub async fn send(address: SocketAddr, line: &str, body: &Value, headers: &[(&str, &[u8])]) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [&[JSON], headers].concat();
    exchange(address, line, &headers, body.as_bytes()).await.unwrap_or_else(|| panic!("no answer to {line}"))
}

pub fn login(device: &str) -> Value {
    json!({ "username": "alice", "password": PASSWORD, "device": device })
}

/// Returns the HTTP status of an error, its code and its reason, and checks its form.
pub fn error(answer: &Answer) -> (u16, String, String) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    let body = answer.json();
    let details = body["details"].as_array().unwrap_or_else(|| panic!("no details: {answer:?}"));
    let info = details.iter().find(|detail| detail["type"] == "google.rpc.ErrorInfo").unwrap();
    let value = BASE64_NOPAD.decode(info["value"].as_str().unwrap().as_bytes()).unwrap();
    let value = tonic_types::pb::ErrorInfo::decode(&*value).unwrap();
    assert_eq!(info["debug"]["reason"].as_str(), Some(&*value.reason), "{answer:?}");
    assert_eq!(value.domain, "latchkey");
    (answer.status, body["code"].as_str().unwrap().to_owned(), value.reason)
}

/// Returns the fields that an error names.
fn fields(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let details = body["details"].as_array().unwrap();
    let bad = details.iter().find(|detail| detail["type"] == "google.rpc.BadRequest");
    let violations = bad.and_then(|bad| bad["debug"]["fieldViolations"].as_array()).cloned();
    violations
        .unwrap_or_default()
        .iter()
        .map(|one| one["field"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// All methods of the protocol.
fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(pb::PUBLISHED).unwrap();
    let services = pool.services().filter(|service| service.package_name() == "latchkey.v1");
    let methods: Vec<_> = services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    assert!(methods.len() > 15, "{methods:?}");
    methods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_unary_method_is_served_in_json_and_binary_and_no_other() {
    let server = Server::start(Store::Embedded).await;
    let key: (&str, &[u8]) = ("x-latchkey-key", server.client.admin_key.as_bytes());
    for method in methods() {
        let line = format!("POST /{}/{}", method.parent_service().full_name(), method.name());
        let is_unary = !method.is_client_streaming() && !method.is_server_streaming();
        for (kind, body) in [(JSON, &b"{}"[..]), (PROTO, b"")] {
            let answer = exchange(server.app.http, &line, &[kind, key], body).await.unwrap();
            if !is_unary {
                assert_eq!(error(&answer).1, "unimplemented", "{line}");
                assert_eq!(answer.status, 501, "{line}");
                continue;
            }
            // Fields are missing in most of these messages.
            match answer.status {
                200 => assert_eq!(answer.header("content-type").unwrap().as_bytes(), kind.1, "{line}"),
                400 => assert_eq!(error(&answer).2, "INVALID_REQUEST", "{line}: {answer:?}"),
                404 => assert!(error(&answer).2.ends_with("_NOT_FOUND"), "{line}: {answer:?}"),
                _ => panic!("{line}: {answer:?}"),
            }
            assert!(answer.header("x-request-id").is_some(), "{line}");
        }
        let answer = get(server.app.http, line.strip_prefix("POST ").unwrap(), &[key]).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_annotated_paths_work() {
    let server = Server::start(Store::Embedded).await;
    let key = server.client.admin_key.clone();
    let call = async |line: &str, body: Value| {
        let answer = send(server.app.http, line, &body, &[("x-latchkey-key", key.as_bytes())]).await;
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{line}");
        answer.json()
    };
    let created = call("POST /v1/accounts", json!({ "username": "alice", "password": PASSWORD })).await;
    let id = created["account"]["userId"].as_str().unwrap().to_owned();
    for line in [format!("GET /v1/accounts/{id}"), "GET /v1/accounts:find?username=alice".into()] {
        assert_eq!(call(&line, Value::Null).await["account"], created["account"], "{line}");
    }
    for name in ["page_size", "pageSize"] {
        let listed = call(&format!("GET /v1/accounts?{name}=10"), Value::Null).await;
        assert_eq!(listed["accounts"][0], created["account"]);
    }
    let changed = call(&format!("PATCH /v1/accounts/{id}"), json!({ "roles": ["staff"] })).await;
    assert_eq!(changed["account"]["roles"], json!(["staff"]), "{changed}");
    let mask = json!({ "updateMask": "roles,disabled", "disabled": false });
    let changed = call(&format!("PATCH /v1/accounts/{id}"), mask).await;
    assert_eq!(changed["account"]["roles"], json!([]), "{changed}");
    call(&format!("POST /v1/accounts/{id}:setPassword"), json!({ "password": PASSWORD })).await;
    call(&format!("POST /v1/accounts/{id}:unlock"), Value::Null).await;
    call("POST /v1/accounts:unlock", json!({ "username": "alice" })).await;

    let first = call("POST /v1/login", login("Android")).await;
    assert_eq!(first["displaced"], json!([]));
    assert!(first["session"]["issuedAt"].as_str().unwrap().ends_with('Z'));
    let verdict = call("POST /v1/validate", json!({ "token": first["token"], "peek": true })).await;
    assert_eq!(verdict["session"]["device"], "Android");
    let second = call("POST /v1/login", login("iPhone")).await;
    assert_eq!(second["displaced"][0]["device"], "Android");
    // A rejection is data.
    let verdict = call("POST /v1/validate", json!({ "token": first["token"] })).await;
    assert_eq!(verdict["rejection"]["reason"], "REJECTION_REASON_REPLACED");
    assert_eq!(verdict["rejection"]["terminal"], true);
    let stale = call("POST /v1/logout", json!({ "token": first["token"], "scope": 3 })).await;
    assert_eq!((&stale["ended"], &stale["rejection"]["byDevice"]), (&json!(0), &json!("iPhone")));
    let change = json!({ "token": second["token"], "currentPassword": PASSWORD, "newPassword": PASSWORD });
    assert_eq!(call("POST /v1/change-password", change).await, json!({ "ended": 0 }));
    let all = json!({ "token": second["token"], "scope": "LOGOUT_SCOPE_ALL" });
    assert_eq!(call("POST /v1/logout", all).await, json!({ "ended": 1 }));

    let issued = call("POST /v1/sessions", json!({ "userId": id, "device": "SSO" })).await;
    let sessions = call(&format!("GET /v1/accounts/{id}/sessions"), Value::Null).await;
    assert_eq!(sessions["sessions"][0]["sessionId"], issued["session"]["sessionId"]);
    let ended = call(&format!("POST /v1/accounts/{id}/sessions:end"), json!({ "message": "Bye" })).await;
    assert_eq!(ended["ended"], 1);
    let verdict = call("POST /v1/validate", json!({ "token": issued["token"] })).await;
    assert_eq!(verdict["rejection"]["message"], "Bye");

    for path in ["prod/web", "prod%2Fweb"] {
        let caller = call("POST /v1/callers", json!({ "name": "prod/web", "roles": ["validator"] })).await;
        assert!(caller["key"].as_str().unwrap().starts_with("lkc_"));
        assert_eq!(call("GET /v1/callers", Value::Null).await["callers"][0]["name"], "prod/web");
        assert_eq!(call(&format!("DELETE /v1/callers/{path}"), Value::Null).await, json!({}));
    }
    call(&format!("DELETE /v1/accounts/{id}"), Value::Null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_those_of_connect_with_their_details() {
    let mut server = Server::start(Store::Redis).await;
    server.client.user("alice").await;
    let http = server.app.http;
    let post = async |line: &str, body: Value| send(http, line, &body, &[]).await;
    let expect = |answer: &Answer, status: u16, code: &str, reason: &str| {
        assert_eq!(error(answer), (status, code.into(), reason.into()), "{answer:?}");
    };
    let wrong = json!({ "username": "alice", "password": "wrong" });
    for line in ["POST /v1/login", "POST /latchkey.v1.AuthService/Login"] {
        let answer = post(line, wrong.clone()).await;
        expect(&answer, 401, "unauthenticated", "INVALID_CREDENTIALS");
        assert_eq!(answer.json()["message"], "unknown user or wrong password");
    }
    let answer = post("POST /v1/login", json!({ "username": "alice" })).await;
    expect(&answer, 400, "invalid_argument", "INVALID_REQUEST");
    assert_eq!(fields(&answer), ["password"]);
    expect(&post("POST /v1/validate", json!({})).await, 400, "invalid_argument", "INVALID_REQUEST");
    let change = json!({ "token": "x", "currentPassword": PASSWORD, "newPassword": PASSWORD });
    expect(&post("POST /v1/change-password", change).await, 401, "unauthenticated", "MALFORMED");
    expect(&post("POST /v1/nothing", json!({})).await, 404, "unimplemented", "INVALID_REQUEST");
    expect(&post("GET /v1/login", Value::Null).await, 405, "unimplemented", "INVALID_REQUEST");
    expect(&post("POST /v1/login?password=x", json!({})).await, 400, "invalid_argument", "INVALID_REQUEST");
    expect(&post("POST /v1/accounts", json!({})).await, 401, "unauthenticated", "CALLER_UNAUTHENTICATED");
    let answer = send(http, "POST /v1/validate", &json!({}), &[("connect-timeout-ms", b"soon")]).await;
    expect(&answer, 400, "invalid_argument", "INVALID_REQUEST");
    let version = [("connect-protocol-version", &b"2"[..])];
    let answer = send(http, "POST /latchkey.v1.AuthService/Login", &json!({}), &version).await;
    expect(&answer, 400, "invalid_argument", "INVALID_REQUEST");
    for _ in 0..3 {
        post("POST /v1/login", wrong.clone()).await;
    }
    let answer = post("POST /v1/login", wrong).await;
    expect(&answer, 429, "resource_exhausted", "THROTTLED");
    assert_eq!(answer.header("retry-after"), Some("1"));

    let message = pb::IssueSessionRequest { username: "alice".into(), ..Default::default() };
    let token = server.client.try_issue(message).await.unwrap().token;
    server.redis.as_mut().unwrap().kill();
    let answer = post("POST /v1/validate", json!({ "token": token })).await;
    expect(&answer, 503, "unavailable", "STORE_UNAVAILABLE");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let metrics = get(http, "/metrics", &[]).await.body;
    for (surface, errors) in [("json", 1), ("grpc", 0)] {
        let line = format!("latchkey_verdict_errors_total{{surface=\"{surface}\"}} {errors}\n");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_message_is_an_error_that_names_the_field_and_shows_no_value() {
    let server = Server::start(Store::Embedded).await;
    let key = server.client.admin_key.as_bytes();
    for (line, body, field) in [
        ("POST /v1/login", r#"{"username": "alice", "pasword": "hunter2"}"#, "pasword"),
        ("POST /v1/login", r#"{"username": "alice", "password": {"is": "hunter2"}}"#, "password"),
        ("POST /v1/login", r#"{"takeover": "hunter2"}"#, "takeover"),
        ("POST /v1/login", r#"{"password": "hunter2""#, ""),
        ("POST /v1/login", r#"["hunter2"]"#, ""),
        ("POST /latchkey.v1.AuthService/Login", r#"{"password": ["hunter2"]}"#, "password"),
        ("POST /v1/login", r#"{"password": "hunter2", "password": "hunter2"}"#, "password"),
        ("POST /v1/validate", r#"{"maxStaleness": "1s", "max_staleness": "2s"}"#, "max_staleness"),
        ("POST /v1/accounts:unlock", r#"{"username": "a", "userId": "b"}"#, "userId"),
        ("GET /v1/accounts:find?username=a&user_id=b", "", "username"),
        ("POST /v1/logout", r#"{"scope": "hunter2"}"#, "scope"),
        ("POST /v1/logout", r#"{"scope": 9, "token": "x"}"#, "scope"),
        ("POST /v1/validate", r#"{"token": "x", "maxStaleness": "-1s"}"#, "max_staleness"),
        ("POST /v1/validate", r#"{"token": "x", "maxStaleness": 5}"#, "maxStaleness"),
        ("PATCH /v1/accounts/7", r#"{"userId": "8"}"#, "userId"),
        ("POST /v1/accounts/7:unlock", r#"{"username": "alice"}"#, "username"),
        ("GET /v1/accounts?page_size=hunter2", "", "pageSize"),
        ("GET /v1/accounts?size=1", "", "size"),
        ("GET /v1/accounts?page_size=1&pageSize=2", "", "pageSize"),
        ("DELETE /v1/accounts/7", r#"{"userId": "hunter2"}"#, ""),
    ] {
        let headers = [JSON, ("x-latchkey-key", key)];
        let answer = exchange(server.app.http, line, &headers, body.as_bytes()).await.unwrap();
        assert_eq!(
            error(&answer),
            (400, "invalid_argument".into(), "INVALID_REQUEST".into()),
            "{line} {body}"
        );
        assert_eq!(fields(&answer), [field], "{line} {body}: {answer:?}");
        assert!(!answer.body.contains("hunter2"), "{line}: {answer:?}");
    }
    let bad =
        exchange(server.app.http, "POST /latchkey.v1.AuthService/Login", &[PROTO], b"\xff").await.unwrap();
    assert_eq!(error(&bad), (400, "invalid_argument".into(), "INVALID_REQUEST".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_messages_are_those_of_grpc() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("alice").await;
    let line = "POST /latchkey.v1.AuthService/GetJwks";
    let answer = exchange(server.app.http, line, &[PROTO], b"").await.unwrap();
    assert_eq!(answer.header("content-type"), Some("application/proto"));
    // A field with its number, its length and the text.
    let json = send(server.app.http, line, &Value::Null, &[]).await.json();
    assert!(answer.body.starts_with('\n') && answer.body.ends_with(json["jwks"].as_str().unwrap()));
    let body = login_request("alice", "binary").encode_to_vec();
    let line = "POST /latchkey.v1.AuthService/Login";
    assert_eq!(exchange(server.app.http, line, &[PROTO], &body).await.unwrap().status, 200);
    // Only Connect has binary messages.
    assert_eq!(exchange(server.app.http, "POST /v1/login", &[PROTO], &body).await.unwrap().status, 415);
    let mut bytes = GzEncoder::new(Vec::new(), Compression::fast());
    bytes.write_all(login("gzip").to_string().as_bytes()).unwrap();
    let (bytes, gzip) = (bytes.finish().unwrap(), ("content-encoding", &b"gzip"[..]));
    let answer = exchange(server.app.http, line, &[JSON, gzip], &bytes).await.unwrap();
    assert_eq!(answer.json()["session"]["device"], "gzip", "{answer:?}");
    let answer = exchange(server.app.http, line, &[JSON, gzip], b"{}").await.unwrap();
    assert_eq!(error(&answer).0, 400);
    let answer = exchange(server.app.http, line, &[JSON, ("content-encoding", b"br")], b"{}").await.unwrap();
    assert_eq!(error(&answer), (501, "unimplemented".into(), "INVALID_REQUEST".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_rules_are_those_of_grpc() {
    let server = Server::with(Store::Embedded, &[("ACCESS__VALIDATE", "caller")]).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "phone").await.token;
    let message = pb::CreateCallerRequest { name: "web".into(), roles: vec!["validator".into()] };
    let key = server.client.callers.clone().create_caller(server.client.admin(message)).await.unwrap();
    let key = key.into_inner().key;
    let key: (&str, &[u8]) = ("x-latchkey-key", key.as_bytes());
    let unknown: (&str, &[u8]) = ("x-latchkey-key", b"lkc_unknown");
    let call = async |line: &str, headers: &[(&str, &[u8])]| {
        let answer = send(server.app.http, line, &json!({ "token": token }), headers).await;
        if answer.status == 200 { (200, String::new(), String::new()) } else { error(&answer) }
    };
    let unauthenticated = (401, "unauthenticated".to_owned(), "CALLER_UNAUTHENTICATED".to_owned());
    let forbidden = (403, "permission_denied".to_owned(), "CALLER_NOT_ALLOWED".to_owned());
    for line in ["POST /v1/validate", "POST /latchkey.v1.AuthService/Validate"] {
        assert_eq!(call(line, &[key]).await.0, 200);
        for headers in [&[][..], &[unknown], &[key, key]] {
            assert_eq!(call(line, headers).await, unauthenticated, "{headers:?}");
        }
    }
    // The caller is checked before the message.
    assert_eq!(call("POST /v1/accounts", &[key]).await, forbidden);
    assert_eq!(call("POST /v1/accounts", &[]).await, unauthenticated);
    assert_eq!(call("POST /v1/sessions", &[key]).await, forbidden);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_are_counted_on_their_surface() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "phone").await.token;
    for token in [&*token, "nonsense"] {
        let body = json!({ "token": token });
        assert_eq!(send(server.app.http, "POST /v1/validate", &body, &[]).await.status, 200);
    }
    let verdicts = &server.app.engine.metrics().verdicts;
    assert_eq!(verdicts.get(Surface::Json, None), 1);
    assert_eq!(verdicts.get(Surface::Json, Some(Reason::Malformed)), 1);
    assert_eq!(verdicts.get(Surface::Grpc, None), 0);
    let metrics = get(server.app.http, "/metrics", &[]).await.body;
    assert!(metrics.contains(r#"latchkey_verdicts_total{surface="json",verdict="live"} 1"#), "{metrics}");
    let handled = r#"grpc_server_handled_total{grpc_service="latchkey.v1.AuthService",grpc_method="Validate",grpc_code="OK"} 2"#;
    assert!(metrics.contains(handled), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_or_too_slow_is_an_error() {
    let server = Server::with(Store::Embedded, &[("SERVER__BODY_TIMEOUT", "200ms")]).await;
    let large = json!({ "username": "x".repeat(64 * 1024) });
    for line in ["POST /v1/login", "POST /latchkey.v1.AuthService/Login"] {
        let answer = send(server.app.http, line, &large, &[]).await;
        assert_eq!(error(&answer), (413, "resource_exhausted".into(), "INVALID_REQUEST".into()), "{line}");
    }
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b' '; 1 << 20]).unwrap();
    let headers = [JSON, ("content-encoding", b"gzip")];
    let answer =
        exchange(server.app.http, "POST /v1/login", &headers, &bomb.finish().unwrap()).await.unwrap();
    assert_eq!(error(&answer).0, 413);

    let mut slow = TcpStream::connect(server.app.http).await.unwrap();
    let head = "POST /v1/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = slow.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("\"deadline_exceeded\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_can_be_switched_off() {
    let server = Server::with(Store::Embedded, &[("LISTEN__JSON", "false")]).await;
    for line in
        ["POST /v1/login", "POST /latchkey.v1.AuthService/Login", "GET /openapi.json", "GET /v1/watch"]
    {
        assert_eq!(send(server.app.http, line, &json!({}), &[]).await.status, 404, "{line}");
    }
    assert_eq!(get(server.app.http, "/livez", &[]).await.status, 200);
}
