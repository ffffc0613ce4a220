//! In front of axum: who calls cannot be made up, and bodies are left as they are.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::http::{Request, Response, StatusCode};
use axum::{
    Extension, Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use futures_util::stream;
use latchkey_client::{Identity, ValidateOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tower::{Layer as _, Service as _, service_fn};

use super::{PATIENCE, Plain, asks, guard};
use crate::support::{
    http,
    server::{Server, Store},
};

async fn who(caller: Option<Extension<Identity>>) -> String {
    caller.map_or("nobody".into(), |Extension(caller)| caller.username.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_paths_that_are_named_are_open_and_there_nobody_is_anybody() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let guard = guard(server.app.grpc, &server.client).open(["/healthz", "/a/b"]);
    let app = Router::new().fallback(who).layer(guard);
    let plain = Plain::start(app).await;
    let get = async |path: &str| http::get(plain.address, path, &[]).await;
    for path in ["/healthz", "/healthz?x=/who", "/a/b"] {
        assert_eq!(get(path).await.body, "nobody", "{path}");
        assert_eq!(plain.get(path, &token).await.body, "nobody", "{path}: not even with a token");
    }
    for path in
        ["/", "/healthz/", "/healthzz", "/Healthz", "/%68ealthz", "//healthz", "/a/b/c", "/a", "/x?/healthz"]
    {
        assert_eq!(get(path).await.status, 401, "{path}");
        assert_eq!(plain.get(path, &token).await.body, "anna", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_is_there_already_is_not_the_callers() {
    let server = Server::start(Store::Embedded).await;
    for name in ["anna", "root"] {
        server.client.user(name).await;
    }
    let token = server.client.login("anna", "phone").await.token;
    let root = server.client.login("root", "console").await.token;
    let root = asks(server.app.grpc, "").validate(&root, ValidateOptions::default()).await.unwrap();
    let root = root.into_result().unwrap();
    let guard = guard(server.app.grpc, &server.client).open(["/open"]);
    let told = service_fn(async |request: Request<tonic::body::Body>| {
        let caller = Identity::of(request.extensions()).map(|caller| caller.username.to_string());
        let caller = caller.unwrap_or("nobody".into());
        Ok::<_, std::convert::Infallible>(Response::new(tonic::body::Body::new(caller)))
    });
    let mut guarded = guard.layer(told);
    let mut ask = async |path: &str, token: Option<&str>| {
        let mut request = Request::get(path).extension(root.clone());
        for header in ["x-latchkey-username", "x-latchkey-user-id", "x-latchkey-roles"] {
            request = request.header(header, "root");
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let response = guarded.call(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(Body::new(response.into_body()), 10_000).await.unwrap();
        (status, String::from_utf8(body.into()).unwrap())
    };
    assert_eq!(ask("/", Some(&token)).await, (StatusCode::OK, "anna".into()));
    assert_eq!(ask("/open", Some(&token)).await, (StatusCode::OK, "nobody".into()));
    assert_eq!(ask("/open", None).await, (StatusCode::OK, "nobody".into()));
    assert_eq!(ask("/", None).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_left_as_they_are() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let guard = guard(server.app.grpc, &server.client);
    let app = Router::new()
        .route("/echo", post(async |body: Bytes| body))
        .route(
            "/slow",
            post(async |body: Bytes| {
                // Beyond what counts as brief.
                tokio::time::sleep(Duration::from_millis(400)).await;
                body
            }),
        )
        .route("/empty", get(async || StatusCode::NO_CONTENT))
        .layer(guard);
    let plain = Plain::start(app).await;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_bytes())];
    let body = vec![b'x'; 100_000];
    for path in ["/echo", "/slow"] {
        let answer = http::exchange(plain.address, &format!("POST {path}"), &headers, &body).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, body.len()), "{path}");
        assert_eq!(answer.header("content-length"), Some("100000"), "{path}: its length is known");
    }
    assert_eq!(plain.get("/empty", &token).await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_goes_on_is_broken_off_when_the_session_ends() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let app = Router::new()
        .route(
            "/events",
            get(async || {
                Body::from_stream(stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Some((Ok::<_, std::io::Error>("tick\n"), ()))
                }))
            }),
        )
        .layer(guard(server.app.grpc, &server.client));
    let plain = Plain::start(app).await;
    let mut socket = TcpStream::connect(plain.address).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    let begun = tokio::time::Instant::now();
    // It goes on for longer than what is brief.
    while begun.elapsed() < Duration::from_millis(600) {
        assert!(socket.read(&mut buffer).await.unwrap() > 0, "it has ended");
    }
    server.client.login("anna", "tablet").await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.unwrap_or_else(|_| panic!("it goes on"));
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks like a whole answer");
}

/// Records what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_handler_takes_the_caller_and_without_a_guard_answers_500() {
    async fn caller(caller: Identity) -> String {
        caller.username.to_string()
    }
    async fn maybe(caller: Option<Identity>) -> String {
        caller.map_or("nobody".into(), |caller| caller.username.to_string())
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    // The server logs elsewhere: the log of this thread is that of the axum server.
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let guard = guard(server.app.grpc, &server.client).open(["/open", "/mistake"]);
    let app = Router::new()
        .route("/caller", get(caller))
        .route("/maybe", get(maybe))
        .route("/open", get(maybe))
        .route("/mistake", get(caller))
        .layer(guard)
        .route("/forgotten", get(caller));
    let _guard = tracing::subscriber::set_default(subscriber);
    let plain = Plain::start(app).await;
    for (path, body) in [("/caller", "anna"), ("/maybe", "anna"), ("/open", "nobody")] {
        assert_eq!(plain.get(path, &token).await.body, body, "{path}");
    }
    assert_eq!(http::get(plain.address, "/maybe", &[]).await.status, 401, "an option opens nothing");
    for path in ["/forgotten", "/mistake"] {
        let answer = plain.get(path, &token).await;
        assert_eq!((answer.status, answer.header("content-type")), (500, Some("application/json")), "{path}");
        assert_eq!(answer.json()["reason"], "INTERNAL", "{path}");
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("has no Guard layer") && log.contains("/forgotten"), "{log}");
    assert!(
        !log.contains("/mistake") && !log.contains(&token),
        "once in a while, and without secrets: {log}"
    );
}
