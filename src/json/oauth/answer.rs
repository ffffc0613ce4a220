//! The bodies of responses, and errors in the form of OAuth 2.0 (RFC 6749 section 5.2).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use prost::Message as _;
use serde::Serialize;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;

use super::{OAuthSettings, unencodable};
use crate::{
    grpc::pb::{self, validate_response::Verdict},
    json::{
        error::retry_after,
        headers::{self, Encoding},
    },
};

/// Names the scheme of the credential, because the client may have chosen another one.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"latchkey\"");
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A live session (RFC 7662 section 2.2). There is no `client_id`: sessions belong to users, whatever client they use.
#[derive(Serialize)]
struct Live<'a> {
    active: bool,
    token_type: &'static str,
    iss: &'a str,
    aud: &'a str,
    sub: String,
    username: String,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    latchkey_session_id: String,
    latchkey_slot: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    latchkey_device: String,
    latchkey_roles: Vec<String>,
    latchkey_idle_expires_at: i64,
}

/// A token that is not good. RFC 7662 allows further members, and leaves to the server what it tells its clients.
#[derive(Serialize)]
struct Inactive {
    active: bool,
    #[serde(flatten)]
    rejection: Rejection,
}

#[derive(Serialize)]
struct Rejection {
    #[serde(rename = "latchkey_reason")]
    reason: String,
    #[serde(rename = "latchkey_message")]
    message: String,
    #[serde(rename = "latchkey_terminal")]
    is_terminal: bool,
    #[serde(rename = "latchkey_at", skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    #[serde(rename = "latchkey_by_device", skip_serializing_if = "String::is_empty")]
    by_device: String,
}

impl From<pb::Rejection> for Rejection {
    fn from(rejection: pb::Rejection) -> Self {
        let name = rejection.reason().as_str_name();
        Self {
            reason: name.strip_prefix("REJECTION_REASON_").unwrap_or(name).to_owned(),
            message: rejection.message,
            is_terminal: rejection.terminal,
            at: rejection.at.map(|at| at.seconds),
            by_device: rejection.by_device,
        }
    }
}

/// A revocation. RFC 7009 has clients ignore the body, so it can say what happened.
#[derive(Serialize)]
struct Revocation {
    #[serde(rename = "latchkey_ended")]
    ended: u32,
    #[serde(flatten)]
    rejection: Option<Rejection>,
}

/// Returns the answer to an introspection.
pub(super) fn introspection(message: Bytes, settings: &OAuthSettings) -> Result<Bytes, Status> {
    let answer =
        pb::ValidateResponse::decode(message).map_err(|error| Status::internal(error.to_string()))?;
    match answer.verdict {
        Some(Verdict::Session(session)) => encoded(&live(session, settings)),
        Some(Verdict::Rejection(rejection)) => {
            encoded(&Inactive { active: false, rejection: rejection.into() })
        }
        None => Err(Status::internal("a verdict is missing")),
    }
}

fn live(session: pb::Session, settings: &OAuthSettings) -> Live<'_> {
    let seconds = |time: Option<prost_types::Timestamp>| time.unwrap_or_default().seconds;
    Live {
        active: true,
        token_type: "Bearer",
        iss: &settings.issuer,
        aud: &settings.audience,
        sub: session.user_id,
        username: session.username,
        jti: session.session_id.clone(),
        iat: seconds(session.issued_at),
        nbf: seconds(session.issued_at),
        exp: seconds(session.expires_at),
        // Every role has the form of a scope, which `domain::types` tests.
        scope: session.roles.join(" "),
        latchkey_session_id: session.session_id,
        latchkey_slot: session.slot,
        latchkey_device: session.device,
        latchkey_roles: session.roles,
        latchkey_idle_expires_at: seconds(session.idle_expires_at),
    }
}

/// Returns the answer to a revocation.
pub(super) fn revocation(message: Bytes) -> Result<Bytes, Status> {
    let answer = pb::LogoutResponse::decode(message).map_err(|error| Status::internal(error.to_string()))?;
    encoded(&Revocation { ended: answer.ended, rejection: answer.rejection.map(Into::into) })
}

fn encoded(body: &impl Serialize) -> Result<Bytes, Status> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| unencodable(&error))
}

#[derive(Serialize)]
struct OAuthError<'a> {
    error: &'static str,
    #[serde(rename = "error_description")]
    description: String,
    #[serde(rename = "latchkey_reason", skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

/// Returns the response with a status.
///
/// A request that was not answered is 503 with `retry-after`, whatever the reason: it must not look like a verdict, nor
/// like a mistake of the client.
pub(in crate::json) fn error(status: &Status) -> Response<Body> {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
    let (code, name) = match (status.code(), reason) {
        (Code::Unauthenticated, _) => (StatusCode::UNAUTHORIZED, "invalid_client"),
        (Code::PermissionDenied, "CALLER_NOT_ALLOWED") => (StatusCode::FORBIDDEN, "unauthorized_client"),
        (Code::PermissionDenied, _) => (StatusCode::FORBIDDEN, "invalid_request"),
        (Code::ResourceExhausted, "INVALID_REQUEST") => (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request"),
        (Code::InvalidArgument, _) => (StatusCode::BAD_REQUEST, "invalid_request"),
        (Code::Unimplemented, _) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request"),
        (Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Cancelled, _) => {
            (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    };
    let message = match code {
        // The message of the dispatcher is about one of the two headers.
        StatusCode::UNAUTHORIZED => {
            "the client credential is missing or not known: send a caller key as the password of HTTP Basic, or in x-latchkey-key"
        }
        _ => status.message(),
    };
    let body = OAuthError { error: name, description: description(message), reason };
    let body = serde_json::to_vec(&body).map(Bytes::from).unwrap_or_default();
    let mut response = headers::response(Encoding::Json, body);
    *response.status_mut() = code;
    if code == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    if code == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = retry_after(&details).unwrap_or(RETRY_AFTER);
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

/// Replaces the characters that the standard does not allow in a description.
fn description(message: &str) -> String {
    let allowed = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    message.chars().map(|c| if allowed(c) { c } else { '\'' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_contains_only_what_the_standard_allows() {
        assert_eq!(description("a `b` \"c\" \\ é\n"), "a `b` 'c' ' ''");
    }
}
