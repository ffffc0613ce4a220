//! How many allocations a Validate takes. A binary of its own, because the allocator that counts is there for all of
//! it.
//!
//! Counted is what happens on this thread between the question and the answer: everything that is asked for is in
//! memory, so nothing waits, and no other task has its turn meanwhile.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "suite/support/client.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod client;
#[path = "suite/support/clock.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod clock;
#[path = "../crates/latchkey-bench/src/echo/service.rs"]
mod echo;
#[path = "../crates/latchkey-bench/src/echo/session.rs"]
mod session;

use std::{future::Future, sync::Arc};

use allocation_counter::{AllocationInfo, measure};
use axum::body::{Body, HttpBody};
use client::Client;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use latchkey::{
    admission::Admission,
    app::App,
    config::Config,
    domain::{self, callers::certificates::Certificates},
    gateway::{Gateway, GatewaySettings, HeaderNames},
    grpc::{
        self,
        access::{Access, AccessSettings},
        dispatch::DispatchSettings,
        health::Health,
        origin::Origins,
        pb::{ValidateRequest, ValidateResponse, validate_response::Verdict},
    },
    transport::{connection::Services as _, http2::Begun, peer::Peer},
};
use prost::Message as _;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// The allocations of a unary call that is answered at once, from the request to the answer: the message and the map of
/// its headers.
const AT_ONCE: u64 = 3;

/// The allocations of one that is not, because it needs more, such as decompression.
const CALL: u64 = 11;

/// A call is repeated until it is answered without waiting, as it may have to renew a reading of the epoch.
const ATTEMPTS: usize = 100;

/// Starts a server in this process on the embedded store and returns it with the token of a user.
async fn start(data: &std::path::Path) -> (App, String) {
    let settings = [
        ("DATA_DIR", data.to_str().unwrap()),
        ("LISTEN__GRPC", "127.0.0.1:0"),
        ("LISTEN__HTTP", "127.0.0.1:0"),
        ("PASSWORD__ALLOW_WEAK", "true"),
        ("PASSWORD__MEMORY_KIB", "8"),
        ("PASSWORD__ITERATIONS", "1"),
        // The log level is that of production.
        ("LOG__LEVEL", "info"),
    ];
    let settings = settings.map(|(name, value)| (format!("LATCHKEY_{name}"), value.to_owned()));
    let config = Config::load(None, settings).unwrap();
    let app = App::start(&config, Arc::new(clock::ManualClock::new())).await.unwrap();
    let admin_key = std::fs::read_to_string(data.join("admin.key")).unwrap();
    let client = Client::connect(app.grpc, &admin_key).await;
    client.until_serving().await;
    client.user("user0000").await;
    let token = client.login("user0000", "bench").await.token;
    (app, token)
}

/// Counts the allocations of a call that is answered without waiting.
fn count<T>(runtime: &Runtime, mut ask: impl FnMut() -> T, is_answer: impl Fn(&T) -> bool) -> AllocationInfo {
    for _ in 0..ATTEMPTS {
        // The background tasks of the server run here.
        runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(1)).await });
        let _context = runtime.enter();
        let mut answer = None;
        let info = measure(|| answer = Some(ask()));
        if answer.as_ref().is_some_and(&is_answer) {
            return info;
        }
    }
    panic!("it is never answered at once");
}

/// Makes a unary call without a network.
fn call<B, F>(
    runtime: &Runtime,
    mut serve: impl FnMut(Request<tonic::body::Body>) -> F,
    path: &str,
    token: &str,
) -> AllocationInfo
where
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
    F: Future<Output = Response<B>>,
{
    let message = message(token);
    let mut prepared: Vec<_> =
        (0..ATTEMPTS).map(|_| request(path, tonic::body::Body::new(Body::from(message.clone())))).collect();
    let ask = || {
        let response = serve(prepared.pop().unwrap()).now_or_never()?;
        let mut data = Body::new(response.into_body()).into_data_stream();
        data.next().now_or_never()??.ok()
    };
    count(runtime, ask, |answer| answer.as_ref().is_some_and(is_session))
}

