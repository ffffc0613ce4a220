//! Settings: defaults, then a file, then the environment. What is wrong with them is one sentence that
//! names the key and the remedy.

mod check;
mod layers;
mod sections;
mod service_links;

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

use self::layers::{merge, overlay_variable};
use crate::domain::{
    callers::certificates::Certificates,
    sessions::{KickWar, SlotPolicy},
    types::Slot,
};

pub use self::sections::{
    Access, Accounts, Audit, Browser, ClientCertificate, Gateway, Listen, Log, LogFormat, OnLimit, Password,
    SameSite, SecretText, Server, Session, Sessions, SlotRules, Throttle, Tls, Token, Validate,
    ValidateAccess, Victim, Webhook,
};

/// Every setting with its default and its meaning.
pub const DEFAULTS: &str = include_str!("config.default.toml");

/// What is wrong with the settings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The settings. `config.default.toml` documents them.
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
    /// Make keys that are missing although there are accounts. Of the command line alone: it is for one start.
    #[serde(skip)]
    pub allow_new_keys: bool,
}

impl Config {
    /// The settings from the defaults, a file, and environment variables (`name=value` pairs).
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let defaults: Table =
            toml::from_str(DEFAULTS).map_err(|error| ConfigError(format!("the defaults: {error}")))?;
        let mut settings = defaults.clone();
        if let Some(path) = file {
            let text = fs::read_to_string(path)
                .map_err(|error| ConfigError(format!("cannot read {}: {error}", path.display())))?;
            let overlay: Table = toml::from_str(&text).map_err(|error| not_toml(path, &error))?;
            merge(&mut settings, &defaults, overlay, "")
                .map_err(|error| ConfigError(format!("{error} (in {})", path.display())))?;
        }
        for (name, value) in environment {
            overlay_variable(&mut settings, &defaults, &name, &value)?;
        }
        let config: Self = Value::Table(settings).try_into().map_err(|error: toml::de::Error| {
            // "message\nin `section.key`\n", to be read in one line.
            ConfigError(error.to_string().trim().replace('\n', " "))
        })?;
        check::check(&config)?;
        Ok(config)
    }

    /// The slots and their rules; the first is that of logins that name none.
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

    /// The slots.
    fn slots(&self) -> Result<Vec<Slot>, ConfigError> {
        let slots = self.session.slots.iter().map(|slot| {
            Slot::parse(slot)
                .map_err(|error| ConfigError(format!("session.slots: \"{slot}\" {}", error.description)))
        });
        slots.collect()
    }

    /// The networks of the proxies whose word on their clients' addresses counts.
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

    /// Where the signing keys are.
    pub fn keys_dir(&self) -> PathBuf {
        self.path_or(&self.token.keys_dir, "keys")
    }

    /// The file in the key directory that signs; the last by name where none is named.
    pub fn signing_key(&self) -> Option<&str> {
        Some(self.token.signing_key.as_str()).filter(|name| !name.is_empty())
    }

    /// Where the admin key is.
    pub fn admin_key_file(&self) -> PathBuf {
        self.path_or(&self.access.admin_key_file, "admin.key")
    }

    /// The certificates that are callers.
    pub fn certificates(&self) -> Result<Certificates, ConfigError> {
        Certificates::parse(&self.access.certificates)
            .map_err(|error| ConfigError(format!("access.certificates: {error}")))
    }

    /// Who is told of sessions that ended, if anybody is.
    pub fn webhook_url(&self) -> Result<Option<Url>, ConfigError> {
        let refuse = |sentence: &str| Err(ConfigError(format!("webhook.url {sentence}")));
        let text = self.webhook.url.0.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        // What is wrong is not quoted: it may hold a secret.
        let Ok(url) = Url::parse(text) else {
            return refuse("is not a URL such as https://example.com/latchkey");
        };
        if !matches!(url.scheme(), "https" | "http") {
            return refuse("must begin with https://, or with http:// where nobody can listen in");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("must hold no user and password: the receiver knows us by the signature");
        }
        if url.fragment().is_some() {
            return refuse("must not hold a `#`: what follows it would not be sent");
        }
        Ok(Some(url))
    }

    fn path_or(&self, set: &str, name: &str) -> PathBuf {
        if set.is_empty() { self.data_dir.join(name) } else { PathBuf::from(set) }
    }
}

/// The library draws a picture of the line; its first line says where, and the message what.
fn not_toml(path: &Path, error: &toml::de::Error) -> ConfigError {
    let picture = error.to_string();
    let place = picture.lines().next().unwrap_or_default();
    let what = error.message().replace('\n', ", ");
    ConfigError(format!("{} is not TOML: {place}: {what}", path.display()))
}

#[cfg(test)]
mod tests;
