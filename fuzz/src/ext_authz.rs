//! The adapter for gateways: `Check` of `envoy.service.auth.v3.Authorization`.
//!
//! The input is a `CheckRequest`. `$TOKEN` in a header stands for the token of a live session.

use std::collections::BTreeSet;

use bytes::Bytes;
use latchkey::grpc::envoy::{
    config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
        attribute_context::{HttpRequest, Request},
        check_response::HttpResponse,
    },
};
use prost::Message as _;

use crate::server::{SERVER, Server, TOKEN, framed};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Sends the request of an input. A request is allowed only for exactly one token, and without identity headers of the
/// client.
pub fn run(data: &[u8]) {
    let server = &*SERVER;
    let Ok(mut request) = CheckRequest::decode(data) else {
        let response = server.call(METHOD, &[], [Bytes::from(framed(data))]);
        assert_ne!(response.code, 0, "a request that does not decode was answered");
        return;
    };
    insert_token(&mut request, &server.token);
    let response = server.call(METHOD, &[], [Bytes::from(framed(&request.encode_to_vec()))]);
    if response.code != 0 {
        assert_ne!(response.code, 13, "a valid request is an internal error");
        return;
    }
    let CheckResponse { status, http_response, dynamic_metadata } =
        CheckResponse::decode(response.message()).expect("the response does not decode");
    let status = status.expect("a response without a status allows the request");
    match http_response.expect("the response is empty") {
        HttpResponse::OkResponse(allowed) => {
            assert_eq!(status.code, 0);
            check_allowed(server, &request, &allowed, dynamic_metadata.is_some());
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(status.code, 0);
            check_denied(server, &denied);
        }
    }
}

fn http(request: &CheckRequest) -> Option<&HttpRequest> {
    request.attributes.as_ref()?.request.as_ref()?.http.as_ref()
}

/// Returns the headers of the client from both fields.
fn headers(request: &HttpRequest) -> impl Iterator<Item = (&str, &[u8])> {
    let raw = request.header_map.iter().flat_map(|map| &map.headers).map(|header| {
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        (header.key.as_str(), value)
    });
    request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).chain(raw)
}