fn message(token: &str) -> bytes::Bytes {
    let message = ValidateRequest { token: token.to_owned(), ..Default::default() }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    bytes::Bytes::from([&[0], length.as_slice(), &message].concat())
}

fn request<B>(path: &str, body: B) -> Request<B> {
    let request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    request.body(body).unwrap()
}

fn is_session(data: &bytes::Bytes) -> bool {
    let answer = ValidateResponse::decode(&data[5..]);
    matches!(answer, Ok(ValidateResponse { verdict: Some(Verdict::Session(_)), .. }))
}

#[test]
fn a_validate_from_memory_takes_no_more_allocations_than_it_did() {
    // With one thread all allocations are counted.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let data = tempfile::tempdir().unwrap();
    let (app, token) = runtime.block_on(start(data.path()));
    let validate = || app.engine.validate(&token, false, None).now_or_never();
    // From here on all data is in memory. One in sixteen uses of a token puts its claims there.
    for _ in 0..1000 {
        let verdict = runtime.block_on(app.engine.validate(&token, false, None)).unwrap();
        assert!(matches!(verdict, domain::validate::Verdict::Live(_)));
    }
    let engine =
        count(&runtime, validate, |answer| matches!(answer, Some(Ok(domain::validate::Verdict::Live(_)))));

    let origins = Origins::new(Vec::new());
    let settings = AccessSettings { validate_needs_role: false, certificates: Certificates::default() };
    let access = Access::new(b"an admin key of a test", settings, Arc::clone(&app.engine), origins.clone());
    let health = runtime.block_on(Health::not_serving());
    let timeout = std::time::Duration::from_secs(10);
    let settings = DispatchSettings { timeout, body_timeout: timeout };
    let shutdown = CancellationToken::new();
    let gateway = GatewaySettings { cookie: None, headers: HeaderNames::default() };
    let gateway = Arc::new(Gateway::new(Arc::clone(&app.engine), gateway));
    let services = grpc::services(&gateway, access, &origins, &health, settings, true, &shutdown).unwrap();
    let address: std::net::SocketAddr = "127.0.0.1:1".parse().unwrap();
    let connection = Admission::new(&[], Vec::new()).connection(address.ip());
    let peer = Peer { address, certificate: None, connection };
    let mut asked = request("/latchkey.v1.AuthService/Validate", ());
    let message = message(&token);
    // From here on the message is shared, as data of the network is.
    let shared = message.clone();
    let mut begin = || match services.begin(&peer, &mut asked, &shared) {
        Begun::Answered(answer) => Some(answer),
        Begun::Waiting(_) | Begun::Unchanged => None,
    };
    // The prepared headers and trailers are made once.
    begin();
    let at_once =
        count(&runtime, begin, |answer| answer.as_ref().is_some_and(|answer| is_session(&answer.data)));
    let ours =
        call(&runtime, |request| services.serve(&peer, request), "/latchkey.v1.AuthService/Validate", &token);
    let mut echo = echo::Echo { session: session::session(0) };
    let answer = |request| echo.call(request).map(Result::unwrap);
    let echo = call(&runtime, answer, "/latchkey.bench.Echo/Validate", &token);

    let shown =
        |info: &AllocationInfo| format!("{} allocations, {} bytes", info.count_total, info.bytes_total);
    println!("Engine::validate: {}", shown(&engine));
    println!("a call of Validate that is answered at once: {}", shown(&at_once));
    println!("another call of Validate: {}; of the bare echo: {}", shown(&ours), shown(&echo));
    // The counter works.
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new(1)))).count_total, 1);
    assert!(echo.count_total > 5, "{echo:?}");
    assert_eq!(engine.count_total, 0, "Engine::validate of what is in memory: {}", shown(&engine));
    assert!(at_once.count_total <= AT_ONCE, "a call that is answered at once: {}", shown(&at_once));
    assert!(ours.count_total <= CALL, "a call: {}", shown(&ours));
    let (ours, echo) = (ours.count_total, echo.count_total);
    assert!(ours < echo, "a bare service of the library takes {echo}, a call {ours}");
    runtime.block_on(app.stop());
}
