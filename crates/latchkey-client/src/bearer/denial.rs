//! The denial of a request over HTTP.

use std::time::Duration;

use serde::Serialize;

/// The latest time that RFC 3339 can express, since the Unix epoch.
const MAX_RFC3339: Duration = Duration::from_micros(253_402_300_799_999_999);

/// The reason for a request without a token.
pub const TOKEN_REQUIRED: &str = "TOKEN_REQUIRED";
/// The reason for a request with something that is not exactly one token.
pub const MALFORMED: &str = "MALFORMED";
/// The reason for a live session that is not in the required slot.
pub const SLOT_REQUIRED: &str = "SLOT_REQUIRED";
/// The reason for a live session whose user does not have the required role.
pub const ROLE_REQUIRED: &str = "ROLE_REQUIRED";

/// The message for a request without a token.
pub const NO_TOKEN: &str = "Please log in: there is no access token.";

/// Returns the message for a session that is not in the required slot.
pub fn needs_slot(slot: &str) -> String {
    format!("This needs a session in the slot `{slot}`.")
}

/// Returns the message for a user who does not have the required role.
pub fn needs_role(role: &str) -> String {
    format!("This needs the role `{role}`.")
}

/// The kind of a denial. It decides the HTTP status and the challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request has no token.
    NoToken,
    /// The request has something that is not exactly one token.
    Malformed,
    /// The token is not, or no longer, valid.
    Rejected,
    /// The account is disabled. No other token would help.
    Disabled,
    /// The token is valid, but its session lacks the required slot or role.
    Insufficient,
}

/// The reason for which a request is denied, and what the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial<'a> {
    /// The kind of the denial.
    pub kind: Kind,
    /// The machine-readable reason, such as `REPLACED` or [`TOKEN_REQUIRED`].
    pub reason: &'a str,
    /// A sentence for the user or for the developer of the client.
    pub message: &'a str,
    /// Whether the client must not log in again by itself.
    pub terminal: bool,
    /// The time at which the session ended, since the Unix epoch, if it is known.
    pub at: Option<Duration>,
    /// The device of the login that replaced the session, if it has a name.
    pub by_device: Option<&'a str>,
}

/// The body of a denial. Its fields are those of `Rejection` in the protocol.
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
    /// Returns whether neither another token nor a new login would help.
    ///
    /// Such a denial is 403 over HTTP and `PERMISSION_DENIED` over gRPC. All others are 401 and `UNAUTHENTICATED`.
    /// Gateways take other statuses for an outage.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.kind, Kind::Disabled | Kind::Insufficient)
    }

    /// Returns the value of the header `www-authenticate` (RFC 6750 section 3).
    ///
    /// Returns `None` for a disabled account, which no token would open.
    pub fn challenge(&self) -> Option<String> {
        let error = match self.kind {
            Kind::Disabled => return None,
            Kind::NoToken => return Some("Bearer realm=\"latchkey\"".into()),
            Kind::Rejected => "invalid_token",
            Kind::Malformed => "invalid_request",
            Kind::Insufficient => "insufficient_scope",
        };
        // The description is the reason, which is plain ASCII. The message can contain the name of a device.
        let reason = self.reason;
        Some(format!("Bearer realm=\"latchkey\", error=\"{error}\", error_description=\"{reason}\""))
    }

    /// Returns the names and values of the response headers, without `content-type`.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("cache-control", "no-store".to_owned()),
            // For gateways that forward the headers of a denial and not its body.
            ("x-latchkey-reason", self.reason.to_owned()),
        ];
        headers.extend(self.challenge().map(|challenge| ("www-authenticate", challenge)));
        headers
    }

    /// Returns the response body, which is JSON.
    pub fn body(&self) -> String {
        let Self { reason, message, terminal, by_device, .. } = *self;
        let at = self.at.map(rfc3339_micros);
        let by_device = by_device.filter(|device| !device.is_empty());
        serde_json::to_string(&Body { reason, message, terminal, at, by_device }).unwrap_or_default()
    }
}

/// Formats a time since the Unix epoch in UTC, always with six decimal places (RFC 3339 section 5.6).
fn rfc3339_micros(at: Duration) -> String {
    let at = at.min(MAX_RFC3339);
    let whole_seconds = prost_types::Timestamp { seconds: at.as_secs().cast_signed(), nanos: 0 }.to_string();
    format!("{}.{:06}Z", whole_seconds.trim_end_matches('Z'), at.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(kind: Kind) -> Denial<'static> {
        Denial {
            kind,
            reason: "REASON",
            message: "A \"message\".",
            terminal: true,
            at: None,
            by_device: None,
        }
    }

    #[test]
    fn times_have_six_decimal_places_and_end_with_the_year_9999() {
        for (at, expected) in [
            (Duration::ZERO, "1970-01-01T00:00:00.000000Z"),
            (Duration::from_millis(1_785_342_896_100), "2026-07-29T16:34:56.100000Z"),
            (Duration::from_nanos(951_782_400_000_001_999), "2000-02-29T00:00:00.000001Z"),
            (Duration::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(rfc3339_micros(at), expected);
        }
    }

    #[test]
    fn the_body_omits_unknown_times_and_devices_without_a_name() {
        let minimal = r#"{"reason":"REASON","message":"A \"message\".","terminal":true}"#;
        assert_eq!(denial(Kind::Rejected).body(), minimal);
        assert_eq!(Denial { by_device: Some(""), ..denial(Kind::Rejected) }.body(), minimal);
        let complete =
            Denial { at: Some(Duration::from_secs(1)), by_device: Some("Zoë's"), ..denial(Kind::Rejected) };
        assert!(
            complete.body().ends_with(r#","at":"1970-01-01T00:00:01.000000Z","by_device":"Zoë's"}"#),
            "{}",
            complete.body()
        );
    }

    #[test]
    fn each_kind_has_a_status_and_a_challenge() {
        for (kind, is_forbidden, error) in [
            (Kind::NoToken, false, None),
            (Kind::Malformed, false, Some("invalid_request")),
            (Kind::Rejected, false, Some("invalid_token")),
            (Kind::Insufficient, true, Some("insufficient_scope")),
        ] {
            let denial = denial(kind);
            assert_eq!(denial.is_forbidden(), is_forbidden, "{kind:?}");
            let challenge = denial.challenge().unwrap();
            assert!(challenge.starts_with("Bearer realm=\"latchkey\""), "{challenge}");
            let wanted = error.map(|error| format!("error=\"{error}\", error_description=\"REASON\""));
            assert_eq!(challenge.contains("error"), wanted.is_some(), "{challenge}");
            assert!(challenge.ends_with(&wanted.unwrap_or_default()), "{challenge}");
        }
        let disabled = denial(Kind::Disabled);
        assert!(disabled.is_forbidden() && disabled.challenge().is_none());
        assert!(disabled.headers().iter().all(|(name, _)| *name != "www-authenticate"));
    }
}
