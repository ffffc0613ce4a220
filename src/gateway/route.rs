//! What a route asks for besides a token: keys and values that whoever runs the gateway has set for it.

use crate::domain::{
    Slots, Violation,
    types::{Role, Slot},
};

/// What a route asks for. By default: a good token, of whatever user and slot, whose use counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// The session must be in this slot.
    pub required_slot: Option<Slot>,
    /// The user must have this role.
    pub required_role: Option<Role>,
    /// Who has no token passes, as nobody. A bad one is still denied.
    pub optional: bool,
    /// The idle timeout does not slide.
    pub peek: bool,
}

const KNOWN: &str = "known are required_slot, required_role, optional and peek";

impl Route {
    /// From keys and values that stand in `place`. What is not known or not right is refused, and so nobody
    /// passes: a role that is misspelt must not be one that nobody needs.
    pub(super) fn parse<'a>(
        place: &'static str,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        slots: &Slots,
    ) -> Result<Self, Violation> {
        let mut route = Self::default();
        let mut seen = Vec::new();
        for (key, value) in pairs {
            let wrong = |what: String| Violation::new(place, format!("{key}: {what}"));
            if seen.contains(&key) {
                return Err(wrong("is there more than once: remove all but one".into()));
            }
            seen.push(key);
            match key {
                "required_slot" if value.is_empty() => return Err(wrong("must name a slot".into())),
                "required_slot" => {
                    let slot = slots.resolve(value).map_err(|error| wrong(error.description))?.0;
                    route.required_slot = Some(slot);
                }
                "required_role" => {
                    let role = Role::parse(value);
                    let role = role.map_err(|_| {
                        wrong("must be one role: 1 to 64 letters, digits or _ - . : /".into())
                    })?;
                    route.required_role = Some(role);
                }
                "optional" => route.optional = truth(value).ok_or_else(|| wrong(TRUTH.into()))?,
                "peek" => route.peek = truth(value).ok_or_else(|| wrong(TRUTH.into()))?,
                _ => {
                    // Of what is not ours, only what is fit for a log.
                    let shown: String = key.chars().filter(char::is_ascii_graphic).take(64).collect();
                    return Err(Violation::new(place, format!("`{shown}` is not known here; {KNOWN}")));
                }
            }
        }
        if route.optional && (route.required_slot.is_some() || route.required_role.is_some()) {
            return Err(Violation::new(
                place,
                "optional: cannot go with required_slot or required_role, which who has no token would get around",
            ));
        }
        Ok(route)
    }
}

const TRUTH: &str = "must be true or false";

fn truth(value: &str) -> Option<bool> {
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
    fn a_route_asks_for_what_is_set_for_it() {
        assert_eq!(parse(&[]), Ok(Route::default()));
        let route = parse(&[("required_slot", "web"), ("required_role", "admin"), ("peek", "true")]).unwrap();
        assert_eq!(route.required_slot.unwrap().as_str(), "web");
        assert_eq!(route.required_role.unwrap().as_str(), "admin");
        assert!(route.peek && !route.optional);
        assert!(parse(&[("optional", "true"), ("peek", "false")]).unwrap().optional);
    }

    #[test]
    fn what_is_not_right_is_refused_by_name() {
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
            (&[("optional", "true"), ("required_role", "a")], "cannot go with"),
            (&[("required_slot", "web"), ("optional", "true")], "cannot go with"),
        ] {
            let error = parse(pairs).unwrap_err();
            assert!(error.contains(names), "{pairs:?}: {error}");
        }
    }
}
