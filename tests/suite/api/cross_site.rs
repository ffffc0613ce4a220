//! Requests that a page of another site can make a browser send: they reach no method of the gRPC port, and the page
//! cannot read answers of the HTTP port.

use latchkey::grpc::pb;
use prost_reflect::DescriptorPool;
use tonic_reflection::pb::{v1, v1alpha};

use super::browsers::SITE;
use crate::support::{
    client::login_request,
    http::{exchange, exchange_http2, get},
    server::{Server, Store},
};

/// Content types that a form or a script can send without a preflight, and none.
const SAFELISTED: [&str; 6] = [
    "text/plain",
    "text/plain;charset=UTF-8",
    "text/plain; application/grpc",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
];
const BROWSERS: [&[(&str, &str)]; 2] = [&[], &[("BROWSER__ORIGINS", SITE)]];

/// Adds the gRPC frame header to a message.
fn framed(message: &impl prost::Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
}

/// Returns the full path of every method.
fn methods() -> Vec<String> {
    let mut pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    for more in [tonic_health::pb::FILE_DESCRIPTOR_SET, v1::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET]
    {
        pool.decode_file_descriptor_set(more).unwrap();
    }
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_method_accepts_a_content_type_that_needs_no_preflight() {
    for settings in BROWSERS {
        let server = Server::with(Store::Embedded, settings).await;
        server.client.user("alice").await;
        let token = server.client.login("alice", "phone").await.token;
        let body = framed(&login_request("alice", "a page of another site"));
        for path in methods() {
            for kind in SAFELISTED {
                let kind: &[(&str, &[u8])] = match kind {
                    "" => &[],
                    kind => &[("content-type", kind.as_bytes())],
                };
                for line in [format!("POST {path}"), format!("GET {path}")] {
                    let (status, headers) = exchange_http2(server.app.grpc, &line, kind, &body).await;
                    assert_eq!(status, 415, "{line} {kind:?}");
                    assert!(!headers.contains_key("grpc-status"));
                }
            }
        }
        assert_eq!(server.client.session(&token).await.device, "phone", "nobody has logged in");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_reaches_no_method_whatever_it_sends() {
    for settings in BROWSERS {
        let server = Server::with(Store::Embedded, settings).await;
        server.client.user("alice").await;
        let token = server.client.login("alice", "phone").await.token;
        let body = framed(&login_request("alice", "a page of another site"));
        for path in methods() {
            for origins in [&["https://evil.example"][..], &["null"], &[""], &[SITE, SITE]] {
                for kind in ["application/grpc", "application/grpc-web+proto", "text/plain"] {
                    let mut headers = vec![("content-type", kind.as_bytes())];
                    headers.extend(origins.iter().map(|origin| ("origin", origin.as_bytes())));
                    let line = format!("POST {path}");
                    let (status, answer) = exchange_http2(server.app.grpc, &line, &headers, &body).await;
                    assert_eq!(status, 403, "{line} {headers:?}");
                    assert!(answer.keys().all(|name| !name.as_str().starts_with("access-control")));
                }
            }
        }
        assert_eq!(server.client.session(&token).await.device, "phone", "nobody has logged in");
        // A configured origin may call.
        let headers: [(&str, &[u8]); 2] =
            [("content-type", b"application/grpc"), ("origin", SITE.as_bytes())];
        let line = "POST /latchkey.v1.AuthService/GetJwks";
        let (status, _) = exchange_http2(server.app.grpc, line, &headers, &[0; 5]).await;
        assert_eq!(status, if settings.is_empty() { 403 } else { 200 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_requests_fail_over_http_1() {
    let server = Server::with(Store::Embedded, BROWSERS[1]).await;
    let line = "POST /latchkey.v1.AuthService/GetJwks";
    for kind in SAFELISTED.into_iter().filter(|kind| !kind.is_empty()) {
        let headers: [(&str, &[u8]); 1] = [("content-type", kind.as_bytes())];
        let answer = exchange(server.app.grpc, line, &headers, &[0; 5]).await.unwrap();
        assert_eq!(answer.status, 415, "{kind}");
        assert!(answer.body.contains("application/grpc"), "it says what is right: {answer:?}");
    }
    let headers: [(&str, &[u8]); 2] =
        [("content-type", b"application/grpc-web+proto"), ("origin", b"https://evil.example")];
    let answer = exchange(server.app.grpc, line, &headers, &[0; 5]).await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("browser.origins"), "it says where sites are named: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_cannot_read_answers_of_the_http_port() {
    for settings in BROWSERS {
        let server = Server::with(Store::Embedded, settings).await;
        for path in ["/livez", "/readyz", "/metrics", "/.well-known/jwks.json", "/forward-auth", "/"] {
            for origin in [SITE, "https://evil.example"] {
                let answer = get(server.app.http, path, &[("origin", origin.as_bytes())]).await;
                let allows = answer.headers.iter().any(|(name, _)| name.starts_with("access-control"));
                assert!(!allows, "{path}: {answer:?}");
            }
        }
    }
}
