//! The denial of a request by a gateway.

use std::{fmt::Write as _, time::Duration};

use crate::domain::{
    rejection::{Reason, Rejection},
    types::{Device, Role, Slot},
};
use latchkey_client::bearer::{self, Denial as BearerDenial, Kind};

/// The cause of a denial.
#[derive(Debug, Clone)]
pub enum Cause {
    /// The token was rejected.
    Rejected(Rejection),
    /// The request has no token.
    NoToken,
    /// The request has something that is not exactly one token. The text says what is wrong with it.
    Malformed(&'static str),
    /// The session is not in this slot, which the route requires.
    WrongSlot(Slot),
    /// The user does not have this role, which the route requires.
    MissingRole(Role),
}

/// The denial of a request.
#[derive(Debug, Clone)]
pub struct Denial {
    /// The cause.
    pub cause: Cause,
}

impl From<Cause> for Denial {
    fn from(cause: Cause) -> Self {
        Self { cause }
    }
}

impl Denial {
    /// Returns the reason, which is the same on every surface.
    pub fn reason(&self) -> &'static str {
        match &self.cause {
            Cause::Rejected(rejection) => rejection.reason.name(),
            Cause::NoToken => bearer::TOKEN_REQUIRED,
            Cause::Malformed(_) => bearer::MALFORMED,
            Cause::WrongSlot(_) => bearer::SLOT_REQUIRED,
            Cause::MissingRole(_) => bearer::ROLE_REQUIRED,
        }
    }

    /// Returns a sentence for the user or for the developer of the client.
    pub fn message(&self) -> String {
        match &self.cause {
            Cause::Rejected(rejection) => rejection.message(),
            Cause::NoToken => bearer::NO_TOKEN.into(),
            Cause::Malformed(message) => (*message).into(),
            Cause::WrongSlot(slot) => bearer::needs_slot(slot.as_str()),
            Cause::MissingRole(role) => bearer::needs_role(role.as_str()),
        }
    }

    fn kind(&self) -> Kind {
        match &self.cause {
            Cause::Rejected(rejection) if rejection.reason == Reason::AccountDisabled => Kind::Disabled,
            Cause::Rejected(_) => Kind::Rejected,
            Cause::NoToken => Kind::NoToken,
            Cause::Malformed(_) => Kind::Malformed,
            Cause::WrongSlot(_) | Cause::MissingRole(_) => Kind::Insufficient,
        }
    }

    /// Returns the denial over HTTP.
    fn http<'a>(&'a self, message: &'a str) -> BearerDenial<'a> {
        let rejection = match &self.cause {
            Cause::Rejected(rejection) => Some(rejection),
            _ => None,
        };
        BearerDenial {
            kind: self.kind(),
            reason: self.reason(),
            message,
            terminal: self.is_terminal(),
            at: rejection.and_then(|rejection| rejection.at).map(|at| Duration::from_micros(at.as_micros())),
            by_device: rejection.and_then(|rejection| rejection.by_device.as_ref()).map(Device::as_str),
        }
    }

    /// Whether neither another token nor a new login would help.
    pub fn is_forbidden(&self) -> bool {
        self.http("").is_forbidden()
    }

    /// Whether a client must not log in again by itself.
    pub fn is_terminal(&self) -> bool {
        matches!(&self.cause, Cause::Rejected(rejection) if rejection.reason.is_terminal())
    }

    /// Returns the response headers, without `content-type`.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        self.http("").headers()
    }

    /// Returns the response body, which is JSON.
    pub fn body(&self) -> String {
        self.http(&self.message()).body()
    }

    /// Returns the response body in visible ASCII and spaces, for a header.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::Timestamp;

    fn challenge(denial: &Denial) -> Option<String> {
        denial.http("").challenge()
    }

    #[test]
    fn every_reason_has_its_status_and_a_challenge_in_ascii() {
        for reason in Reason::ALL {
            let by_device = Some(Device::parse("Jürgens \"Gerät\" 📱").unwrap());
            let rejection = Rejection { by_device, ..Rejection::at(reason, Timestamp::from_secs(1)) };
            let denial = Denial::from(Cause::Rejected(rejection));
            assert_eq!(denial.is_forbidden(), reason == Reason::AccountDisabled, "{reason:?}");
            let challenge = challenge(&denial);
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
    fn the_challenge_follows_rfc_6750() {
        let challenge = |cause| challenge(&Denial::from(cause)).unwrap();
        assert_eq!(challenge(Cause::NoToken), "Bearer realm=\"latchkey\"");
        assert!(challenge(Cause::Malformed("x")).contains("error=\"invalid_request\""));
        let replaced = challenge(Cause::Rejected(Rejection::bare(Reason::Replaced)));
        assert!(replaced.contains("error=\"invalid_token\", error_description=\"REPLACED\""), "{replaced}");
        let role = Cause::MissingRole(Role::parse("admin").unwrap());
        assert!(Denial::from(role.clone()).is_forbidden());
        assert!(challenge(role).contains("error=\"insufficient_scope\""));
    }
}
