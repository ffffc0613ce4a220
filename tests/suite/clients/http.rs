//! The player for HTTP servers. A denial must be that of `/forward-auth` of the same Latchkey for the same request.
//!
//! A sample serves `GET /greet`, which is guarded and answers with a greeting and the identity of the caller, and
//! `GET /begun`, which is open and answers `{"count": N}`: how many handlers of `/greet` have begun.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use latchkey::grpc::pb::{self, validate_response::Verdict};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    play::Player,
    sample::{PATIENCE as ANSWER_LIMIT, Sample},
    scenario::{Expect, Guard, Step},
    stage::{self, PATIENCE, Stage},
};
use crate::support::http::{Answer, get};

/// The headers of a denial besides `content-type`.
const DENIAL_HEADERS: [&str; 4] = ["x-latchkey-reason", "www-authenticate", "cache-control", "retry-after"];

/// Requests that some framework or server could take for `GET /greet`, or for a path that is open.
const DETOURS: [(&str, &str); 14] = [
    ("HEAD", "/greet"),
    ("OPTIONS", "/greet"),
    ("POST", "/greet"),
    ("GET", "/greet/"),
    ("GET", "//greet"),
    ("GET", "/./greet"),
    ("GET", "/begun/../greet"),
    ("GET", "/begun/..;/greet"),
    ("GET", "/begun/%2e%2e/greet"),
    ("GET", "/%67reet"),
    ("GET", "/Greet"),
    ("GET", "/greet;/begun"),
    ("GET", "/greet?/begun"),
    ("GET", "/greet%3f/begun"),
];

pub struct Http {
    client: Client<HttpConnector, Body>,
    samples: BTreeMap<Guard, Sample>,
}

impl Player for Http {
    const HAS_STREAMS: bool = false;

    async fn start(stage: &Stage, command: &str) -> Self {
        // Servers close idle connections at any time, and a request on such a connection fails.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Self { client, samples: stage.samples(command).await }
    }

    async fn call(
        &mut self,
        stage: &Stage,
        guard: Guard,
        authorization: &[String],
        expect: &Expect,
    ) -> usize {
        let address = self.samples[&guard].address;
        let values = stage.filled_in(authorization);
        if expect.eventually {
            self.until_let_in(address, &values).await;
        }

        let (before, begun) = (self.begun(address).await, Instant::now());
        let answer = self.greet(address, &values).await;
        expect.in_time(begun.elapsed(), authorization);
        let reached = self.begun(address).await - before;
        let context = format!("{guard:?} with {authorization:?}: {answer:?}");
        assert_eq!(reached, u64::from(expect.code == "OK"), "handlers that began: {context}");

        if expect.code == "OK" {
            let Some(token) = stage::bearer(&values) else { panic!("{context}") };
            let Verdict::Session(session) = stage.verdict(token).await else { panic!("{context}") };
            assert_eq!(answer.status, 200, "{context}");
            assert_eq!(answer.json(), greeting(&session), "{context}");
        } else {
            denied(&answer, expect, &context);
        }
        // During an outage forward-auth does not answer, either.
        if expect.is_verdict() && stage.is_up().await {
            let wanted = forward_auth(stage, guard, &values).await;
            agrees(&answer, &wanted, &context);
        }
        1
    }

    async fn streams(&mut self, _: &Stage, step: &Step) -> usize {
        unreachable!("{step:?} has no meaning over HTTP")
    }

    async fn end(self) {
        let address = self.samples[&Guard::Usual].address;
        let before = self.begun(address).await;
        for (method, path) in DETOURS {
            let answer = self.send(address, method, path, &[]).await;
            assert_eq!(self.begun(address).await, before, "{method} {path} reached a handler: {answer:?}");
        }
        for sample in self.samples.into_values() {
            sample.stop();
        }
    }
}

impl Http {
    async fn greet(&self, address: SocketAddr, authorization: &[String]) -> Answer {
        self.send(address, "GET", "/greet", authorization).await
    }

