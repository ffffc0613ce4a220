//! Finds the settings that have changed since the start.

use std::fmt;

use toml::Table;

use super::{Config, layers::differences};

/// Keys whose changes take effect when the configuration is read again.
const RELOADED: [&str; 1] = ["log.level"];

/// Every setting as it was read. They contain secrets, which `Debug` does not print.
#[derive(Clone, Default)]
pub struct Settings(pub(super) Table);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settings([redacted])")
    }
}

impl Config {
    /// The keys whose values differ in `newer` and take effect only after a restart.
    pub fn needs_restart(&self, newer: &Self) -> Vec<String> {
        let (before, after) = (&self.settings.0, &newer.settings.0);
        // A section that exists only in one of them is found in one direction.
        let both = differences(before, after).into_iter().chain(differences(after, before));
        let mut changed: Vec<_> = both.map(|(path, _)| path.join(".")).collect();
        changed.retain(|key| !RELOADED.contains(&key.as_str()));
        changed.sort_unstable();
        changed.dedup();
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Config {
        let variables = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(None, variables).unwrap()
    }

    #[test]
    fn changed_keys_are_those_that_need_a_restart() {
        let before = config(&[]);
        assert!(before.needs_restart(&config(&[("LATCHKEY_LOG__LEVEL", "debug")])).is_empty());
        let after = config(&[
            ("LATCHKEY_LOG__FORMAT", "json"),
            ("LATCHKEY_SESSION__SLOTS", "web,mobile"),
            ("LATCHKEY_SLOT__MOBILE__LIMIT", "3"),
            ("LATCHKEY_SESSIONS__PASSWORD", "hunter2"),
        ]);
        let changed = before.needs_restart(&after);
        assert_eq!(changed, ["log.format", "session.slots", "sessions.password", "slot.mobile"]);
        assert_eq!(after.needs_restart(&before), changed);
        assert!(!format!("{after:?}").contains("hunter2"));
    }
}
