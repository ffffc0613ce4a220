//! The configuration: defaults, overlaid by a file and then by the environment. An error is one line that names the key, the
//! value and the remedy.

mod check;
mod layers;
mod restart;
mod sections;
mod service_links;
mod standard_variables;

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Deserialize;
use toml::{Table, Value};
use url::Url;

use self::{
    check::Errors,
    layers::{differences, merge, overlay_variable, reset},
    standard_variables::StandardVariables,
};
use crate::domain::{
    callers::certificates::Certificates,
    sessions::{KickWar, SlotPolicy},
    types::Slot,
};

pub use self::restart::Settings;
pub use self::sections::{
    Access, Accounts, Audit, Browser, CacheSize, ClientCertificate, Gateway, Listen, Log, LogFormat, OnLimit,
    Otlp, Password, SameSite, SecretText, Server, Session, Sessions, SlotRules, Throttle, Tls, Token,
    Validate, ValidateAccess, Victim, Webhook,
};

/// Every configuration key with its default and its meaning, as TOML.
pub const DEFAULTS: &str = include_str!("config.default.toml");

/// Parses the URL of a server, to which paths can be appended: without user, query and fragment.
pub fn base_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain).then_some(url)
}

/// An error in the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The configuration. `config.default.toml` documents the keys.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub sessions: Sessions,
    pub accounts: Accounts,
    pub session: Session,
    pub slot: BTreeMap<String, SlotRules>,
    pub validate: Validate,
    pub token: Token,
    pub password: Password,
    pub throttle: Throttle,
    pub access: Access,
    pub gateway: Gateway,
    pub browser: Browser,
    pub tls: Tls,
    pub audit: Audit,
    pub webhook: Webhook,
    pub server: Server,
    pub log: Log,
    pub otlp: Otlp,
    /// All of them again, to find what has changed.
    #[serde(skip)]
    pub settings: Settings,
    /// Create missing keys although there are accounts. Only an option of `latchkey serve`, because it is for one start.
    #[serde(skip)]
    pub allow_new_keys: bool,
}

