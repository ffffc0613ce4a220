//! JSON over HTTP, and pages that hold only a cookie, through Envoy with `deploy/envoy/pages.yaml`.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{bearer, get_with_token, identity, programs::envoy_for_pages};
use crate::support::{
    client::PASSWORD,
    http::{Answer, Echo, exchange},
    server::{Server, Store},
};

const SITE: &str = "https://app.example.com";

async fn server(store: Store) -> Server {
    let settings =
        [("BROWSER__ORIGINS", SITE), ("BROWSER__SET_COOKIE", "true"), ("GATEWAY__COOKIE", "__Host-latchkey")];
    Server::with(store, &settings).await
}

/// Sends JSON, such as `POST /v1/login`.
async fn send(gateway: SocketAddr, line: &str, body: &Value, headers: &[(&str, &[u8])]) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    exchange(gateway, line, headers, body.as_bytes()).await.unwrap_or_else(|| panic!("no answer to {line}"))
}

fn login(username: &str, password: &str, device: &str) -> Value {
    json!({ "username": username, "password": password, "device": device })
}

/// A browser on a page: it sends `origin` and its cookie, and keeps the cookies it receives.
struct Browser {
    gateway: SocketAddr,
    cookie: String,
}

impl Browser {
    fn headers(&self) -> Vec<(&str, &[u8])> {
        let mut headers = vec![("origin", SITE.as_bytes())];
        if !self.cookie.is_empty() {
            headers.push(("cookie", self.cookie.as_bytes()));
        }
        headers
    }

    async fn post(&mut self, path: &str, body: &Value) -> Answer {
        let answer = send(self.gateway, &format!("POST {path}"), body, &self.headers()).await;
        if let Some(set) = answer.header("set-cookie") {
            let gone = set.contains("; Max-Age=0;");
            self.cookie = if gone { String::new() } else { set.split(';').next().unwrap().to_owned() };
        }
        answer
    }

