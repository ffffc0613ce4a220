//! How a request is turned away.

use std::{fmt::Write as _, time::Duration};

use crate::domain::{
    rejection::{Reason, Rejection},
    types::{Device, Role, Slot},
};
use latchkey_client::bearer::{self, Denial as BearerDenial, Kind};

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
            Cause::NoToken => bearer::TOKEN_REQUIRED,
            Cause::Unclear(_) => bearer::MALFORMED,
            Cause::WrongSlot(_) => bearer::SLOT_REQUIRED,
            Cause::MissingRole(_) => bearer::ROLE_REQUIRED,
        }
    }

    /// A sentence for the user, or for who wrote the client.
    pub fn message(&self) -> String {
        match &self.cause {
            Cause::Rejected(rejection) => rejection.message(),
            Cause::NoToken => bearer::NO_TOKEN.into(),
            Cause::Unclear(why) => (*why).into(),
            Cause::WrongSlot(slot) => bearer::needs_slot(slot.as_str()),
            Cause::MissingRole(role) => bearer::needs_role(role.as_str()),
        }
    }

    fn kind(&self) -> Kind {
        match &self.cause {
            Cause::Rejected(rejection) if rejection.reason == Reason::AccountDisabled => Kind::Disabled,
            Cause::Rejected(_) => Kind::Rejected,
            Cause::NoToken => Kind::NoToken,
            Cause::Unclear(_) => Kind::Unclear,
            Cause::WrongSlot(_) | Cause::MissingRole(_) => Kind::Insufficient,
        }
    }

    /// As it is told over HTTP, with this message.
    fn refusal<'a>(&'a self, message: &'a str) -> BearerDenial<'a> {
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

    /// Whether another token, or a new login, would not help.
    pub fn is_forbidden(&self) -> bool {
        self.refusal("").is_forbidden()
    }

    /// Whether a client must not log in again by itself.
    pub fn is_terminal(&self) -> bool {
        matches!(&self.cause, Cause::Rejected(rejection) if rejection.reason.is_terminal())
    }

    /// The headers of the answer, besides the type of its body.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        self.refusal("").headers()
    }

    /// The body, as JSON.
    pub fn body(&self) -> String {
        self.refusal(&self.message()).body()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::Timestamp;

    fn challenge(denial: &Denial) -> Option<String> {
        denial.refusal("").challenge()
    }

    #[test]
    fn every_reason_has_the_status_of_the_contract_and_a_challenge_that_is_plain_ascii() {
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
    fn the_challenge_says_what_rfc_6750_asks_for() {
        let challenge = |cause| challenge(&Denial::from(cause)).unwrap();
        assert_eq!(challenge(Cause::NoToken), "Bearer realm=\"latchkey\"");
        assert!(challenge(Cause::Unclear("x")).contains("error=\"invalid_request\""));
        let replaced = challenge(Cause::Rejected(Rejection::bare(Reason::Replaced)));
        assert!(replaced.contains("error=\"invalid_token\", error_description=\"REPLACED\""), "{replaced}");
        let role = Cause::MissingRole(Role::parse("admin").unwrap());
        assert!(Denial::from(role.clone()).is_forbidden());
        assert!(challenge(role).contains("error=\"insufficient_scope\""));
    }
}
