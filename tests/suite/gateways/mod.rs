//! The interfaces for gateways, and the samples in `deploy/` with real gateways.

mod check;
mod cookies;
mod envoy;
mod forward_auth;
mod nginx;
mod paths;
mod probe;
mod programs;
mod reasons;
mod resource_servers;
mod rest;

use std::net::SocketAddr;

use latchkey::grpc::envoy::{
    config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
        attribute_context::{HttpRequest, Request},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};
use tonic::Status;

use crate::support::{
    client::Client,
    http::{Answer, arrived, get},
};

pub use self::reasons::{REASONS, rejected};

/// Makes a request of Envoy, with joined headers and the extensions of its route.
pub fn check_request(headers: &[(&str, &str)], extensions: &[(&str, &str)]) -> CheckRequest {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    ask_about(HttpRequest { headers: pairs(headers), header_map: None }, pairs(extensions))
}

/// Makes a request of Envoy with `encode_raw_headers`.
fn raw_check_request(headers: &[(&str, &[u8])]) -> CheckRequest {
    let headers = headers.iter().map(|(name, value)| HeaderValue {
        key: (*name).to_owned(),
        value: String::new(),
        raw_value: value.to_vec(),
    });
    let header_map = Some(HeaderMap { headers: headers.collect() });
    ask_about(HttpRequest { header_map, ..Default::default() }, [].into())
}

fn ask_about(http: HttpRequest, extensions: std::collections::HashMap<String, String>) -> CheckRequest {
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: Some(http) }),
            context_extensions: extensions,
        }),
    }
}

async fn check(address: SocketAddr, request: CheckRequest) -> Result<CheckResponse, Status> {
    let mut client = AuthorizationClient::connect(format!("http://{address}")).await.unwrap();
    client.check(request).await.map(tonic::Response::into_inner)
}

/// Returns the answer to a request that must be allowed.
fn allowed(answer: &CheckResponse) -> &OkHttpResponse {
    assert_eq!(answer.status.as_ref().unwrap().code, 0, "{answer:?}");
    match answer.http_response.as_ref().unwrap() {
        HttpResponse::OkResponse(ok) => ok,
        HttpResponse::DeniedResponse(_) => panic!("denied: {answer:?}"),
    }
}

/// Returns the HTTP status and the answer to a request that must be denied.
fn denied(answer: &CheckResponse) -> (i32, &DeniedHttpResponse) {
    assert_ne!(answer.status.as_ref().unwrap().code, 0, "{answer:?}");
    match answer.http_response.as_ref().unwrap() {
        HttpResponse::DeniedResponse(denied) => (denied.status.as_ref().unwrap().code, denied),
        HttpResponse::OkResponse(_) => panic!("allowed: {answer:?}"),
    }
}

/// Returns the headers of an answer, which must all replace existing ones.
fn set(headers: &[HeaderValueOption]) -> Vec<(&str, &str)> {
    let pair = |option: &'_ HeaderValueOption| {
        assert_eq!(option.append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd);
        assert_eq!(option.append, None);
    };
    headers.iter().for_each(pair);
    let headers = headers.iter().map(|option| option.header.as_ref().unwrap());
    headers.map(|header| (header.key.as_str(), header.value.as_str())).collect()
}

/// Returns the value of a header.
fn value_of<'a>(headers: &[(&'a str, &'a str)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Identity headers that a client could forge, in every spelling.
const SPOOFED: [(&str, &[u8]); 9] = [
    ("x-latchkey-user-id", b"root"),
    ("X-Latchkey-User-Id", b"root"),
    ("X-LATCHKEY-ROLES", b"admin"),
    ("x_latchkey_user_id", b"root"),
    ("x-latchkey_roles", b"admin"),
    ("X_Latchkey_Username", b"root"),
    ("x-latchkey-username", b"root"),
    ("x-latchkey-session-id", b"none"),
    ("x-latchkey-slot", b"web"),
];

/// Returns the headers that reached the service and that it could take for an identity.
fn identity(answer: &Answer) -> Vec<(String, String)> {
    let mut found = arrived(answer);
    found.retain(|(name, _)| name.replace('_', "-").starts_with("x-latchkey-"));
    found.sort();
    found
}

async fn get_with_token(
    gateway: SocketAddr,
    path: &str,
    token: Option<&str>,
    more: &[(&str, &[u8])],
) -> Answer {
    let token = token.map(bearer);
    let mut headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_bytes())).collect();
    headers.extend_from_slice(more);
    get(gateway, path, &headers).await
}

/// Logs a user with a role and a name in Unicode in, and checks that a gateway passes this identity on at each of the
/// paths, whatever identity the client claims, and none without a token. Returns the token.
async fn passes_identity(client: &Client, gateway: SocketAddr, paths: &[&str]) -> String {
    let user_id = client.user_with_roles("Jürgen", &["staff"]).await;
    let login = client.login("Jürgen", "phone").await;
    let token = login.token;
    let session_id = login.session.unwrap().session_id;
    let expected = [
        ("x-latchkey-roles", "staff"),
        ("x-latchkey-session-id", &session_id),
        ("x-latchkey-slot", "default"),
        ("x-latchkey-user-id", &user_id),
        ("x-latchkey-username", "J%C3%BCrgen"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    for more in [&[][..], &SPOOFED] {
        for path in paths {
            let answer = get_with_token(gateway, path, Some(&token), more).await;
            assert_eq!(identity(&answer), expected, "{path}");
        }
        for path in ["/home/", "/public/"] {
            assert!(identity(&get_with_token(gateway, path, None, more).await).is_empty(), "{path}");
        }
    }
    let needs_role = get_with_token(gateway, "/admin/", Some(&token), &SPOOFED).await;
    assert_eq!((needs_role.status, needs_role.json()["reason"].as_str()), (403, Some("ROLE_REQUIRED")));
    token
}