    /// Opens a page of the service behind the gateway.
    async fn open(&self) -> Answer {
        get_with_token(self.gateway, "/", None, &self.headers()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_logs_in_passes_and_logs_out_with_only_a_cookie() {
    let (server, echo) = (server(Store::Embedded).await, Echo::start().await);
    let Some(envoy) = envoy_for_pages(server.app.grpc, echo.address, &[]).await else { return };
    let user_id = server.client.user("alice").await;
    let mut browser = Browser { gateway: envoy.address, cookie: String::new() };
    assert_eq!(browser.open().await.json()["reason"], "TOKEN_REQUIRED");

    let answer = browser.post("/v1/login", &login("alice", PASSWORD, "Firefox")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let set = answer.header("set-cookie").unwrap();
    assert!(set.ends_with("; Max-Age=86400; Path=/; Secure; HttpOnly; SameSite=Lax"), "{set}");
    let body = answer.json();
    assert_eq!((body["token"].as_str(), body["session"]["device"].as_str()), (Some(""), Some("Firefox")));
    let passes = browser.open().await;
    assert!(identity(&passes).contains(&("x-latchkey-user-id".into(), user_id)), "{passes:?}");
    let verdict = browser.post("/v1/validate", &Value::Null).await.json();
    assert_eq!(verdict["session"]["username"], "alice");

    let held = browser.cookie.clone();
    let answer = browser.post("/v1/logout", &json!({})).await;
    assert_eq!((answer.status, answer.json()["ended"].as_u64()), (200, Some(1)), "{answer:?}");
    assert_eq!(browser.cookie, "");
    assert_eq!(browser.open().await.json()["reason"], "TOKEN_REQUIRED");
    // An old cookie is denied.
    browser.cookie = held;
    let answer = browser.open().await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (401, Some("LOGGED_OUT")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_a_replaced_session_learns_the_newer_device() {
    let (server, echo) = (server(Store::Embedded).await, Echo::start().await);
    let Some(envoy) = envoy_for_pages(server.app.grpc, echo.address, &[]).await else { return };
    server.client.user("alice").await;
    let mut browser = Browser { gateway: envoy.address, cookie: String::new() };
    browser.post("/v1/login", &login("alice", PASSWORD, "Firefox")).await;

    // The watch sends a line of JSON at the start and one at the end.
    let mut watch = TcpStream::connect(envoy.address).await.unwrap();
    let head = format!(
        "POST /v1/watch HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\norigin: {SITE}\r\ncookie: {}\r\ncontent-length: 2\r\n\r\n{{}}",
        browser.cookie
    );
    watch.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("\"device\":\"Firefox\"") {
        let more = timeout(Duration::from_secs(20), watch.read_buf(&mut read)).await.unwrap().unwrap();
        assert_ne!(more, 0, "{}", String::from_utf8_lossy(&read));
    }
    let phone = server.client.login("alice", "phone").await.token;
    timeout(Duration::from_secs(20), watch.read_to_end(&mut read)).await.unwrap().unwrap();
    let read = String::from_utf8_lossy(&read).into_owned();
    let last = read.lines().rfind(|line| line.starts_with('{')).unwrap();
    let last: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {read}"));
    assert_eq!(last["rejection"]["reason"], "REJECTION_REASON_REPLACED");

    let answer = browser.open().await;
    assert_eq!((answer.status, answer.json()["by_device"].as_str()), (401, Some("phone")));
    let verdict = browser.post("/v1/validate", &json!({})).await;
    assert_eq!((verdict.status, verdict.json()["rejection"]["terminal"].as_bool()), (200, Some(true)));
    let answer = browser.post("/v1/logout", &json!({ "scope": "LOGOUT_SCOPE_ALL" })).await.json();
    assert_eq!((answer["ended"].as_u64(), browser.cookie.as_str()), (Some(0), ""));
    assert_eq!(answer["rejection"]["by_device"], "phone");
    assert_eq!(server.client.session(&phone).await.device, "phone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_cookies_sends_its_token() {
    let (server, echo) = (server(Store::Embedded).await, Echo::start().await);
    let Some(envoy) = envoy_for_pages(server.app.grpc, echo.address, &[]).await else { return };
    server.client.user("alice").await;
    let gateway = envoy.address;
    let evil: (&str, &[u8]) = ("origin", b"https://evil.example");
    let forged: (&str, &[u8]) = ("x-latchkey-cookie", b"true");
    // A page of another site can send this without a preflight.
    for headers in [&[evil][..], &[evil, ("content-type", b"text/plain")], &[evil, forged]] {
        for path in ["/v1/login", "/v1/validate", "/v1/logout", "/v1/watch"] {
            let body = login("alice", PASSWORD, "curl");
            let answer = send(gateway, &format!("POST {path}"), &body, headers).await;
            assert_eq!(answer.status, 403, "{path} {headers:?}: {answer:?}");
        }
    }
    for headers in [&[][..], &[forged], &[("content-type", b"text/plain")]] {
        let answer = send(gateway, "POST /v1/login", &login("alice", PASSWORD, "curl"), headers).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (200, None), "{headers:?}");
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        let cookie = format!("__Host-latchkey={token}");
        let by_cookie = [headers, &[("cookie", cookie.as_bytes())]].concat();
        for path in ["/v1/validate", "/v1/logout", "/v1/watch"] {
            let answer = send(gateway, &format!("POST {path}"), &json!({}), &by_cookie).await;
            assert_eq!(answer.status, 400, "{path} {headers:?}: {answer:?}");
        }
        let authorization = bearer(&token);
        let in_header = ("authorization", authorization.as_bytes());
        for (body, headers) in [(json!({ "token": token }), &[][..]), (json!({}), &[in_header])] {
            let answer = send(gateway, "POST /v1/validate", &body, headers).await;
            assert_eq!(answer.json()["session"]["device"], "curl", "{answer:?}");
        }
        let logout = send(gateway, "POST /v1/logout", &json!({ "token": token }), &[]).await;
        assert_eq!(logout.json(), json!({ "ended": 1 }));
        let answer = get_with_token(gateway, "/", Some(&token), &[]).await;
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (401, Some("LOGGED_OUT")));
    }
}

/// Returns the HTTP status of an error, its gRPC code, its reason and its other details.
fn error(answer: &Answer) -> (u16, u64, String, Vec<Value>) {
    let body = answer.json();
    let details = body["details"].as_array().unwrap_or_else(|| panic!("no details: {answer:?}"));
    let info = details.iter().find(|detail| detail["domain"] == "latchkey").unwrap();
    let others = details.iter().filter(|detail| *detail != info).cloned().collect();
    (answer.status, body["code"].as_u64().unwrap(), info["reason"].as_str().unwrap().to_owned(), others)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_json_with_their_reasons() {
    let (mut server, echo) = (server(Store::Redis).await, Echo::start().await);
    let Some(envoy) = envoy_for_pages(server.app.grpc, echo.address, &[]).await else { return };
    server.client.user("alice").await;
    let gateway = envoy.address;
    let post = async |path: &str, body: Value| send(gateway, &format!("POST {path}"), &body, &[]).await;
    let wrong = post("/v1/login", login("alice", "wrong", "")).await;
    assert_eq!(error(&wrong), (401, 16, "INVALID_CREDENTIALS".into(), vec![]));
    assert_eq!(wrong.json()["message"], "unknown user or wrong password");
    let (status, code, reason, others) = error(&post("/v1/login", json!({ "username": "alice" })).await);
    assert_eq!((status, code, reason.as_str()), (400, 3, "INVALID_REQUEST"));
    assert_eq!(others[0]["field_violations"][0]["field"], "password");
    assert_eq!(error(&post("/v1/validate", json!({})).await).2, "INVALID_REQUEST");
    let change = json!({ "token": "x", "current_password": PASSWORD, "new_password": PASSWORD });
    assert_eq!(error(&post("/v1/change-password", change).await), (401, 16, "MALFORMED".into(), vec![]));
    for (line, status) in [
        ("POST /v1/nothing", 404),
        ("GET /v1/login", 404),
        ("POST /v1/accounts", 404),
        ("POST /v1/login?password=x", 400),
    ] {
        let body = if line.starts_with("POST") { json!({}) } else { Value::Null };
        let answer = send(gateway, line, &body, &[]).await;
        assert_eq!(answer.status, status, "{line}: {answer:?}");
    }
    let broken = exchange(gateway, "POST /v1/login", &[], b"{\"username\": ").await.unwrap();
    assert_eq!(broken.status, 400, "{broken:?}");
    for _ in 0..4 {
        post("/v1/login", login("alice", "wrong", "")).await;
    }
    let (status, code, reason, others) = error(&post("/v1/login", login("alice", "wrong", "")).await);
    assert_eq!((status, code, reason.as_str()), (429, 8, "THROTTLED"));
    assert!(others[0]["retry_delay"].as_str().unwrap().ends_with('s'), "{others:?}");

    let token = server.client.try_issue(issue("alice")).await.unwrap().token;
    server.redis.as_mut().unwrap().kill();
    let (status, code, reason, _) = error(&post("/v1/validate", json!({ "token": token })).await);
    assert_eq!((status, code, reason.as_str()), (503, 14, "STORE_UNAVAILABLE"));
}

fn issue(username: &str) -> latchkey::grpc::pb::IssueSessionRequest {
    latchkey::grpc::pb::IssueSessionRequest { username: username.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_can_be_called_with_json() {
    let (server, echo) = (server(Store::Embedded).await, Echo::start().await);
    let everything = [
        (
            "services: [latchkey.v1.AuthService]",
            "services: [latchkey.v1.AuthService, latchkey.v1.SessionService, latchkey.v1.AccountService, latchkey.v1.CallerService]",
        ),
        ("- remove: x-latchkey-key", "- remove: x-none"),
    ];
    let Some(envoy) = envoy_for_pages(server.app.grpc, echo.address, &everything).await else { return };
    let gateway = envoy.address;
    let key = server.client.admin_key.clone();
    let call = async |line: &str, body: Value| {
        let answer = send(gateway, line, &body, &[("x-latchkey-key", key.as_bytes())]).await;
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
        answer.json()
    };
    let refused = send(gateway, "GET /v1/accounts", &Value::Null, &[]).await;
    assert_eq!(error(&refused), (401, 16, "CALLER_UNAUTHENTICATED".into(), vec![]));

    let created = call("POST /v1/accounts", json!({ "username": "alice", "password": PASSWORD })).await;
    let id = created["account"]["user_id"].as_str().unwrap().to_owned();
    for line in [format!("GET /v1/accounts/{id}"), "GET /v1/accounts:find?username=alice".into()] {
        assert_eq!(call(&line, Value::Null).await["account"], created["account"], "{line}");
    }
    let listed = call("GET /v1/accounts?page_size=10", Value::Null).await;
    assert_eq!(listed["accounts"][0], created["account"]);
    let patch = json!({ "roles": ["staff"] });
    let changed = call(&format!("PATCH /v1/accounts/{id}"), patch).await;
    assert_eq!(changed["account"]["roles"], json!(["staff"]), "{changed}");
    call(&format!("POST /v1/accounts/{id}:setPassword"), json!({ "password": PASSWORD })).await;
    call(&format!("POST /v1/accounts/{id}:unlock"), json!({})).await;
    call("POST /v1/accounts:unlock", json!({ "username": "alice" })).await;

    let issued = call("POST /v1/sessions", json!({ "user_id": id, "device": "SSO" })).await;
    let sessions = call(&format!("GET /v1/accounts/{id}/sessions"), Value::Null).await;
    assert_eq!(sessions["sessions"][0]["session_id"], issued["session"]["session_id"]);
    let everyone = call("GET /v1/sessions?everyone=true", Value::Null).await;
    assert_eq!(everyone["sessions"][0]["session_id"], issued["session"]["session_id"]);
    let ended = call(&format!("POST /v1/accounts/{id}/sessions:end"), json!({ "message": "Bye" })).await;
    assert_eq!(ended["ended"], 1);
    let verdict = call("POST /v1/validate", json!({ "token": issued["token"] })).await;
    assert_eq!(verdict["rejection"]["message"], "Bye");

    let caller = call("POST /v1/callers", json!({ "name": "prod/web", "roles": ["validator"] })).await;
    assert!(caller["key"].as_str().unwrap().starts_with("lkc_"));
    assert_eq!(call("GET /v1/callers", Value::Null).await["callers"][0]["name"], "prod/web");
    call("DELETE /v1/callers/prod/web", Value::Null).await;
    call(&format!("DELETE /v1/accounts/{id}"), Value::Null).await;
}
