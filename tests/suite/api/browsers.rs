//! gRPC-Web and CORS, for the page origins in the settings.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use latchkey::grpc::pb::{
    self, RejectionReason, auth_service_client::AuthServiceClient, validate_response::Verdict,
    watch_session_response::Verdict as Watched,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use tonic_web::{GrpcWebCall, GrpcWebClientLayer, GrpcWebClientService};
use tower::Layer as _;

use super::parts;
use crate::support::{
    client::login_request,
    http::{Answer, exchange},
    server::{Server, Store},
};

pub const SITE: &str = "https://app.example.com";

async fn server() -> Server {
    Server::with(Store::Embedded, &[("BROWSER__ORIGINS", "https://app.example.com,http://localhost:5173")])
        .await
}

pub type Web =
    AuthServiceClient<GrpcWebClientService<HttpClient<HttpConnector, GrpcWebCall<tonic::body::Body>>>>;

/// A client that speaks gRPC-Web, over HTTP/1.1 or HTTP/2.
pub fn web(address: SocketAddr, http2: bool) -> Web {
    let client = HttpClient::builder(TokioExecutor::new()).http2_only(http2).build_http();
    let service = GrpcWebClientLayer::new().layer(client);
    AuthServiceClient::with_origin(service, format!("http://{address}").parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_call_works_with_grpc_web_over_http_1_and_http_2() {
    let server = server().await;
    server.client.user("alice").await;
    for http2 in [false, true] {
        let mut web = web(server.app.grpc, http2);
        let login = web.login(login_request("alice", "Firefox")).await.unwrap().into_inner();
        let validate = pb::ValidateRequest { token: login.token.clone(), ..Default::default() };
        let verdict = web.validate(validate.clone()).await.unwrap().into_inner().verdict.unwrap();
        assert!(matches!(verdict, Verdict::Session(session) if session.device == "Firefox"));

        // A watch begins with the session and ends with the rejection.
        let watch = pb::WatchSessionRequest { token: login.token };
        let mut stream = web.watch_session(watch).await.unwrap().into_inner();
        assert!(matches!(stream.message().await.unwrap().unwrap().verdict, Some(Watched::Session(_))));
        server.client.login("alice", "phone").await;
        let Some(Watched::Rejection(end)) = stream.message().await.unwrap().unwrap().verdict else {
            panic!()
        };
        assert_eq!((end.reason(), end.by_device.as_str()), (RejectionReason::Replaced, "phone"));

        let verdict = web.validate(validate).await.unwrap().into_inner().verdict.unwrap();
        assert!(matches!(verdict, Verdict::Rejection(rejection) if rejection.terminal));
        // The details of a status arrive too.
        let wrong = pb::LoginRequest { password: "wrong".into(), ..login_request("alice", "") };
        let status = web.login(wrong).await.unwrap_err();
        assert_eq!(parts(&status), (Code::Unauthenticated, "INVALID_CREDENTIALS".into(), vec![]));
    }
}

/// Sends a preflight or a call of `GetJwks` from a page origin.
async fn from_site(address: SocketAddr, preflight: bool, origins: &[&str]) -> Answer {
    let mut headers: Vec<_> = origins.iter().map(|origin| ("origin", origin.as_bytes())).collect();
    if preflight {
        headers.push(("access-control-request-method", b"POST"));
        headers.push(("access-control-request-headers", b"authorization,content-type,x-grpc-web"));
        return exchange(address, "OPTIONS /latchkey.v1.AuthService/GetJwks", &headers, b"").await.unwrap();
    }
    headers.push(("content-type", b"application/grpc-web+proto"));
    exchange(address, "POST /latchkey.v1.AuthService/GetJwks", &headers, &[0; 5]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_configured_origins_may_call() {
    let server = server().await;
    let address = server.app.grpc;
    for site in [SITE, "http://localhost:5173"] {
        let preflight = from_site(address, true, &[site]).await;
        assert_eq!(preflight.status, 204, "{preflight:?}");
        assert_eq!(preflight.header("access-control-allow-origin"), Some(site));
        assert_eq!(preflight.header("access-control-allow-methods"), Some("POST"));
        let allowed = preflight.header("access-control-allow-headers").unwrap();
        assert!(allowed.contains("authorization") && allowed.contains("x-grpc-web"), "{allowed}");
        assert!(!allowed.contains("x-latchkey-key"), "keys of callers are not for browsers");
        assert_eq!(preflight.header("access-control-allow-credentials"), None);

        let answer = from_site(address, false, &[site]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(site));
        assert_eq!(answer.header("vary"), Some("origin"));
        assert_eq!(answer.header("content-type"), Some("application/grpc-web+proto"));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("grpc-status") && exposed.contains("grpc-message"), "{exposed}");
    }
    for origins in [
        &["https://evil.example"][..],
        &["https://app.example.com.evil.example"],
        &["http://app.example.com"],
        &["https://app.example.com:8443"],
        &["HTTPS://app.example.com"],
        &["null"],
        &["*"],
        &[""],
        &[SITE, SITE],
    ] {
        for preflight in [true, false] {
            let answer = from_site(address, preflight, origins).await;
            assert_eq!(answer.status, 403, "{origins:?}: {answer:?}");
            assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control")), "{answer:?}");
        }
    }
    // A request without an origin comes from no page, such as from a server that uses gRPC-Web.
    assert_eq!(from_site(address, false, &[]).await.status, 200);
    assert_eq!(from_site(address, true, &[]).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_configured_origins_there_is_neither_grpc_web_nor_http_1() {
    let server = Server::start(Store::Embedded).await;
    let headers: [(&str, &[u8]); 1] = [("content-type", b"application/grpc-web+proto")];
    let line = "POST /latchkey.v1.AuthService/GetJwks";
    let answer = exchange(server.app.grpc, line, &headers, &[0; 5]).await.unwrap();
    assert!(answer.status == 400 && answer.header("grpc-status").is_none(), "{answer:?}");
    // A preflight fails, and no origin is allowed.
    let client = HttpClient::builder(TokioExecutor::new()).http2_only(true).build_http();
    let preflight =
        http::Request::options(format!("http://{}/latchkey.v1.AuthService/GetJwks", server.app.grpc))
            .header("origin", SITE)
            .header("access-control-request-method", "POST")
            .body(tonic::body::Body::empty())
            .unwrap();
    let answer = client.request(preflight).await.unwrap();
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("access-control")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_serves_only_grpc_web_under_the_same_rules() {
    let server = server().await;
    let address = server.app.grpc;
    let path = "/latchkey.v1.AuthService/GetJwks";
    let web: (&str, &[u8]) = ("content-type", b"application/grpc-web+proto");
    let status = async |line: &str, headers: &[(&str, &[u8])]| {
        exchange(address, line, headers, &[0; 5]).await.unwrap().status
    };
    assert_eq!(status(&format!("POST {path}"), &[web]).await, 200);
    assert_eq!(status(&format!("GET {path}"), &[web]).await, 405);
    assert_eq!(status("GET /", &[]).await, 400);
    assert_eq!(status(&format!("POST {path}"), &[("content-type", b"application/grpc")]).await, 400);
    let long = vec![b'x'; 20 * 1024];
    assert_eq!(status(&format!("POST {path}"), &[web, ("x-long", &long)]).await, 431);

    // Caller roles and the message limit apply.
    let accounts = "POST /latchkey.v1.AccountService/ListAccounts";
    let answer = exchange(address, accounts, &[web], &[0; 5]).await.unwrap();
    assert_eq!(answer.header("grpc-status"), Some("16"), "{answer:?}");
    let mut large = vec![0, 0, 1, 0, 1];
    large.resize(64 * 1024 + 6, b'x');
    let answer = exchange(address, "POST /latchkey.v1.AuthService/Validate", &[web], &large).await.unwrap();
    assert_eq!(answer.header("grpc-status"), Some("3"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_http_1_connections_are_closed() {
    let server = server().await;
    let quiet = async |begun: &[u8]| {
        let mut socket = TcpStream::connect(server.app.grpc).await.unwrap();
        socket.write_all(begun).await.unwrap();
        let started = Instant::now();
        let closed = timeout(Duration::from_secs(15), socket.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "still open after {:?}", started.elapsed());
    };
    tokio::join!(
        quiet(b""),
        quiet(b"P"),
        quiet(b"PRI * HTTP/2.0\r\n\r\n"),
        quiet(b"POST /latchkey.v1.AuthService/GetJwks HTTP/1.1\r\nhost: x\r\n"),
        // The time-out also applies after an answer.
        quiet(b"OPTIONS / HTTP/1.1\r\nhost: x\r\n\r\n"),
    );
    // Active clients are served meanwhile, within the usual deadline.
    web(server.app.grpc, false).get_jwks(pb::GetJwksRequest {}).await.unwrap();
}
