//! The responses of a guard to denied requests. They are those of the gateways of Latchkey.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::session_watchers::StreamEnd;
use crate::Rejection;
use crate::bearer;
use crate::proto::ERROR_DOMAIN;

/// The retry delay after an outage. It is that of Latchkey itself.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const OUTAGE_REASON: &str = "STORE_UNAVAILABLE";
/// The message during an outage. It does not tell the cause, which is written to the log.
const OUTAGE_MESSAGE: &str = "the session cannot be checked at the moment: try again";

/// The reason for which a request is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denial {
    /// The token is not, or no longer, valid.
    Rejected(Rejection),
    /// The request has no token.
    NoToken,
    /// The request has something that is not exactly one token. The text says what is wrong with it.
    Malformed(&'static str),
    /// The session is not in this slot.
    WrongSlot(String),
    /// The user does not have this role.
    MissingRole(String),
    /// Latchkey gave no verdict.
    Outage,
}

impl Denial {
    pub(super) fn response(&self, is_grpc: bool) -> Response<Body> {
        if is_grpc { self.status().into_http() } else { self.http_response() }
    }

    pub(super) fn status(&self) -> Status {
        let mut details = ErrorDetails::new();
        let Some(denial) = self.without_message() else {
            details.set_error_info(OUTAGE_REASON, ERROR_DOMAIN, HashMap::new());
            details.set_retry_info(Some(RETRY_AFTER));
            return Status::with_error_details(Code::Unavailable, OUTAGE_MESSAGE, details);
        };
        let code = if denial.is_forbidden() { Code::PermissionDenied } else { Code::Unauthenticated };
        let mut metadata = HashMap::from([("terminal".to_owned(), denial.terminal.to_string())]);
        metadata.extend(denial.at.map(|at| ("at_unix".to_owned(), at.as_secs().to_string())));
        metadata.extend(denial.by_device.map(|device| ("by_device".to_owned(), device.to_owned())));
        match self {
            Self::WrongSlot(slot) => drop(metadata.insert("slot".to_owned(), slot.clone())),
            Self::MissingRole(role) => drop(metadata.insert("role".to_owned(), role.clone())),
            _ => {}
        }
        details.set_error_info(denial.reason, ERROR_DOMAIN, metadata);
        Status::with_error_details(code, self.message(), details)
    }

    fn http_response(&self) -> Response<Body> {
        let (status, headers, body) = match self.without_message() {
            None => {
                let body =
                    format!(r#"{{"reason":{},"message":{}}}"#, json!(OUTAGE_REASON), json!(OUTAGE_MESSAGE));
                let headers = vec![
                    ("cache-control", "no-store".to_owned()),
                    ("retry-after", RETRY_AFTER.as_secs().to_string()),
                ];
                (StatusCode::SERVICE_UNAVAILABLE, headers, body)
            }
            Some(denial) => {
                let message = self.message();
                let denial = bearer::Denial { message: &message, ..denial };
                let is_forbidden = denial.is_forbidden();
                let status = if is_forbidden { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
                (status, denial.headers(), denial.body())
            }
        };
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = status;
        let response_headers = response.headers_mut();
        response_headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_maybe_shared(value) {
                response_headers.insert(name, value);
            }
        }
        response
    }

    /// Returns the denial with an empty message, or `None` for an outage.
    fn without_message(&self) -> Option<bearer::Denial<'_>> {
        use bearer::Kind;
        let denial = |kind, reason| bearer::Denial {
            kind,
            reason,
            message: "",
            terminal: false,
            at: None,
            by_device: None,
        };
        Some(match self {
            Self::Outage => return None,
            Self::NoToken => denial(Kind::NoToken, bearer::TOKEN_REQUIRED),
            Self::Malformed(_) => denial(Kind::Malformed, bearer::MALFORMED),
            Self::WrongSlot(_) => denial(Kind::Insufficient, bearer::SLOT_REQUIRED),
            Self::MissingRole(_) => denial(Kind::Insufficient, bearer::ROLE_REQUIRED),
            Self::Rejected(rejection) => bearer::Denial {
                kind: if rejection.is_forbidden() { Kind::Disabled } else { Kind::Rejected },
                reason: rejection.name(),
                message: "",
                terminal: rejection.terminal,
                at: rejection.at.and_then(|at: SystemTime| at.duration_since(UNIX_EPOCH).ok()),
                by_device: Some(rejection.by_device.as_str()).filter(|device| !device.is_empty()),
            },
        })
    }

    fn message(&self) -> String {
        match self {
            Self::Rejected(rejection) => rejection.message.clone(),
            Self::NoToken => bearer::NO_TOKEN.to_owned(),
            Self::Malformed(message) => (*message).to_owned(),
            Self::WrongSlot(slot) => bearer::needs_slot(slot),
            Self::MissingRole(role) => bearer::needs_role(role),
            Self::Outage => OUTAGE_MESSAGE.to_owned(),
        }
    }
}

impl From<StreamEnd> for Denial {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::Rejected(rejection) => Self::Rejected(rejection),
            StreamEnd::Outage => Self::Outage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto as pb;

    fn rejected(reason: pb::RejectionReason) -> Denial {
        Denial::Rejected(pb::Rejection { reason: reason.into(), ..Default::default() }.into())
    }

    #[test]
    fn the_statuses_of_grpc_and_http_agree() {
        for (denial, code, http, reason) in [
            (Denial::NoToken, Code::Unauthenticated, 401, "TOKEN_REQUIRED"),
            (Denial::Malformed("why"), Code::Unauthenticated, 401, "MALFORMED"),
            (rejected(pb::RejectionReason::Replaced), Code::Unauthenticated, 401, "REPLACED"),
            (rejected(pb::RejectionReason::AccountDisabled), Code::PermissionDenied, 403, "ACCOUNT_DISABLED"),
            (Denial::WrongSlot("web".into()), Code::PermissionDenied, 403, "SLOT_REQUIRED"),
            (Denial::MissingRole("staff".into()), Code::PermissionDenied, 403, "ROLE_REQUIRED"),
            (Denial::Outage, Code::Unavailable, 503, "STORE_UNAVAILABLE"),
        ] {
            let status = denial.status();
            assert_eq!(status.code(), code, "{denial:?}");
            assert_eq!(crate::error_reason(&status).as_deref(), Some(reason), "{denial:?}");
            assert_eq!(denial.response(false).status(), http, "{denial:?}");
            assert_eq!(denial.response(true).status(), 200, "{denial:?}");
        }
    }

    #[test]
    fn an_outage_tells_when_to_retry() {
        let status = Denial::Outage.status();
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(RETRY_AFTER));
        assert_eq!(Denial::Outage.response(false).headers()["retry-after"], "1");
    }

    #[test]
    fn details_name_the_required_slot_or_role() {
        for (denial, key, value) in [
            (Denial::WrongSlot("web".into()), "slot", "web"),
            (Denial::MissingRole("staff".into()), "role", "staff"),
        ] {
            let info = denial.status().get_details_error_info().unwrap();
            assert_eq!(info.metadata[key], value);
        }
    }
}
