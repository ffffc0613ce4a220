//! Callers: the services that call Latchkey, as opposed to the users whose tokens they hold.
//!
//! A caller authenticates with a key ([`key`]) or a certificate ([`certificates`]). [`role`] defines what its roles
//! allow; `grpc::access` defines which method requires which role. It also checks the admin key, which is in a file and
//! never in the store.

pub mod certificates;
pub mod key;
mod known;
pub mod role;

use std::sync::Arc;

use self::{key::CallerKey, role::CallerRoles};
use super::{
    Engine, Error, Violation,
    audit::{Action, Entry, Outcome},
    origin::Origin,
    ports::Caller,
};

pub use self::known::KnownCallers;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name in the audit trail.
    pub name: Arc<str>,
    /// The roles of the caller.
    pub roles: CallerRoles,
}

/// The name of the caller with the admin key. No other caller can have it.
pub const ADMIN: &str = "admin";

/// The name of a caller that has a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerName(String);

impl CallerName {
    /// Parses 1 to 64 letters, digits or `_ - . : /`. The name of the admin key and names that a certificate could have
    /// are violations, so that a name in the audit trail means one caller.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
        if !(1..=64).contains(&text.len()) || !text.bytes().all(plain) {
            return Err(Violation::new("name", "must be 1 to 64 letters, digits or `_ - . : /`"));
        }
        let lower = text.to_ascii_lowercase();
        if lower == ADMIN {
            return Err(Violation::new("name", "is the name of the admin key: choose another"));
        }
        if lower.starts_with("dns:") || lower.starts_with("uri:") || lower.contains("://") {
            return Err(Violation::new("name", "looks like the name of a certificate: choose another"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Engine {
    /// Records in the audit trail that a call of `method` was refused.
    pub fn audit_refused_call(&self, error: &Error, origin: &Origin, method: &str) {
        let entry = Entry::new(self.clock.now(), Action::Call, Outcome::of(error), origin);
        self.audit.record(entry.detail(format!("method: {method}")));
    }

    /// Creates a caller and its key. The key cannot be shown again.
    pub async fn create_caller(
        &self,
        name: &CallerName,
        roles: CallerRoles,
        origin: &Origin,
    ) -> Result<(Caller, CallerKey), Error> {
        let key = CallerKey::random();
        let caller = Caller {
            name: name.as_str().to_owned(),
            key: key.hash(),
            roles: roles.names().map(str::to_owned).collect(),
            created_at: self.clock.now(),
            last_used_at: None,
        };
        let outcome = match self.callers.create(&caller).await {
            Ok(true) => Ok((caller, key)),
            Ok(false) => Err(Error::CallerExists),
            Err(error) => Err(error.into()),
        };
        let roles = roles.names().collect::<Vec<_>>().join(" ");
        let entry = self.entry(Action::CreateCaller, &outcome, origin);
        self.audit.record(entry.detail(format!("caller: {}; roles: {roles}", name.as_str())));
        outcome
    }

    /// Returns all callers that have a key, in the order of their names.
    pub async fn list_callers(&self) -> Result<Vec<Caller>, Error> {
        Ok(self.callers.list().await?)
    }

    /// Revokes the key of a caller: on this server at once, on others as described at [`KnownCallers`].
    pub async fn revoke_caller(&self, name: &CallerName, origin: &Origin) -> Result<(), Error> {
        let outcome = match self.callers.revoke(name.as_str()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::CallerNotFound),
            Err(error) => Err(error.into()),
        };
        let entry = self.entry(Action::RevokeCaller, &outcome, origin);
        self.audit.record(entry.detail(format!("caller: {}", name.as_str())));
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_plain_and_not_that_of_another_kind_of_caller() {
        for good in ["web", "prod/gateway-2", "Team:billing_v1.0", &"x".repeat(64)] {
            assert_eq!(CallerName::parse(good).unwrap().as_str(), good);
        }
        for wrong in [
            "",
            "a b",
            "a\n",
            "\u{e9}",
            &"x".repeat(65),
            "admin",
            "Admin",
            "dns:web",
            "URI:x",
            "spiffe://web",
        ] {
            assert_eq!(CallerName::parse(wrong).unwrap_err().field, "name", "{wrong}");
        }
    }
}
