//! Every RPC, reason and status, on a server in this process and on both stores.

mod access;
mod account;
mod browsers;
mod callers;
mod change_password;
mod compression;
mod cookie_scopes;
mod cookies;
mod cross_site;
mod databases;
mod end_sessions;
mod everyone;
mod health;
mod idempotency;
mod import;
mod issue_session;
mod json;
mod json_pages;
mod json_port;
mod jwks;
mod kick_war;
mod limits;
mod list_sessions;
mod login;
mod logout;
mod oauth;
mod overload;
mod panics;
mod passwords;
mod races;
mod rollback;
mod staleness;
mod throttle;
mod touches;
mod validate;
mod validate_stream;
mod watch_session;
mod watch_sessions;

use latchkey::grpc::pb;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Returns the code, the reason of the `ErrorInfo` and the fields of the `BadRequest` of a status.
fn parts(status: &Status) -> (Code, String, Vec<String>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "latchkey");
    let fields = details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|violation| violation.field.clone()).collect())
        .unwrap_or_default();
    (status.code(), info.reason.clone(), fields)
}

/// Asserts that a status is `INVALID_ARGUMENT` for exactly this field.
fn assert_invalid(status: &Status, field: &str) {
    let (code, reason, fields) = parts(status);
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID_REQUEST"), "{status:?}");
    assert_eq!(fields, [field], "{status:?}");
    assert!(status.message().starts_with(field), "the message names the field: {}", status.message());
}

/// Decodes the `n`th part of a token as JSON.
fn part(token: &str, n: usize) -> serde_json::Value {
    let part = token.split('.').nth(n).unwrap();
    serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
}

/// Converts a timestamp to seconds.
fn seconds(timestamp: Option<prost_types::Timestamp>) -> i64 {
    timestamp.unwrap().seconds
}

/// Ends every session of a user by disabling the account.
fn disable(user_id: &str) -> pb::UpdateAccountRequest {
    pb::UpdateAccountRequest { user_id: user_id.into(), disabled: Some(true), ..Default::default() }
}
