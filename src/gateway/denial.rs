//! How a request is turned away.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;

use crate::domain::{
    rejection::{Reason, Rejection},
    types::{Device, Role, Slot, Timestamp},
};

/// The last moment that RFC 3339 can write, in microseconds.
const LAST: u64 = 253_402_300_799_999_999;

/// Why a request is turned away.
#[derive(Debug, Clone)]
pub enum Cause {
    /// The token is not, or no longer, good.
    Rejected(Rejection),
    /// There is none.
    NoToken,
    /// There is something, and not exactly one token.
    Unclear(&'static str),
    /// The session is in another slot than this.
    WrongSlot(Slot),
    /// The user does not have this role.
    MissingRole(Role),
}

/// A request is turned away.
#[derive(Debug, Clone)]
pub struct Denial {
    /// Why.
    pub cause: Cause,
}

/// What the client is told, as JSON. The fields are those of `Rejection` in the protocol.
#[derive(Serialize)]
struct Body<'a> {
    reason: &'a str,
    message: String,
    terminal: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_device: Option<&'a str>,
}

impl From<Cause> for Denial {
    fn from(cause: Cause) -> Self {
        Self { cause }
    }
}

impl Denial {
    /// The reason, as every surface names it.
    pub fn reason(&self) -> &'static str {
        match &self.cause {
            Cause::Rejected(rejection) => rejection.reason.name(),
            Cause::NoToken => "TOKEN_REQUIRED",
            Cause::Unclear(_) => Reason::Malformed.name(),
            Cause::WrongSlot(_) => "SLOT_REQUIRED",
            Cause::MissingRole(_) => "ROLE_REQUIRED",
        }
    }

    /// A sentence for the user, or for who wrote the client.
    pub fn message(&self) -> String {
        match &self.cause {
            Cause::Rejected(rejection) => rejection.message(),
            Cause::NoToken => "Please log in: there is no access token.".into(),
            Cause::Unclear(why) => (*why).into(),
            Cause::WrongSlot(slot) => {
                format!("This needs a session in the slot `{}`.", slot.as_str())
            }
            Cause::MissingRole(role) => format!("This needs the role `{}`.", role.as_str()),
        }
    }

    /// Whether another token, or a new login, would not help: 403 in HTTP, `PERMISSION_DENIED` in gRPC. Otherwise 401
    /// and UNAUTHENTICATED. Gateways take other statuses for an outage.
    pub fn is_forbidden(&self) -> bool {
        match &self.cause {
            Cause::Rejected(rejection) => rejection.reason == Reason::AccountDisabled,
            Cause::NoToken | Cause::Unclear(_) => false,
            Cause::WrongSlot(_) | Cause::MissingRole(_) => true,
        }
    }

    /// Whether a client must not log in again by itself.
    pub fn is_terminal(&self) -> bool {
        matches!(&self.cause, Cause::Rejected(rejection) if rejection.reason.is_terminal())
    }

    /// What goes into `www-authenticate` (RFC 6750 section 3), if anything does: no token would open the account of
    /// somebody who is disabled.
    pub fn challenge(&self) -> Option<String> {
        let error = match &self.cause {
            Cause::Rejected(rejection) if rejection.reason == Reason::AccountDisabled => return None,
            Cause::Rejected(_) => "invalid_token",
            Cause::NoToken => return Some("Bearer realm=\"latchkey\"".into()),
            Cause::Unclear(_) => "invalid_request",
            Cause::WrongSlot(_) | Cause::MissingRole(_) => "insufficient_scope",
        };
        // The reason, because it is plain; the message may hold whatever a device calls itself.
        let reason = self.reason();
        Some(format!("Bearer realm=\"latchkey\", error=\"{error}\", error_description=\"{reason}\""))
    }

    /// The headers of the answer, besides the type of its body.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("cache-control", "no-store".to_owned()),
            // For gateways that pass on headers and not the body.
            ("x-latchkey-reason", self.reason().to_owned()),
        ];
        headers.extend(self.challenge().map(|challenge| ("www-authenticate", challenge)));
        headers
    }

    /// The body, as JSON.
    pub fn body(&self) -> String {
        let rejection = match &self.cause {
            Cause::Rejected(rejection) => Some(rejection),
            _ => None,
        };
        let device = rejection.and_then(|rejection| rejection.by_device.as_ref()).map(Device::as_str);
        let body = Body {
            reason: self.reason(),
            message: self.message(),
            terminal: self.is_terminal(),
            at: rejection.and_then(|rejection| rejection.at).map(moment),
            by_device: device.filter(|device| !device.is_empty()),
        };
        serde_json::to_string(&body).unwrap_or_default()
    }

    /// The same JSON in visible ASCII and spaces, as it can travel in a header.
    pub fn body_in_header(&self) -> String {
        let mut ascii = String::new();
        for character in self.body().chars() {
            if character.is_ascii() {
                ascii.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
        ascii
    }
}

/// RFC 3339, in UTC, to the microsecond.
fn moment(moment: Timestamp) -> String {
    let since = Duration::from_micros(moment.as_micros().min(LAST));
    humantime::format_rfc3339_micros(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_status_of_the_contract_and_a_challenge_that_is_plain_ascii() {
        for reason in Reason::ALL {
            let by_device = Some(Device::parse("Jürgens \"Gerät\" 📱").unwrap());
            let rejection = Rejection { by_device, ..Rejection::at(reason, Timestamp::from_secs(1)) };
            let denial = Denial::from(Cause::Rejected(rejection));
            assert_eq!(denial.is_forbidden(), reason == Reason::AccountDisabled, "{reason:?}");
            let challenge = denial.challenge();
            assert_eq!(challenge.is_none(), denial.is_forbidden());
            for (_, value) in denial.headers() {
                assert!(value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{value}");
            }
            let body: serde_json::Value = serde_json::from_str(&denial.body()).unwrap();
            let header = denial.body_in_header();
            assert!(header.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{header}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&header).unwrap(), body);
            assert_eq!(body["reason"], reason.name());
            assert_eq!(body["terminal"], reason.is_terminal());
            assert_eq!(body["at"], "1970-01-01T00:00:01.000000Z");
            assert_eq!(body["by_device"], "Jürgens \"Gerät\" 📱");
        }
    }

    #[test]
    fn the_challenge_says_what_rfc_6750_asks_for() {
        let challenge = |cause| Denial::from(cause).challenge().unwrap();
        assert_eq!(challenge(Cause::NoToken), "Bearer realm=\"latchkey\"");
        assert!(challenge(Cause::Unclear("x")).contains("error=\"invalid_request\""));
        let replaced = challenge(Cause::Rejected(Rejection::bare(Reason::Replaced)));
        assert!(replaced.contains("error=\"invalid_token\", error_description=\"REPLACED\""), "{replaced}");
        let role = Cause::MissingRole(Role::parse("admin").unwrap());
        assert!(Denial::from(role.clone()).is_forbidden());
        assert!(challenge(role).contains("error=\"insufficient_scope\""));
    }
}
