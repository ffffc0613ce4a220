//! `/.well-known/jwks.json`: the public keys as a JSON Web Key Set (RFC 7517).

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use data_encoding::BASE64URL_NOPAD;

use crate::domain::Engine;

/// A short lifetime, so that clients soon learn of a new key.
const CACHE_CONTROL: &str = "public, max-age=60";

/// Returns the key set, or 304 if the client has the current one.
pub(super) fn response(engine: &Engine, request: &HeaderMap) -> Response {
    let Ok(body) = serde_json::to_string(&engine.tokens().jwks()) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let etag = etag(body.as_bytes());
    let headers = [(header::CACHE_CONTROL, CACHE_CONTROL), (header::ETAG, etag.as_str())];
    if has_current(request, &etag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Returns a part of the hash of the body.
fn etag(body: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    format!("\"{}\"", BASE64URL_NOPAD.encode(hash.as_ref().get(..16).unwrap_or_default()))
}

/// Whether `if-none-match` contains the current tag (RFC 9110 section 13.1.2).
fn has_current(request: &HeaderMap, etag: &str) -> bool {
    let lines = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