/// Spells a header as services may read it: many do not tell `-` from `_`.
fn normalized(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn check_allowed(server: &Server, request: &CheckRequest, allowed: &OkHttpResponse, has_identity: bool) {
    let http = http(request).expect("a request without HTTP was allowed");
    let named = |name: &str| {
        let values = headers(http).filter(move |(key, _)| key.eq_ignore_ascii_case(name));
        values.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let authorization = named("authorization");
    assert!(authorization.len() <= 1, "more than one `authorization` was allowed");
    let set: Vec<_> = allowed.headers.iter().map(check_set).collect();
    if has_identity {
        let token = server.token.as_bytes();
        let contains = |value: &[u8]| value.windows(token.len()).any(|window| window == token);
        let credentials = [authorization, named("cookie")].concat();
        assert!(credentials.iter().any(|value| contains(value)), "an identity without a token");
        assert!(
            set.iter().any(|(name, value)| *name == server.headers.user_id && *value == server.user_id),
            "the wrong user"
        );
    } else {
        let extensions = request.attributes.as_ref().map(|attributes| &attributes.context_extensions);
        let optional = extensions.and_then(|extensions| extensions.get("optional"));
        assert_eq!(optional.map(String::as_str), Some("true"), "a request without a token was allowed");
        assert!(set.is_empty(), "an identity without a session");
    }

    // Envoy removes headers last, and does not distinguish the case of their names.
    let removed: BTreeSet<_> =
        allowed.headers_to_remove.iter().map(|name| name.to_ascii_lowercase()).collect();
    for (name, _) in &set {
        assert!(!removed.contains(&name.to_ascii_lowercase()), "the header {name} is set and removed");
    }
    let ours: BTreeSet<_> = server.headers.used().map(normalized).collect();
    for (name, _) in headers(http).filter(|(name, _)| ours.contains(&normalized(name))) {
        let name = name.to_ascii_lowercase();
        let is_set = set.iter().any(|(set, _)| set.eq_ignore_ascii_case(&name));
        assert!(is_set || removed.contains(&name), "the header {name} of the client passes");
    }
}

/// Checks a header that is set for the service, and returns its name and its value.
fn check_set(option: &HeaderValueOption) -> (&str, &str) {
    let header = option.header.as_ref().expect("a header has a name");
    assert_eq!(option.append_action, i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd));
    assert!(header.value.bytes().all(|byte| byte.is_ascii_graphic()), "not visible ASCII: {}", header.value);
    (&header.key, &header.value)
}

fn check_denied(server: &Server, denied: &DeniedHttpResponse) {
    let code = denied.status.as_ref().map(|status| status.code);
    assert!(matches!(code, Some(401 | 403)), "a denial with the status {code:?}");
    assert!(!denied.body.is_empty() && !denied.body.contains(&server.token), "{}", denied.body);
    for option in &denied.headers {
        let header = option.header.as_ref().expect("a header has a name");
        let is_visible = header.value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        assert!(is_visible && !header.value.contains(&server.token), "{header:?}");
    }
}

fn insert_token(request: &mut CheckRequest, token: &str) {
    let http = request.attributes.as_mut().and_then(|attributes| attributes.request.as_mut());
    let Some(http) = http.and_then(|request| request.http.as_mut()) else { return };
    for value in http.headers.values_mut() {
        *value = value.replace(TOKEN, token);
    }
    for header in http.header_map.iter_mut().flat_map(|map| &mut map.headers) {
        header.value = header.value.replace(TOKEN, token);
        if let Ok(text) = std::str::from_utf8(&header.raw_value) {
            header.raw_value = text.replace(TOKEN, token).into_bytes();
        }
    }
}

/// Returns the inputs that the kept corpus begins with.
pub fn seeds() -> Vec<Vec<u8>> {
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let request = |headers: &[(&str, &str)], raw: &[(&str, &str)], extensions: &[(&str, &str)]| {
        let raw: Vec<_> = owned(raw)
            .into_iter()
            .map(|(key, value)| HeaderValue { key, value: String::new(), raw_value: value.into_bytes() })
            .collect();
        let header_map = (!raw.is_empty()).then_some(HeaderMap { headers: raw });
        let http = HttpRequest { headers: owned(headers).into_iter().collect(), header_map };
        let attributes = AttributeContext {
            request: Some(Request { http: Some(http) }),
            context_extensions: owned(extensions).into_iter().collect(),
        };
        CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    };
    let bearer = ("authorization", "Bearer $TOKEN");
    let optional = ("optional", "true");
    vec![
        request(&[bearer], &[], &[]),
        request(&[], &[bearer], &[]),
        request(&[bearer], &[bearer], &[]),
        request(&[], &[bearer, bearer], &[optional]),
        request(&[("authorization", "Bearer $TOKEN,Bearer $TOKEN")], &[], &[]),
        request(&[("authorization", "Basic YTpi"), ("cookie", "token=$TOKEN")], &[], &[]),
        request(&[("cookie", "theme=dark; token=$TOKEN; token=\"a.b.c\"")], &[], &[]),
        request(&[], &[("cookie", "token=a"), ("cookie", "token=$TOKEN")], &[("peek", "true")]),
        request(&[], &[], &[optional]),
        request(&[], &[], &[]),
        request(&[bearer, ("x-latchkey-user-id", "root"), ("x_latchkey_roles", "admin")], &[], &[]),
        request(&[("x-latchkey_Roles", "admin"), ("X-Forwarded-For", "10.0.0.1")], &[], &[optional]),
        request(&[], &[bearer, ("x_latchkey_user_id", "root"), ("x-latchkey-slot", "tv")], &[]),
        request(&[bearer], &[], &[("required_role", "staff"), ("required_slot", "default")]),
        request(&[bearer], &[], &[("required_role", "admin")]),
        request(&[bearer], &[], &[("require_role", "admin")]),
        request(&[bearer, ("content-type", "application/grpc+proto")], &[], &[("required_role", "admin")]),
        request(&[("authorization", "bearer"), ("content-type", "application/grpc")], &[], &[]),
        request(&[bearer, ("X-Latchkey-User-Id", "root")], &[("X-LATCHKEY-ROLES", "admin")], &[]),
        request(&[("Authorization", "BEARER  $TOKEN ")], &[], &[]),
        CheckRequest { attributes: None }.encode_to_vec(),
        CheckRequest { attributes: Some(AttributeContext::default()) }.encode_to_vec(),
        vec![0x0a, 0xff],
    ]
}