impl Config {
    /// Loads the configuration from the defaults, a file, and environment variables (pairs of name and value). Returns the
    /// first error.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        match Self::load_with_errors(file, environment) {
            (Some(config), errors) if errors.is_empty() => Ok(config),
            (_, errors) => {
                Err(errors.into_iter().next().unwrap_or_else(|| ConfigError("no configuration".into())))
            }
        }
    }

    /// Loads the configuration as far as possible, and returns all errors. A key with an error has its default, unless it is
    /// wrong only together with others.
    pub fn load_with_errors(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> (Option<Self>, Vec<ConfigError>) {
        let mut errors = Errors::default();
        let config = Self::load_and_check(file, environment, &mut errors);
        let errors = errors.0.into_iter().map(|ConfigError(message)| ConfigError(escaped(&message)));
        (config, errors.collect())
    }

    fn load_and_check(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        errors: &mut Errors,
    ) -> Option<Self> {
        let defaults = toml::from_str(DEFAULTS);
        let defaults: Table =
            errors.take(defaults.map_err(|error| ConfigError(format!("invalid defaults: {error}"))))?;
        let mut settings = defaults.clone();
        if let Some(path) = file {
            let overlay = errors.take(read_file(path))?;
            let mut in_file = Errors::default();
            merge(&mut settings, &defaults, overlay, "", &mut in_file);
            in_file.0.iter().for_each(|error| errors.add(format!("{error} (in {})", path.display())));
        }
        let mut standard = StandardVariables::default();
        for (name, value) in environment {
            standard.read(&name, &value);
            errors.take(overlay_variable(&mut settings, &defaults, &name, &value));
        }
        standard.apply(&mut settings);
        let parse = |settings: Table| {
            Value::Table(settings).try_into::<Self>().map_err(|error: toml::de::Error| {
                // The message has two lines: "message\nin `section.key`\n".
                ConfigError(error.to_string().trim().replace('\n', " "))
            })
        };
        if parse(settings.clone()).is_err() {
            // The parser stops at the first error, so each key is parsed alone.
            for (path, alone) in differences(&settings, &defaults) {
                if errors.take(parse(alone)).is_none() {
                    reset(&mut settings, &defaults, &path);
                }
            }
        }
        let mut config = errors.take(parse(settings.clone()))?;
        config.settings = Settings(settings);
        check::check(&config, errors);
        Some(config)
    }

    /// The slots and their rules. The first slot is the default of a login.
    pub fn slot_policies(&self) -> Result<Vec<(Slot, SlotPolicy)>, ConfigError> {
        let slots = self.slots()?;
        Ok(slots.into_iter().map(|slot| (slot.clone(), self.slot_policy(slot.as_str()))).collect())
    }

    fn slot_policy(&self, slot: &str) -> SlotPolicy {
        use crate::domain::sessions;
        let session = &self.session;
        let own = self.slot.get(slot).cloned().unwrap_or_default();
        SlotPolicy {
            idle_timeout: own.idle_timeout.unwrap_or(session.idle_timeout),
            absolute_timeout: own.absolute_timeout.unwrap_or(session.absolute_timeout),
            limit: own.limit.unwrap_or(session.limit),
            on_limit: match own.on_limit.unwrap_or(session.on_limit) {
                OnLimit::Displace => sessions::OnLimit::Displace,
                OnLimit::Deny => sessions::OnLimit::Deny,
            },
            victim: match own.victim.unwrap_or(session.victim) {
                Victim::Oldest => sessions::Victim::Oldest,
                Victim::LeastRecentlyUsed => sessions::Victim::LeastRecentlyUsed,
            },
            exclusive: session.exclusive,
            kick_war: KickWar { changes: session.kick_war_changes, window: session.kick_war_window },
        }
    }

    fn slots(&self) -> Result<Vec<Slot>, ConfigError> {
        let slots = self.session.slots.iter().map(|slot| {
            Slot::parse(slot)
                .map_err(|error| ConfigError(format!("session.slots: \"{slot}\" {}", error.description)))
        });
        slots.collect()
    }

    /// The networks of the proxies whose `x-forwarded-for` is believed.
    pub fn trusted_proxies(&self) -> Result<Vec<IpNet>, ConfigError> {
        let networks = self.throttle.trusted_proxies.iter().map(|text| {
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
                ConfigError(format!(
                    "throttle.trusted_proxies: \"{text}\" is not an address or a network such as 10.0.0.0/8"
                ))
            })
        });
        networks.collect()
    }

    /// The directory of the signing keys.
    pub fn keys_dir(&self) -> PathBuf {
        self.path_or(&self.token.keys_dir, "keys")
    }

    /// The name of the key file that signs, if it is configured.
    pub fn signing_key(&self) -> Option<&str> {
        Some(self.token.signing_key.as_str()).filter(|name| !name.is_empty())
    }

    /// The file of the admin key.
    pub fn admin_key_file(&self) -> PathBuf {
        self.path_or(&self.access.admin_key_file, "admin.key")
    }

    /// The client certificates that authenticate callers.
    pub fn certificates(&self) -> Result<Certificates, ConfigError> {
        Certificates::parse(&self.access.certificates)
            .map_err(|error| ConfigError(format!("access.certificates: {error}")))
    }

    /// The receiver of the webhook, if one is configured.
    pub fn webhook_url(&self) -> Result<Option<Url>, ConfigError> {
        let invalid = |message: &str| Err(ConfigError(format!("webhook.url {message}")));
        let text = self.webhook.url.0.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        // The value is not quoted, because it may contain a secret.
        let Ok(url) = Url::parse(text) else {
            return invalid("is not a URL such as https://example.com/latchkey");
        };
        if !matches!(url.scheme(), "https" | "http") {
            return invalid("must begin with https://, or with http:// on a private network");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must contain no user and password: the signature authenticates the server");
        }
        if url.fragment().is_some() {
            return invalid("must not contain a `#`, because the part after it is not sent");
        }
        Ok(Some(url))
    }

    fn path_or(&self, set: &str, name: &str) -> PathBuf {
        if set.is_empty() { self.data_dir.join(name) } else { PathBuf::from(set) }
    }
}

/// Escapes control characters: a message repeats names and values, which may contain any character.
fn escaped(message: &str) -> String {
    let mut escaped = String::with_capacity(message.len());
    for character in message.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("cannot read {}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| syntax_error(path, &error))
}

/// Makes one line of the error. The first line of its text has the position.
fn syntax_error(path: &Path, error: &toml::de::Error) -> ConfigError {
    let text = error.to_string();
    let position = text.lines().next().unwrap_or_default();
    let message = error.message().replace('\n', ", ");
    ConfigError(format!("{} is not TOML: {position}: {message}", path.display()))
}

#[cfg(test)]
mod tests;
