//! How a request is turned away.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

/// The last moment that RFC 3339 can write, in seconds.
const LAST: Duration = Duration::from_micros(253_402_300_799_999_999);

/// The reason of a request without a token.
pub const TOKEN_REQUIRED: &str = "TOKEN_REQUIRED";
/// The reason of a request with something that is not exactly one token.
pub const MALFORMED: &str = "MALFORMED";
/// The reason of a good token whose session is in another slot.
pub const SLOT_REQUIRED: &str = "SLOT_REQUIRED";
/// The reason of a good token whose user does not have the role.
pub const ROLE_REQUIRED: &str = "ROLE_REQUIRED";

/// What is said where there is no token.
pub const NO_TOKEN: &str = "Please log in: there is no access token.";

/// What is said where the session is in another slot than this.
pub fn needs_slot(slot: &str) -> String {
    format!("This needs a session in the slot `{slot}`.")
}

/// What is said where the user does not have this role.
pub fn needs_role(role: &str) -> String {
    format!("This needs the role `{role}`.")
}

/// Of what kind a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no token.
    NoToken,
    /// There is something, and not exactly one token.
    Unclear,
    /// The token is not, or no longer, good.
    Rejected,
    /// The account is disabled: no token would open it.
    Disabled,
    /// The token is good, and not enough.
    Insufficient,
}

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial<'a> {
    /// Of what kind it is.
    pub kind: Kind,
    /// The reason, as every surface names it.
    pub reason: &'a str,
    /// A sentence for the user, or for who wrote the client.
    pub message: &'a str,
    /// Whether a client must not log in again by itself.
    pub terminal: bool,
    /// When the session ended, since 1970, where one is known.
    pub at: Option<Duration>,
    /// The device of the login that took the place, where one did and had a name.
    pub by_device: Option<&'a str>,
}

/// What the client is told, as JSON. The fields are those of `Rejection` in the protocol.
#[derive(Serialize)]
struct Body<'a> {
    reason: &'a str,
    message: &'a str,
    terminal: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_device: Option<&'a str>,
}

impl Denial<'_> {
    /// Whether another token, or a new login, would not help: 403 in HTTP, `PERMISSION_DENIED` in gRPC. Otherwise 401
    /// and UNAUTHENTICATED. Gateways take other statuses for an outage.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.kind, Kind::Disabled | Kind::Insufficient)
    }

    /// What goes into `www-authenticate` (RFC 6750 section 3), if anything does: no token would open the account of
    /// somebody who is disabled.
    pub fn challenge(&self) -> Option<String> {
        let error = match self.kind {
            Kind::Disabled => return None,
            Kind::NoToken => return Some("Bearer realm=\"latchkey\"".into()),
            Kind::Rejected => "invalid_token",
            Kind::Unclear => "invalid_request",
            Kind::Insufficient => "insufficient_scope",
        };
        // The reason, because it is plain; the message may hold whatever a device calls itself.
        let reason = self.reason;
        Some(format!("Bearer realm=\"latchkey\", error=\"{error}\", error_description=\"{reason}\""))
    }

    /// The headers of the answer, besides the type of its body.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("cache-control", "no-store".to_owned()),
            // For gateways that pass on headers and not the body.
            ("x-latchkey-reason", self.reason.to_owned()),
        ];
        headers.extend(self.challenge().map(|challenge| ("www-authenticate", challenge)));
        headers
    }

    /// The body, as JSON.
    pub fn body(&self) -> String {
        let Self { reason, message, terminal, by_device, .. } = *self;
        let at = self.at.map(|at| humantime::format_rfc3339_micros(UNIX_EPOCH + at.min(LAST)).to_string());
        let by_device = by_device.filter(|device| !device.is_empty());
        serde_json::to_string(&Body { reason, message, terminal, at, by_device }).unwrap_or_default()
    }
}
