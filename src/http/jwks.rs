//! `/.well-known/jwks.json`: the public keys, RFC 7517.

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use data_encoding::BASE64URL_NOPAD;

use crate::domain::Engine;

/// Short, so that a new key is known soon after it was added.
const CACHE_CONTROL: &str = "public, max-age=60";

/// The keys, or that they are still those that the client has.
pub(super) fn answer(engine: &Engine, request: &HeaderMap) -> Response {
    let Ok(body) = serde_json::to_string(&engine.tokens().jwks()) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let tag = tag(body.as_bytes());
    let headers = [(header::CACHE_CONTROL, CACHE_CONTROL), (header::ETAG, tag.as_str())];
    if is_known(request, &tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Names what the body says: a part of its hash.
fn tag(body: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    format!("\"{}\"", BASE64URL_NOPAD.encode(hash.as_ref().get(..16).unwrap_or_default()))
}

/// Whether the client has it (RFC 9110 section 13.1.2).
fn is_known(request: &HeaderMap, tag: &str) -> bool {
    let lines = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}
