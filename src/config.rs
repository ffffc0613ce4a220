//! Settings: defaults, then a file, then the environment. What is wrong with them is one sentence that
//! names the key and the remedy.

mod layers;

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::{Table, Value};

use self::layers::{merge, overlay_variable};
use crate::domain::{keyring::KeyAlgorithm, types::Slot};

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
    pub validate: Validate,
    pub token: Token,
    pub password: Password,
    pub access: Access,
    pub server: Server,
    pub log: Log,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Listen {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

#[derive(Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Sessions {
    pub url: String,
    pub password: String,
    pub password_file: String,
    pub key_prefix: String,
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub response_timeout: Duration,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Accounts {
    pub url: String,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Session {
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub absolute_timeout: Duration,
    pub slots: Vec<String>,
    pub limit: NonZeroU32,
    pub on_limit: String,
    #[serde(deserialize_with = "duration")]
    pub tombstone_ttl: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Validate {
    #[serde(deserialize_with = "duration")]
    pub max_staleness: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Token {
    pub issuer: String,
    pub audience: String,
    pub algorithm: KeyAlgorithm,
    pub keys_dir: String,
    pub signing_key: String,
    #[serde(deserialize_with = "duration")]
    pub leeway: Duration,
    #[serde(deserialize_with = "duration")]
    pub reload_interval: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Password {
    pub memory_kib: u32,
    pub iterations: u32,
    pub parallelism: u32,
    pub allow_weak: bool,
    pub threads: usize,
    pub queue: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Access {
    pub admin_key_file: String,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Server {
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
    #[serde(deserialize_with = "duration")]
    pub request_timeout: Duration,
    pub max_connections: usize,
    pub max_requests: usize,
    pub max_streams: u32,
    #[serde(deserialize_with = "duration")]
    pub connection_age: Duration,
    pub reflection: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub enum LogFormat {
    Auto,
    Text,
    Json,
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
        config.validate()?;
        Ok(config)
    }

    /// Refuses what could not work or would not be safe.
    fn validate(&self) -> Result<(), ConfigError> {
        let session = &self.session;
        let refuse = |sentence: &str| Err(ConfigError(sentence.to_owned()));
        if session.idle_timeout > session.absolute_timeout {
            return refuse(
                "session.idle_timeout is longer than session.absolute_timeout, so it could never take effect: shorten it or lengthen the other",
            );
        }
        if session.idle_timeout < Duration::from_millis(100)
            || session.absolute_timeout < Duration::from_secs(1)
        {
            return refuse(
                "session.idle_timeout must be at least 100ms and session.absolute_timeout at least 1s",
            );
        }
        if session.absolute_timeout > Duration::from_hours(24 * 400) {
            return refuse("session.absolute_timeout must be at most 400d");
        }
        if session.slots.is_empty() {
            return refuse("session.slots must name at least one slot");
        }
        self.slots()?;
        if session.limit.get() > 16 {
            return refuse("session.limit must be 1 to 16");
        }
        if session.on_limit != "displace" {
            return refuse("session.on_limit must be \"displace\"");
        }
        if self.accounts.url != "embedded:" {
            return refuse("accounts.url must be \"embedded:\"");
        }
        if !self.sessions.password.is_empty() && !self.sessions.password_file.is_empty() {
            return refuse("sessions.password and sessions.password_file are both set: remove one");
        }
        if self.sessions.key_prefix.is_empty() || self.sessions.key_prefix.contains(['{', '}']) {
            return refuse("sessions.key_prefix must not be empty or contain braces");
        }
        if self.token.issuer.is_empty() || self.token.audience.is_empty() {
            return refuse("token.issuer and token.audience must not be empty");
        }
        if self.token.leeway > Duration::from_mins(5) {
            return refuse("token.leeway must be at most 5m: mend the clocks instead");
        }
        if self.token.reload_interval.is_zero() || self.server.connection_age.is_zero() {
            return refuse("token.reload_interval and server.connection_age must not be 0s");
        }
        let limits =
            [self.server.max_connections, self.server.max_requests, self.server.max_streams as usize];
        if limits.contains(&0) {
            return refuse(
                "server.max_connections, server.max_requests and server.max_streams must not be 0",
            );
        }
        self.validate_password()
    }

    fn validate_password(&self) -> Result<(), ConfigError> {
        let password = &self.password;
        let weak = password.memory_kib < 19456 || password.iterations < 2 || password.parallelism < 1;
        if weak && !password.allow_weak {
            return Err(ConfigError(
                "password.memory_kib, password.iterations and password.parallelism are below 19456, 2 and 1: raise them, or set password.allow_weak = true for tests"
                    .into(),
            ));
        }
        let possible = (8..=1 << 20).contains(&password.memory_kib)
            && (1..=64).contains(&password.iterations)
            && (1..=64).contains(&password.parallelism)
            && password.memory_kib >= 8 * password.parallelism;
        if !possible || password.threads > 1024 || password.queue > 1_000_000 {
            return Err(ConfigError(
                "password: memory_kib must be 8 to 1048576 and at least 8 times parallelism, iterations and parallelism 1 to 64, threads at most 1024, queue at most 1000000"
                    .into(),
            ));
        }
        Ok(())
    }

    /// The slots.
    pub fn slots(&self) -> Result<Vec<Slot>, ConfigError> {
        let slots = self.session.slots.iter().map(|slot| {
            Slot::parse(slot)
                .map_err(|error| ConfigError(format!("session.slots: \"{slot}\" {}", error.description)))
        });
        slots.collect()
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

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|_| {
        D::Error::custom(format!("\"{text}\" is not a duration such as 500ms, 90s, 15m, 24h or 30d"))
    })
}

#[cfg(test)]
mod tests;
