//! Errors in the form of Connect.

use bytes::Bytes;
use data_encoding::BASE64_NOPAD;
use http::{HeaderValue, Response, StatusCode, header};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize;
use serde_json::Value;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _, pb};

use super::headers::{self, Encoding};

/// An error.
#[derive(Serialize)]
struct Error<'a> {
    code: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Serialize)]
struct Detail {
    #[serde(rename = "type")]
    kind: String,
    value: String,
    /// The same for people and for clients that do not know the type.
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Value>,
}

/// Returns the response with a status.
pub(super) fn response(pool: &DescriptorPool, status: &Status) -> Response<Body> {
    let (code, http) = code(status.code());
    let details = pb::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
    let details = details.into_iter().map(|detail| {
        let kind = detail.type_url.rsplit('/').next().unwrap_or_default().to_owned();
        let debug = pool.get_message_by_name(&kind).and_then(|descriptor| {
            let message = DynamicMessage::decode(descriptor, &*detail.value).ok()?;
            serde_json::to_value(message).ok()
        });
        Detail { kind, value: BASE64_NOPAD.encode(&detail.value), debug }
    });
    let error = Error { code, message: status.message(), details: details.collect() };
    let body = serde_json::to_vec(&error).map(Bytes::from).unwrap_or_default();
    let mut response = headers::response(Encoding::Json, body);
    let (details, is_large) = (status.get_error_details(), status.code() == Code::ResourceExhausted);
    let reason = details.error_info().map(|info| info.reason.as_str());
    *response.status_mut() = match reason {
        // The limit of the size of messages.
        Some("INVALID_REQUEST") if is_large => StatusCode::PAYLOAD_TOO_LARGE,
        _ => http,
    };
    if let Some(seconds) = retry_after(&details) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

/// Returns the value of `retry-after` of an error that may be gone later.
pub(super) fn retry_after(details: &ErrorDetails) -> Option<HeaderValue> {
    let delay = details.retry_info()?.retry_delay?;
    let seconds = delay.as_millis().div_ceil(1000).max(1);
    HeaderValue::try_from(seconds.to_string()).ok()
}

/// Returns the name of a code and its status over HTTP.
fn code(code: Code) -> (&'static str, StatusCode) {
    match code {
        Code::Cancelled => ("canceled", StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)),
        Code::InvalidArgument => ("invalid_argument", StatusCode::BAD_REQUEST),
        Code::DeadlineExceeded => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
        Code::NotFound => ("not_found", StatusCode::NOT_FOUND),
        Code::AlreadyExists => ("already_exists", StatusCode::CONFLICT),
        Code::PermissionDenied => ("permission_denied", StatusCode::FORBIDDEN),
        Code::ResourceExhausted => ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
        Code::FailedPrecondition => ("failed_precondition", StatusCode::BAD_REQUEST),
        Code::Aborted => ("aborted", StatusCode::CONFLICT),
        Code::OutOfRange => ("out_of_range", StatusCode::BAD_REQUEST),
        Code::Unimplemented => ("unimplemented", StatusCode::NOT_IMPLEMENTED),
        Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
        Code::DataLoss => ("data_loss", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED),
        Code::Ok | Code::Unknown => ("unknown", StatusCode::INTERNAL_SERVER_ERROR),
    }
}
