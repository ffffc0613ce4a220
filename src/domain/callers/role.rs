//! The roles of callers.

use crate::domain::Violation;

/// A role of a caller. The roles of users are different: Latchkey gives those no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallerRole {
    /// Manages accounts and callers, and includes every other role.
    Admin,
    /// Opens sessions for users that it has authenticated itself.
    Issuer,
    /// Lists and ends the sessions of users.
    Operator,
    /// Calls Validate if `access.validate` is `caller`.
    Validator,
}

impl CallerRole {
    /// All roles, in the order of their names.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Issuer, Self::Operator, Self::Validator];

    /// The name in the protocol, the configuration and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Issuer => "issuer",
            Self::Operator => "operator",
            Self::Validator => "validator",
        }
    }

    /// The role with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The set of roles of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallerRoles(u8);

impl CallerRoles {
    /// Parses the names of at least one role.
    pub fn parse<T: AsRef<str>>(names: &[T]) -> Result<Self, Violation> {
        let roles = names.iter().map(|name| CallerRole::named(name.as_ref())).collect::<Option<Self>>();
        roles.filter(|roles| *roles != Self::default()).ok_or_else(|| {
            Violation::new("roles", "must be at least one of: admin, issuer, operator, validator")
        })
    }

    /// Whether these roles include `required`. The role `admin` includes every other one.
    pub const fn allow(self, required: CallerRole) -> bool {
        self.0 & (required.bit() | CallerRole::Admin.bit()) != 0
    }

    /// The names of the roles, sorted.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CallerRole::ALL.into_iter().filter(move |role| self.0 & role.bit() != 0).map(CallerRole::name)
    }

    /// The union of both sets.
    #[must_use]
    pub const fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl From<CallerRole> for CallerRoles {
    fn from(role: CallerRole) -> Self {
        Self(role.bit())
    }
}

impl FromIterator<CallerRole> for CallerRoles {
    fn from_iter<I: IntoIterator<Item = CallerRole>>(roles: I) -> Self {
        roles.into_iter().fold(Self::default(), |all, role| all.union(role.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_implies_every_role_and_the_others_none() {
        for has in CallerRole::ALL {
            for needed in CallerRole::ALL {
                let allowed = CallerRoles::from(has).allow(needed);
                assert_eq!(allowed, has == CallerRole::Admin || has == needed, "{has:?} for {needed:?}");
            }
        }
        assert!(CallerRole::ALL.iter().all(|role| !CallerRoles::default().allow(*role)));
    }

    #[test]
    fn a_request_must_name_known_roles_and_at_least_one() {
        let roles = CallerRoles::parse(&["validator", "issuer", "validator"]).unwrap();
        assert_eq!(roles.names().collect::<Vec<_>>(), ["issuer", "validator"]);
        for wrong in [&[][..], &["root"], &["validator", ""], &["Admin"]] {
            assert_eq!(CallerRoles::parse(wrong).unwrap_err().field, "roles", "{wrong:?}");
        }
    }
}
