//! What a guard answers in place of the method: the same as Latchkey's gateways.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::session_watchers::End;
use crate::Rejection;
use crate::bearer;
use crate::proto::ERROR_DOMAIN;

/// When to try again after an outage, as Latchkey itself says.
const RETRY: Duration = Duration::from_secs(1);
/// What is said of an outage. It says nothing about the token, nor why: that is for the log.
const OUTAGE: (&str, &str) = ("STORE_UNAVAILABLE", "the session cannot be checked at the moment: try again");

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denial {
    /// The token is not good.
    Rejected(Rejection),
    /// There is none.
    NoToken,
    /// There is something, and not exactly one token.
    Unclear(&'static str),
    /// The session is in another slot than this.
    WrongSlot(String),
    /// The user does not have this role.
    MissingRole(String),
    /// There is no verdict.
    Outage,
}

impl Denial {
    /// To a request that speaks gRPC, and to one that does not.
    pub(super) fn response(&self, grpc: bool) -> Response<Body> {
        if grpc { self.status().into_http() } else { self.plain() }
    }

    /// As gRPC has it.
    pub(super) fn status(&self) -> Status {
        let mut details = ErrorDetails::new();
        let Some(refusal) = self.told() else {
            let (reason, message) = OUTAGE;
            details.set_error_info(reason, ERROR_DOMAIN, HashMap::new());
            details.set_retry_info(Some(RETRY));
            return Status::with_error_details(Code::Unavailable, message, details);
        };
        let code = if refusal.is_forbidden() { Code::PermissionDenied } else { Code::Unauthenticated };
        let mut metadata = HashMap::from([("terminal".to_owned(), refusal.terminal.to_string())]);
        metadata.extend(refusal.at.map(|at| ("at_unix".to_owned(), at.as_secs().to_string())));
        metadata.extend(refusal.by_device.map(|device| ("by_device".to_owned(), device.to_owned())));
        match self {
            Self::WrongSlot(slot) => drop(metadata.insert("slot".to_owned(), slot.clone())),
            Self::MissingRole(role) => drop(metadata.insert("role".to_owned(), role.clone())),
            _ => {}
        }
        details.set_error_info(refusal.reason, ERROR_DOMAIN, metadata);
        Status::with_error_details(code, self.message(), details)
    }

    /// As HTTP has it: as Latchkey's forward-auth does.
    fn plain(&self) -> Response<Body> {
        let (status, headers, body) = match self.told() {
            None => {
                let (reason, message) = OUTAGE;
                let body = format!("{{\"reason\":{},\"message\":{}}}", json!(reason), json!(message));
                let headers = vec![
                    ("cache-control", "no-store".to_owned()),
                    ("retry-after", RETRY.as_secs().to_string()),
                ];
                (StatusCode::SERVICE_UNAVAILABLE, headers, body)
            }
            Some(mut refusal) => {
                let message = self.message();
                refusal.message = &message;
                let forbidden = refusal.is_forbidden();
                let status = if forbidden { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
                (status, refusal.headers(), refusal.body())
            }
        };
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = status;
        let sent = response.headers_mut();
        sent.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_maybe_shared(value) {
                sent.insert(name, value);
            }
        }
        response
    }

    /// What is told of it, without the message. None of an outage.
    fn told(&self) -> Option<bearer::Denial<'_>> {
        use bearer::Kind;
        let plain = |kind, reason| bearer::Denial {
            kind,
            reason,
            message: "",
            terminal: false,
            at: None,
            by_device: None,
        };
        Some(match self {
            Self::Outage => return None,
            Self::NoToken => plain(Kind::NoToken, bearer::TOKEN_REQUIRED),
            Self::Unclear(_) => plain(Kind::Unclear, bearer::MALFORMED),
            Self::WrongSlot(_) => plain(Kind::Insufficient, bearer::SLOT_REQUIRED),
            Self::MissingRole(_) => plain(Kind::Insufficient, bearer::ROLE_REQUIRED),
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
            Self::Unclear(why) => (*why).to_owned(),
            Self::WrongSlot(slot) => bearer::needs_slot(slot),
            Self::MissingRole(role) => bearer::needs_role(role),
            Self::Outage => OUTAGE.1.to_owned(),
        }
    }
}

impl From<End> for Denial {
    fn from(end: End) -> Self {
        match end {
            End::Rejected(rejection) => Self::Rejected(rejection),
            End::Outage => Self::Outage,
        }
    }
}
