//! Secrets that others can read or guess.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use toml::Table;
use url::Url;

use super::Findings;
use crate::{config::Config, domain::guessable::why_guessable, store::secret_file};

/// Shorter passwords of stores can be tried out by whoever reaches the store.
const MIN_LENGTH: usize = 16;
/// Characters of a password that must not be part of words.
const MIN_RANDOM_CHARACTERS: usize = 8;

/// Keys whose value is a secret.
const SECRETS: [(&str, &str); 4] = [
    ("sessions", "password"),
    ("sessions", "sentinel_password"),
    ("accounts", "password"),
    ("webhook", "secret"),
];
/// Keys whose value is a URL, which may hold a password.
const URLS: [(&str, &str); 3] = [("sessions", "url"), ("accounts", "url"), ("access", "callers_url")];

/// Warns if others can read a configuration file with a secret.
pub(super) fn configuration_file(file: Option<&Path>, found: &mut Findings) {
    let Some(path) = file else { return };
    let (Ok(metadata), Ok(text)) = (fs::metadata(path), fs::read_to_string(path)) else { return };
    let Ok(settings) = text.parse::<Table>() else { return };
    let value = |(section, key): &(&str, &str)| settings.get(*section)?.get(*key)?.as_str();
    let is_set = |key| value(key).is_some_and(|text| !text.is_empty());
    let has_password = |key| value(key).is_some_and(|url| password_in(url).is_some());
    let mode = metadata.permissions().mode() & 0o7777;
    let (path, has_secret) = (path.display(), SECRETS.iter().any(is_set) || URLS.iter().any(has_password));
    if has_secret && mode & 0o004 != 0 {
        let what =
            format!("{path} holds a password or secret and can be read by everybody (mode {mode:04o})");
        found.error(
            "configuration_file",
            what,
            format!("run `chmod 600 {path}`, or move the secret to a file of its own"),
        );
    } else {
        found.ok("configuration_file", format!("no secret in {path} can be read by everybody"));
    }
}

/// Warns of passwords of stores that can be guessed. Those of Latchkey itself prevent a start.
pub(super) fn strength(config: &Config, found: &mut Findings) {
    let from_file = |path: &str| {
        let contents = (!path.is_empty()).then(|| secret_file::read(Path::new(path)).ok()).flatten()?;
        Some(String::from_utf8_lossy(&contents).trim_end().to_owned())
    };
    let (sessions, accounts) = (&config.sessions, &config.accounts);
    let passwords = [
        ("sessions.password", Some(sessions.password.clone())),
        ("sessions.password_file", from_file(&sessions.password_file)),
        ("sessions.url", password_in(&sessions.url)),
        ("sessions.sentinel_password", Some(sessions.sentinel_password.clone())),
        ("sessions.sentinel_password_file", from_file(&sessions.sentinel_password_file)),
        ("accounts.password", Some(accounts.password.clone())),
        ("accounts.password_file", from_file(&accounts.password_file)),
        ("accounts.url", password_in(&accounts.url)),
        ("access.callers_url", password_in(&config.access.callers_url.0)),
    ];
    let mut is_good = true;
    for (setting, password) in passwords {
        let Some(password) = password.filter(|password| !password.is_empty()) else { continue };
        let why = if password.chars().count() < MIN_LENGTH {
            Some("it is shorter than 16 characters")
        } else {
            why_guessable(password.as_bytes(), MIN_RANDOM_CHARACTERS)
        };
        if let Some(why) = why {
            is_good = false;
            let what = format!("{setting}: the password can be guessed, because {why}");
            found.warning("secrets", what, "set a random one, such as `openssl rand -base64 24` prints");
        }
    }
    if is_good {
        found.ok("secrets", "no password of a store is short or follows a pattern");
    }
}

fn password_in(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let password = percent_encoding::percent_decode_str(url.password()?).decode_utf8_lossy().into_owned();
    Some(password).filter(|password| !password.is_empty())
}
