//! OAuth 2.0 for resource servers: introspection, revocation and metadata, on the HTTP port.

use std::{net::SocketAddr, time::Duration};

use data_encoding::BASE64;
use latchkey::{
    domain::{metrics::Surface, rejection::Reason},
    grpc::pb,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    gateways::{REASONS, rejected},
    support::{
        client::is_live,
        http::{Answer, exchange, exchange_http2, get},
        process::Process,
        server::{Server, Store},
    },
};

const FORM: (&str, &[u8]) = ("content-type", b"application/x-www-form-urlencoded");
const INTROSPECT: &str = "POST /oauth2/introspect";
const REVOKE: &str = "POST /oauth2/revoke";
const METADATA: &str = "/.well-known/oauth-authorization-server";

async fn post(address: SocketAddr, line: &str, body: &str, headers: &[(&str, &[u8])]) -> Answer {
    let headers = [&[FORM], headers].concat();
    exchange(address, line, &headers, body.as_bytes()).await.unwrap_or_else(|| panic!("no answer to {line}"))
}

/// Introspects a token without a credential.
async fn introspect(server: &Server, token: &str) -> Value {
    let answer = post(server.app.http, INTROSPECT, &format!("token={token}"), &[]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

/// Returns the status and the code of an error, and checks its form.
fn error(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    let body = answer.json();
    assert!(body.get("active").is_none() && body["error_description"].is_string(), "{answer:?}");
    assert_eq!(answer.header("retry-after").is_some(), answer.status == 503, "{answer:?}");
    let challenge = (answer.status == 401).then_some("Basic realm=\"latchkey\"");
    assert_eq!(answer.header("www-authenticate"), challenge, "{answer:?}");
    (answer.status, body["error"].as_str().unwrap().to_owned())
}

fn basic(user: &str, key: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{key}").as_bytes()))
}

async fn create_caller(server: &Server, name: &str, role: &str) -> String {
    let message = pb::CreateCallerRequest { name: name.into(), roles: vec![role.into()] };
    let created = server.client.callers.clone().create_caller(server.client.admin(message)).await;
    created.unwrap().into_inner().key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_session_is_active_with_the_claims_of_its_token() {
    let settings = [("TOKEN__ISSUER", "https://auth.example.com"), ("TOKEN__AUDIENCE", "shop")];
    let server = Server::with(Store::Embedded, &settings).await;
    let user_id = server.client.user_with_roles("Jürgen", &["staff", "orders:read"]).await;
    let login = server.client.login("Jürgen", "Jürgens \"Handy\"").await;
    let active = introspect(&server, &login.token).await;
    let payload = login.token.split('.').nth(1).unwrap();
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    for claim in ["iss", "aud", "sub", "jti", "iat", "nbf", "exp"] {
        assert_eq!(active[claim], claims[claim], "{claim}");
    }
    let session = login.session.unwrap();
    let idle_expires_at = server.client.session(&login.token).await.idle_expires_at.unwrap().seconds;
    assert_eq!((&active["iss"], &active["aud"]), (&json!("https://auth.example.com"), &json!("shop")));
    let expected = json!({
        "active": true,
        "token_type": "Bearer",
        "username": "Jürgen",
        "scope": "orders:read staff",
        "sub": user_id,
        "latchkey_session_id": session.session_id,
        "latchkey_slot": "default",
        "latchkey_device": "Jürgens \"Handy\"",
        "latchkey_roles": ["orders:read", "staff"],
        "latchkey_idle_expires_at": idle_expires_at,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&active[name], value, "{name}");
    }
    assert_eq!(active.as_object().unwrap().len(), expected.as_object().unwrap().len() + 6, "{active}");
    // An empty scope would not be one.
    server.client.user("bob").await;
    let active = introspect(&server, &server.client.login("bob", "").await.token).await;
    assert!(active.get("scope").is_none() && active.get("latchkey_device").is_none(), "{active}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rejection_is_inactive_with_the_reason_of_validate() {
    let settings = [("SESSION__SLOTS", "default,many"), ("SLOT__MANY__LIMIT", "2")];
    let server = Server::with(Store::Redis, &settings).await;
    for reason in REASONS {
        let token = rejected(&server, reason).await;
        let native = server.client.rejection(&token).await;
        let inactive = introspect(&server, &token).await;
        let name = reason.as_str_name().strip_prefix("REJECTION_REASON_").unwrap();
        let mut expected = json!({
            "active": false,
            "latchkey_reason": name,
            "latchkey_message": native.message,
            "latchkey_terminal": native.terminal,
        });
        if let Some(at) = native.at {
            expected["latchkey_at"] = at.seconds.into();
        }
        if !native.by_device.is_empty() {
            expected["latchkey_by_device"] = native.by_device.into();
        }
        assert_eq!(inactive, expected, "{name}");
    }
    for nonsense in ["nonsense", "%ff%fe", "%00", "a+b", &"x".repeat(60_000)] {
        assert_eq!(introspect(&server, nonsense).await["latchkey_reason"], "MALFORMED");
    }
    let verdicts = &server.app.engine.metrics().verdicts;
    assert_eq!(verdicts.get(Surface::Json, Some(Reason::Replaced)), 1);
    assert_eq!(verdicts.get(Surface::Json, Some(Reason::Malformed)), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_503_and_never_a_verdict() {
    let mut server = Server::start(Store::Redis).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "phone").await.token;
    let body = format!("token={token}");
    server.redis.as_mut().unwrap().kill();
    for line in [INTROSPECT, REVOKE] {
        let answer = post(server.app.http, line, &body, &[]).await;
        assert_eq!(error(&answer), (503, "temporarily_unavailable".into()), "{line}: {answer:?}");
        assert_eq!(answer.json()["latchkey_reason"], "STORE_UNAVAILABLE");
    }
    let metrics = get(server.app.http, "/metrics", &[]).await.body;
    assert!(metrics.contains("latchkey_verdict_errors_total{surface=\"json\"} 1\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_and_deadlines_are_503() {
    let settings = [
        ("SESSIONS__RESPONSE_TIMEOUT", "20s"),
        ("SERVER__REQUEST_TIMEOUT", "1s"),
        ("SERVER__MAX_REQUESTS", "2"),
        ("SERVER__CLIENT_SHARE_PERCENT", "100"),
    ];
    let server = Server::with(Store::Redis, &settings).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "phone").await.token;
    server.redis.as_ref().unwrap().pause();
    let body = format!("token={token}");
    let asked = (0..4).map(|_| post(server.app.http, INTROSPECT, &body, &[]));
    let mut reasons = Vec::new();
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(error(&answer), (503, "temporarily_unavailable".into()));
        reasons.push(answer.json()["latchkey_reason"].as_str().unwrap().to_owned());
    }
    reasons.sort();
    server.redis.as_ref().unwrap().resume();
    assert_eq!(reasons, ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "OVERLOADED", "OVERLOADED"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_credential_is_a_caller_key() {
    let server = Server::with(Store::Embedded, &[("ACCESS__VALIDATE", "caller")]).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "phone").await.token;
    let body = format!("token={token}");
    let key = create_caller(&server, "prod/shop", "validator").await;
    let ask = async |headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        post(server.app.http, INTROSPECT, &body, &headers).await
    };
    // OAuth percent-encodes both parts.
    let encoded = utf8_percent_encode(&key, NON_ALPHANUMERIC).to_string();
    assert!(encoded.starts_with("lkc%5F"), "{encoded}");
    for good in [basic("prod/shop", &key), basic("prod%2Fshop", &encoded), basic("", &key)] {
        let answer = ask(&[("authorization", &good)]).await;
        assert_eq!((answer.status, &answer.json()["active"]), (200, &json!(true)), "{good}");
    }
    assert_eq!(ask(&[("x-latchkey-key", &key)]).await.status, 200);
    let good = basic("shop", &key);
    for wrong in [
        &[][..],
        &[("authorization", &*basic("shop", "lkc_unknown"))],
        &[("authorization", &*basic("shop", &key[..46]))],
        &[("authorization", &*basic(&key, ""))],
        &[("authorization", "Basic %%%")],
        &[("authorization", &*format!("Bearer {key}"))],
        &[("authorization", &*format!("Bearer {token}"))],
        &[("x-latchkey-key", "lkc_unknown")],
        &[("x-latchkey-key", &key), ("x-latchkey-key", &key)],
    ] {
        let answer = ask(wrong).await;
        assert_eq!(error(&answer), (401, "invalid_client".into()), "{wrong:?}");
        assert_eq!(answer.json()["latchkey_reason"], "CALLER_UNAUTHENTICATED");
        assert!(!answer.body.contains("alice") && !answer.body.contains(&key), "{answer:?}");
    }
    for twice in [
        [("authorization", &*good), ("authorization", &good)],
        [("authorization", &good), ("x-latchkey-key", &key)],
    ] {
        assert_eq!(error(&ask(&twice).await), (400, "invalid_request".into()), "{twice:?}");
    }
    let issuer = create_caller(&server, "issuer", "issuer").await;
    let answer = ask(&[("authorization", &basic("issuer", &issuer))]).await;
    assert_eq!(error(&answer), (403, "unauthorized_client".into()));
    // The caller is checked before the form.
    assert_eq!(error(&post(server.app.http, INTROSPECT, "nothing", &[]).await).0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_credential_is_an_error_even_where_none_is_needed() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "phone").await.token;
    let key = create_caller(&server, "shop", "issuer").await;
    let (good, wrong) = (basic("shop", &key), basic("shop", "lkc_unknown"));
    let body = format!("token={token}");
    for line in [INTROSPECT, REVOKE] {
        let answer = post(server.app.http, line, &body, &[("authorization", wrong.as_bytes())]).await;
        assert_eq!(error(&answer), (401, "invalid_client".into()), "{line}");
    }
    assert!(is_live(&server.client.validate(&token).await), "nothing was revoked");
    for line in [INTROSPECT, REVOKE] {
        let answer = post(server.app.http, line, &body, &[("authorization", good.as_bytes())]).await;
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
    }
    assert_eq!(introspect(&server, &token).await["latchkey_reason"], "LOGGED_OUT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_introspection_is_a_use_of_the_session_unless_it_peeks() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "phone").await.token;
    let ask = async |line: &str, body: &str| {
        let answer = post(server.app.http, line, &format!("token={token}{body}"), &[]).await;
        let active = answer.json();
        assert_eq!(active["active"], true, "{answer:?}");
        active["latchkey_idle_expires_at"].as_i64().unwrap()
    };
    let before = ask(INTROSPECT, "").await;
    server.clock.advance(Duration::from_mins(30));
    let query = format!("{INTROSPECT}?latchkey_peek=true&latchkey_max_staleness=250ms");
    assert_eq!(ask(INTROSPECT, "&latchkey_peek=true").await, before);
    assert_eq!(ask(&query, "").await, before);
    assert_eq!(ask(INTROSPECT, "&latchkey_peek=false&latchkey_max_staleness=1s").await, before + 1800);
    server.until_recorded().await;
    assert_eq!(ask(&query, "").await, before + 1800);
    server.clock.advance(Duration::from_mins(62));
    assert_eq!(introspect(&server, &token).await["latchkey_reason"], "IDLE_TIMEOUT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_exactly_the_session_of_its_token() {
    let settings = [("SESSION__SLOTS", "web,mobile"), ("ACCESS__VALIDATE", "caller")];
    let server = Server::with(Store::Embedded, &settings).await;
    let key = create_caller(&server, "shop", "validator").await;
    let key: (&str, &[u8]) = ("x-latchkey-key", key.as_bytes());
    server.client.user("alice").await;
    let login = async |slot: &str, device: &str| {
        let request = crate::support::client::login_request("alice", device);
        let request = pb::LoginRequest { slot: slot.into(), ..request };
        server.client.try_login(request).await.unwrap().token
    };
    let reason = async |token: &str| {
        let answer = post(server.app.http, INTROSPECT, &format!("token={token}"), &[key]).await.json();
        answer["latchkey_reason"].as_str().unwrap_or("live").to_owned()
    };
    let revoke = async |token: &str| {
        let body = format!("token={token}&token_type_hint=refresh_token");
        // The possession of the token is enough, as for a logout.
        let answer = post(server.app.http, REVOKE, &body, &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let old = login("web", "old").await;
    let (web, mobile) = (login("web", "laptop").await, login("mobile", "phone").await);
    let stale = revoke(&old).await;
    assert_eq!(
        (&stale["latchkey_ended"], &stale["latchkey_reason"], &stale["latchkey_by_device"]),
        (&json!(0), &json!("REPLACED"), &json!("laptop"))
    );
    assert_eq!(revoke("nonsense").await["latchkey_reason"], "MALFORMED");
    assert_eq!((&*reason(&web).await, &*reason(&mobile).await), ("live", "live"), "nobody was harmed");
    assert_eq!(revoke(&web).await, json!({ "latchkey_ended": 1 }));
    assert_eq!((&*reason(&web).await, &*reason(&mobile).await), ("LOGGED_OUT", "live"));
    assert_eq!(revoke(&web).await["latchkey_reason"], "LOGGED_OUT", "it may be repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_and_wrong_requests_are_errors_that_show_no_secret() {
    let server = Server::with(Store::Embedded, &[("SERVER__BODY_TIMEOUT", "200ms")]).await;
    let http = server.app.http;
    for line in [INTROSPECT, REVOKE] {
        for body in [
            "",
            "token=",
            "token",
            "TOKEN=hunter2",
            "token=hunter2&token=hunter2",
            "token=hunter2&token=other",
            "token=hunter2&latchkey_peak=hunter2",
            "token=hunter2&token_type_hint=a&token_type_hint=a",
            "{\"token\": \"hunter2\"}",
        ] {
            let answer = post(http, line, body, &[]).await;
            assert_eq!(error(&answer), (400, "invalid_request".into()), "{line} {body}");
            assert!(!answer.body.contains("hunter2"), "{answer:?}");
        }
        let answer = post(http, &format!("{line}?token=hunter2"), "", &[]).await;
        assert_eq!(error(&answer), (400, "invalid_request".into()));
        assert!(answer.body.contains("URLs are logged") && !answer.body.contains("hunter2"), "{answer:?}");
        for kinds in [
            &[][..],
            &["text/plain"],
            &["application/json"],
            &["multipart/form-data"],
            &["application/x-www-form-urlencoded; charset=utf-16"],
            &["application/x-www-form-urlencoded", "application/x-www-form-urlencoded"],
        ] {
            let headers: Vec<_> = kinds.iter().map(|kind| ("content-type", kind.as_bytes())).collect();
            let answer = exchange(http, line, &headers, b"token=hunter2").await.unwrap();
            assert_eq!(error(&answer), (415, "invalid_request".into()), "{kinds:?}");
        }
        let utf8 = [("content-type", &b"Application/X-WWW-Form-Urlencoded; charset=\"UTF-8\""[..])];
        assert_eq!(exchange(http, line, &utf8, b"token=x").await.unwrap().status, 200);
        let answer = post(http, line, "token=x", &[("content-encoding", b"br")]).await;
        assert_eq!(error(&answer).0, 415);
        let answer = post(http, line, &format!("token={}", "x".repeat(64 * 1024)), &[]).await;
        assert_eq!(error(&answer), (413, "invalid_request".into()));
        let many = format!("token=x{}", "&a=1".repeat(16_000));
        assert_eq!(post(http, line, &many, &[]).await.status, 200, "unknown parameters are ignored");
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let answer = exchange(http, &line.replace("POST", method), &[FORM], b"token=x").await.unwrap();
            assert_eq!(error(&answer), (405, "invalid_request".into()), "{method}");
            assert_eq!(answer.header("allow"), Some("POST"));
        }
        // A page of any site can send a form, with the credentials that its browser remembers.
        let answer = post(http, line, "token=x", &[("origin", b"https://evil.example")]).await;
        assert_eq!(error(&answer), (403, "invalid_request".into()));
    }
    let mut slow = TcpStream::connect(http).await.unwrap();
    let head = "POST /oauth2/introspect HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 20\r\n\r\ntoken";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = slow.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("temporarily_unavailable"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_the_credential_nor_the_token_is_logged() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("LOG__LEVEL", "debug"), ("ACCESS__VALIDATE", "caller")]);
    let client = process.serving_client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    let (good, wrong) = (basic("shop", &client.admin_key), basic("shop", "lkc_unknown"));
    for line in [INTROSPECT, REVOKE] {
        for (credential, status) in [(&wrong, 401), (&good, 200)] {
            let headers = [("authorization", credential.as_bytes())];
            let answer = post(process.http, line, &format!("token={token}"), &headers).await;
            assert_eq!(answer.status, status, "{line}: {answer:?}");
        }
    }
    let logged = process.output_until("/latchkey.v1.AuthService/Logout");
    for secret in [&token, client.admin_key.trim(), &good[6..], &wrong[6..], "lkc_unknown"] {
        assert!(!logged.contains(secret), "{logged}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_do_not_count() {
    let settings = [
        ("BROWSER__ORIGINS", "https://shop.example"),
        ("BROWSER__SET_COOKIE", "true"),
        ("GATEWAY__COOKIE", "__Host-t"),
    ];
    let server = Server::with(Store::Embedded, &settings).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "phone").await.token;
    let cookie = format!("__Host-t={token}");
    let headers: [(&str, &[u8]); 3] =
        [("cookie", cookie.as_bytes()), ("x-latchkey-cookie", b"true"), ("origin", b"https://shop.example")];
    for line in [INTROSPECT, REVOKE] {
        assert_eq!(error(&post(server.app.http, line, "a=b", &headers).await).0, 400, "{line}");
        let answer = post(server.app.http, line, "token=nonsense", &headers).await;
        assert_eq!(answer.json()["latchkey_reason"], "MALFORMED", "{line}");
        for name in ["set-cookie", "access-control-allow-origin"] {
            assert_eq!(answer.header(name), None, "{line}");
        }
    }
    assert!(is_live(&server.client.validate(&token).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metadata_names_what_exists() {
    let everybody = json!(["client_secret_basic", "none"]);
    for (issuer, http_url, access, paths, base) in [
        ("https://auth.example.com", "", "open", &[METADATA][..], "https://auth.example.com"),
        ("https://a.example/", "http://latchkey:8081/", "caller", &[METADATA], "http://latchkey:8081"),
        (
            "https://example.com/auth",
            "",
            "open",
            &[METADATA, "/.well-known/oauth-authorization-server/auth"],
            "https://example.com/auth",
        ),
    ] {
        let settings =
            [("TOKEN__ISSUER", issuer), ("LISTEN__HTTP_URL", http_url), ("ACCESS__VALIDATE", access)];
        let server = Server::with(Store::Embedded, &settings).await;
        for path in paths {
            let answer = get(server.app.http, path, &[]).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
            let needed = if access == "caller" { json!(["client_secret_basic"]) } else { everybody.clone() };
            let expected = json!({
                "issuer": issuer,
                "jwks_uri": format!("{base}/.well-known/jwks.json"),
                "introspection_endpoint": format!("{base}/oauth2/introspect"),
                "introspection_endpoint_auth_methods_supported": needed,
                "revocation_endpoint": format!("{base}/oauth2/revoke"),
                "revocation_endpoint_auth_methods_supported": everybody,
                "response_types_supported": [],
                "grant_types_supported": [],
            });
            assert_eq!(answer.json(), expected, "{issuer}");
        }
        assert_eq!(get(server.app.http, &format!("{METADATA}/other"), &[]).await.status, 404);
        let answer = exchange(server.app.http, &format!("POST {METADATA}"), &[], b"").await.unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_issuer_with_a_url_the_metadata_has_the_address_of_the_request() {
    let server = Server::start(Store::Embedded).await;
    let answer = get(server.app.http, METADATA, &[]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let document = answer.json();
    assert_eq!(document["issuer"], "http://app.test");
    assert_eq!(document["introspection_endpoint"], "http://app.test/oauth2/introspect");
    assert_eq!(get(server.app.http, METADATA, &[("host", b"other.test")]).await.status, 400, "two hosts");

    let settings = [("LISTEN__HTTP_URL", "http://latchkey:8081")];
    let server = Server::with(Store::Embedded, &settings).await;
    assert_eq!(get(server.app.http, METADATA, &[]).await.json()["issuer"], "http://latchkey:8081");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoints_are_where_json_is() {
    let settings = [("LISTEN__JSON", "false"), ("LISTEN__GRPC_JSON", "true")];
    let server = Server::with(Store::Embedded, &settings).await;
    for line in [INTROSPECT, REVOKE] {
        assert_eq!(post(server.app.http, line, "token=x", &[]).await.status, 404, "{line}");
        let answer = post(server.app.grpc, line, "token=x", &[]).await;
        assert_eq!((answer.status, &answer.json()["latchkey_reason"]), (200, &json!("MALFORMED")));
        let (status, _) = exchange_http2(server.app.grpc, line, &[FORM], b"token=x").await;
        assert_eq!(status, 200, "{line}");
    }
}
