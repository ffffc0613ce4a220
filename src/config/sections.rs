//! The sections of the settings, as types.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Value;

use super::ConfigError;
use crate::domain::keyring::KeyAlgorithm;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Listen {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub http_url: String,
    pub json: bool,
    pub grpc_json: bool,
}

#[derive(Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Sessions {
    pub url: String,
    pub password: String,
    pub password_file: String,
    pub sentinel_password: String,
    pub sentinel_password_file: String,
    pub tls_ca_file: String,
    pub tls_certificate_file: String,
    pub tls_key_file: String,
    pub key_prefix: String,
    pub buckets: u16,
    pub durability: String,
    #[serde(deserialize_with = "duration")]
    pub durability_timeout: Duration,
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

#[derive(Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Accounts {
    pub url: String,
    pub password: String,
    pub password_file: String,
    pub max_connections: NonZeroU32,
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub query_timeout: Duration,
    pub lookup: String,
    pub lookup_by_id: String,
    pub update_hash: String,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
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
    pub on_limit: OnLimit,
    pub victim: Victim,
    pub exclusive: bool,
    pub kick_war_changes: usize,
    #[serde(deserialize_with = "duration")]
    pub kick_war_window: Duration,
    #[serde(deserialize_with = "duration")]
    pub tombstone_ttl: Duration,
}

/// The rules of one slot; a missing one is that of `session`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct SlotRules {
    #[serde(deserialize_with = "some_duration")]
    pub idle_timeout: Option<Duration>,
    #[serde(deserialize_with = "some_duration")]
    pub absolute_timeout: Option<Duration>,
    pub limit: Option<NonZeroU32>,
    pub on_limit: Option<OnLimit>,
    pub victim: Option<Victim>,
}

/// The effect of a login in a full slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub enum OnLimit {
    Displace,
    Deny,
}

/// The session that is displaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub enum Victim {
    Oldest,
    LeastRecentlyUsed,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Validate {
    #[serde(deserialize_with = "duration")]
    pub max_staleness: Duration,
    pub cache_mib: CacheSize,
}

/// The size of the near-cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSize {
    /// A share of the memory that the process may use.
    Auto,
    /// So many MiB.
    Mib(u64),
}

impl CacheSize {
    /// The value that stands for [`Self::Auto`].
    pub const AUTO: &str = "auto";
}

impl<'de> Deserialize<'de> for CacheSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let invalid = |value: &Value| {
            D::Error::custom(format!("{value} is neither \"auto\" nor a whole number of MiB, such as 64"))
        };
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == Self::AUTO => Ok(Self::Auto),
            Value::Integer(mib) => {
                u64::try_from(mib).map(Self::Mib).map_err(|_| invalid(&Value::Integer(mib)))
            }
            other => Err(invalid(&other)),
        }
    }
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
    #[serde(deserialize_with = "duration_unless_empty")]
    pub activation_delay: Option<Duration>,
}

impl Token {
    /// How long a new key is published before it signs. The default is twice `reload_interval`.
    pub fn activation_delay(&self) -> Duration {
        self.activation_delay.unwrap_or(self.reload_interval * 2)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Password {
    pub min_length: usize,
    pub blocklist: Vec<String>,
    pub memory_kib: u32,
    pub iterations: u32,
    pub parallelism: u32,
    pub allow_weak: bool,
    pub threads: usize,
    pub queue: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Throttle {
    pub free_attempts: u32,
    #[serde(deserialize_with = "duration")]
    pub first_wait: Duration,
    #[serde(deserialize_with = "duration")]
    pub longest_wait: Duration,
    pub max_failures: u32,
    pub address_failures: u32,
    #[serde(deserialize_with = "duration")]
    pub address_window: Duration,
    pub trusted_proxies: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Access {
    pub admin_key_file: String,
    pub callers_url: SecretText,
    pub validate: ValidateAccess,
    pub certificates: Vec<String>,
    #[serde(deserialize_with = "duration")]
    pub outage_grace: Duration,
}

/// Who may call Validate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub enum ValidateAccess {
    Open,
    Caller,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Gateway {
    pub cookie: String,
    pub user_id_header: String,
    pub username_header: String,
    pub session_id_header: String,
    pub slot_header: String,
    pub roles_header: String,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Browser {
    pub origins: Vec<String>,
    pub set_cookie: bool,
    pub cookie_same_site: SameSite,
    pub cookie_domain: String,
}

/// The `SameSite` attribute of the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Tls {
    pub certificate_file: String,
    pub key_file: String,
    pub client_ca_file: String,
    pub client_certificate: ClientCertificate,
    #[serde(deserialize_with = "duration")]
    pub reload_interval: Duration,
}

impl Tls {
    /// Returns whether the gRPC port uses TLS.
    pub fn is_on(&self) -> bool {
        !self.certificate_file.is_empty()
    }
}

/// Whether clients must present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub enum ClientCertificate {
    Optional,
    Required,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Audit {
    pub log: bool,
    pub log_imports: bool,
    pub file: String,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Webhook {
    pub url: SecretText,
    pub secret: SecretText,
    pub secret_file: String,
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    pub batch: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Server {
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
    #[serde(deserialize_with = "duration")]
    pub request_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub body_timeout: Duration,
    pub max_connections: usize,
    pub max_requests: usize,
    pub max_streams: u32,
    pub max_open_streams: usize,
    pub max_watches: usize,
    pub max_watches_per_session: usize,
    pub max_watches_per_user: usize,
    pub max_unfinished_mib: usize,
    pub client_share_percent: usize,
    #[serde(deserialize_with = "duration")]
    pub connection_age: Duration,
    #[serde(deserialize_with = "duration")]
    pub connection_age_grace: Duration,
    pub reflection: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub struct Otlp {
    pub endpoint: String,
    pub sample_ratio: f64,
    pub follow_parent: bool,
    #[serde(deserialize_with = "duration")]
    pub metrics_interval: Duration,
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    pub service_name: String,
    pub resource_attributes: Vec<String>,
    pub headers_file: String,
    pub ca_file: String,
}

impl Otlp {
    /// Returns whether requests may be traced.
    pub fn traces(&self) -> bool {
        !self.endpoint.is_empty() && (self.sample_ratio > 0.0 || self.follow_parent)
    }

    /// The name of the service.
    pub fn service_name(&self) -> &str {
        if self.service_name.is_empty() { "latchkey" } else { &self.service_name }
    }

    /// The attributes of the process.
    pub fn attributes(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let pairs = self.resource_attributes.iter().map(|text| {
            let pair = text.split_once('=').filter(|(key, _)| !key.trim().is_empty());
            let decode = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
            pair.map(|(key, value)| (decode(key), decode(value))).ok_or_else(|| {
                ConfigError(format!(
                    "otlp.resource_attributes: \"{text}\" is not of the form key=value, such as deployment.environment.name=production"
                ))
            })
        });
        pairs.collect()
    }
}

/// A text that may contain a secret, which `Debug` does not print.
#[derive(Clone, Deserialize)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText([redacted])")
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config.default.toml documents every key, once")]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|_| {
        D::Error::custom(format!("\"{text}\" is not a duration such as 500ms, 90s, 15m, 24h or 30d"))
    })
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn duration_unless_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        Ok(None)
    } else {
        duration(serde::de::value::StringDeserializer::new(text)).map(Some)
    }
}