    /// Calls until the guard lets the call through. Until then only 503 is allowed.
    async fn until_let_in(&self, address: SocketAddr, authorization: &[String]) {
        let begun = Instant::now();
        loop {
            let answer = self.greet(address, authorization).await;
            if answer.status == 200 {
                return;
            }
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(begun.elapsed() < PATIENCE, "it does not come back: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns how many handlers of `/greet` have begun.
    async fn begun(&self, address: SocketAddr) -> u64 {
        let answer = self.send(address, "GET", "/begun", &[]).await;
        assert_eq!(answer.status, 200, "/begun must be open: {answer:?}");
        answer.json()["count"].as_u64().unwrap_or_else(|| panic!("no count: {answer:?}"))
    }

    async fn send(&self, address: SocketAddr, method: &str, path: &str, authorization: &[String]) -> Answer {
        let mut request = http::Request::builder().method(method).uri(format!("http://{address}{path}"));
        for value in authorization {
            request = request.header("authorization", value);
        }
        let exchange = async {
            let (head, body) =
                self.client.request(request.body(Body::empty()).unwrap()).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let headers = head.headers.iter().map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            });
            Answer {
                status: head.status.as_u16(),
                headers: headers.collect(),
                body: String::from_utf8_lossy(&body).into_owned(),
            }
        };
        timeout(ANSWER_LIMIT, exchange).await.unwrap_or_else(|_| panic!("{method} {path} is not answered"))
    }
}

/// Returns what the handler answers to the caller with this session.
fn greeting(session: &pb::Session) -> Value {
    json!({
        "text": format!("Hello, {}", session.username),
        "identity": {
            "user_id": session.user_id,
            "username": session.username,
            "session_id": session.session_id,
            "slot": session.slot,
            "device": session.device,
            "roles": session.roles,
            "issued_at_unix": session.issued_at.unwrap().seconds,
            "expires_at_unix": session.expires_at.unwrap().seconds,
        },
    })
}

/// Asks Latchkey itself, with the requirements of the guard and without using the session.
async fn forward_auth(stage: &Stage, guard: Guard, authorization: &[String]) -> Answer {
    let query = match guard {
        Guard::Usual | Guard::WrongKey => "",
        Guard::NeedsAdmin => "&required_role=admin",
        Guard::NeedsPair => "&required_slot=pair",
    };
    let mut headers = vec![("x-latchkey-key", stage.client.admin_key.as_bytes())];
    headers.extend(authorization.iter().map(|value| ("authorization", value.as_bytes())));
    get(stage.latchkey.http, &format!("/forward-auth?peek=true{query}"), &headers).await
}

/// Checks that a guard and Latchkey answer alike.
fn agrees(answer: &Answer, wanted: &Answer, context: &str) {
    assert_eq!(answer.status, wanted.status, "{context}");
    if answer.status == 200 {
        return;
    }
    for header in ["content-type"].iter().chain(&DENIAL_HEADERS) {
        assert_eq!(answer.header(header), wanted.header(header), "{header}: {context}");
    }
    assert_eq!(answer.json(), wanted.json(), "{context}");
}

/// Checks a denial against the scenario.
fn denied(answer: &Answer, expect: &Expect, context: &str) {
    let reason = expect.reason.as_deref().unwrap();
    let status = match expect.code.as_str() {
        "UNAUTHENTICATED" => 401,
        "PERMISSION_DENIED" => 403,
        "UNAVAILABLE" => 503,
        other => panic!("there is no status for {other}"),
    };
    assert_eq!(answer.status, status, "{context}");
    let headers = DENIAL_HEADERS.map(|name| answer.header(name));
    let [told_reason, challenge, cache_control, retry_after] = headers;
    assert_eq!(cache_control, Some("no-store"), "{context}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{context}");
    let body = answer.json();
    if status == 503 {
        // An outage says nothing about the token.
        assert_eq!((told_reason, challenge, retry_after), (None, None, Some("1")), "{context}");
        let message = "the session cannot be checked at the moment: try again";
        assert_eq!(body, json!({ "reason": reason, "message": message }), "{context}");
        return;
    }
    assert_eq!((told_reason, retry_after), (Some(reason), None), "{context}");
    assert_eq!(challenge.is_none(), reason == "ACCOUNT_DISABLED", "{context}");
    assert_eq!(body["reason"], reason, "{context}");
    assert_eq!(body["terminal"].as_bool(), expect.terminal, "{context}");
    assert_eq!(body.get("by_device").and_then(Value::as_str), expect.by_device.as_deref(), "{context}");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "{context}");
    assert!(expect.message.as_deref().is_none_or(|wanted| message == wanted), "{context}");
}
