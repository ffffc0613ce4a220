//! The configuration of a route of a gateway: what it requires besides a token.

use crate::domain::{
    Slots, Violation,
    types::{Role, Slot},
};

/// The requirements of a route. By default, it requires a valid token of any user and slot, and the request counts as a
/// use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// The session must be in this slot.
    pub required_slot: Option<Slot>,
    /// The user must have this role.
    pub required_role: Option<Role>,
    /// Requests without a token are allowed. Requests with a rejected token are denied.
    pub optional: bool,
    /// The request does not count as a use.
    pub peek: bool,
}

impl Route {
    /// Parses keys and values, which are in `field` of the request. An unknown key is a violation, so that no request
    /// passes if a required role is misspelled.
    pub(super) fn parse<'a>(
        field: &'static str,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        slots: &Slots,
    ) -> Result<Self, Violation> {
        let mut route = Self::default();
        let mut seen = Vec::new();
        for (key, value) in pairs {
            let violation = |description: String| Violation::new(field, format!("{key}: {description}"));
            if seen.contains(&key) {
                return Err(violation("is set more than once: remove all but one".into()));
            }
            seen.push(key);
            match key {
                "required_slot" if value.is_empty() => {
                    return Err(violation("must be the name of a slot".into()));
                }
                "required_slot" => {
                    let slot = slots.resolve(value).map_err(|error| violation(error.description))?.0;
                    route.required_slot = Some(slot);
                }
                "required_role" => {
                    let role = Role::parse(value);
                    let role = role.map_err(|_| {
                        violation("must be one role: 1 to 64 letters, digits or _ - . : /".into())
                    })?;
                    route.required_role = Some(role);
                }
                "optional" => route.optional = parse_bool(value).ok_or_else(|| violation(NOT_BOOL.into()))?,
                "peek" => route.peek = parse_bool(value).ok_or_else(|| violation(NOT_BOOL.into()))?,
                _ => {
                    // The log and the response get only a printable part of an unknown key.
                    let shown: String = key.chars().filter(char::is_ascii_graphic).take(64).collect();
                    return Err(Violation::new(field, format!("`{shown}` is not a known key; {KNOWN_KEYS}")));
                }
            }
        }
        if route.optional && (route.required_slot.is_some() || route.required_role.is_some()) {
            return Err(Violation::new(
                field,
                "optional: cannot be combined with required_slot or required_role, which requests without a token would bypass",
            ));
        }
        Ok(route)
    }
}

const KNOWN_KEYS: &str = "the known keys are required_slot, required_role, optional and peek";
const NOT_BOOL: &str = "must be true or false";

fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::sessions::{KickWar, OnLimit, SlotPolicy, Victim};

    fn parse(pairs: &[(&str, &str)]) -> Result<Route, String> {
        let policy = SlotPolicy {
            idle_timeout: Duration::from_secs(1),
            absolute_timeout: Duration::from_secs(1),
            limit: std::num::NonZeroU32::MIN,
            on_limit: OnLimit::Displace,
            victim: Victim::Oldest,
            exclusive: false,
            kick_war: KickWar { changes: 0, window: Duration::ZERO },
        };
        let slots = Slots::new(vec![(Slot::parse("web").unwrap(), policy)]).unwrap();
        Route::parse("query", pairs.iter().copied(), &slots).map_err(|error| {
            assert_eq!(error.field, "query");
            error.description
        })
    }

    #[test]
    fn a_route_is_parsed() {
        assert_eq!(parse(&[]), Ok(Route::default()));
        let route = parse(&[("required_slot", "web"), ("required_role", "admin"), ("peek", "true")]).unwrap();
        assert_eq!(route.required_slot.unwrap().as_str(), "web");
        assert_eq!(route.required_role.unwrap().as_str(), "admin");
        assert!(route.peek && !route.optional);
        assert!(parse(&[("optional", "true"), ("peek", "false")]).unwrap().optional);
    }

    #[test]
    fn a_violation_names_the_key() {
        for (pairs, names) in [
            (&[("require_role", "admin")][..], "require_role"),
            (&[("Required_Role", "admin")], "Required_Role"),
            (&[("", "x")], "``"),
            (&[("required_slot", "")], "required_slot"),
            (&[("required_slot", "tv")], "use one of: web"),
            (&[("required_role", "")], "required_role"),
            (&[("required_role", "admin,staff")], "must be one role"),
            (&[("optional", "yes")], "optional: must be true or false"),
            (&[("optional", "")], "optional"),
            (&[("peek", "TRUE")], "peek"),
            (&[("required_role", "a"), ("required_role", "b")], "more than once"),
            (&[("optional", "true"), ("required_role", "a")], "cannot be combined with"),
            (&[("required_slot", "web"), ("optional", "true")], "cannot be combined with"),
        ] {
            let error = parse(pairs).unwrap_err();
            assert!(error.contains(names), "{pairs:?}: {error}");
        }
    }
}
