//! Addresses, credentials and limits of Redis, and the clients that are built from them.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo,
    TlsCertificates,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::url::{Endpoint, RedisUrl, Servers};
use crate::store::secret_file;

/// The largest number of buckets.
pub const MAX_BUCKETS: u16 = 4096;

/// Addresses, credentials and limits of Redis.
#[derive(Clone)]
pub struct RedisSettings {
    /// See `url.rs`.
    pub url: String,
    /// The password of the data nodes.
    pub password: Password,
    /// The password of the Sentinels.
    pub sentinel_password: Password,
    /// The files for TLS. They are read for each connection.
    pub tls: RedisTlsFiles,
    /// The time limit for connecting.
    pub connect_timeout: Duration,
    /// The time limit for a response.
    pub response_timeout: Duration,
    /// When a commit is acknowledged.
    pub durability: Durability,
    /// The number of buckets of a new store, 1 to [`MAX_BUCKETS`]. It is part of the format: a store that exists must
    /// have the same number.
    pub buckets: u16,
}

/// A password from the configuration.
#[derive(Clone, Default)]
pub enum Password {
    /// There is none, unless the URL has one.
    #[default]
    None,
    /// The password itself.
    Value(String),
    /// A file that is read for each connection.
    File(PathBuf),
}

/// When a commit is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the primary has it.
    Primary,
    /// When this number of replicas have it, too, or never after the time limit.
    Replicas {
        /// The number of replicas, at least 1.
        count: u32,
        /// How long to wait for them.
        timeout: Duration,
    },
}

/// PEM files for TLS to Redis.
#[derive(Debug, Clone, Default)]
pub struct RedisTlsFiles {
    /// Root certificates to trust instead of those of the system (`sessions.tls_ca_file`).
    pub ca: Option<PathBuf>,
    /// The client's certificate (`sessions.tls_certificate_file`) and private key (`sessions.tls_key_file`).
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Selects credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    DataNode,
    Sentinel,
}

impl RedisTlsFiles {
    /// Reads the files. Fails with the key of the one that cannot be read.
    fn read(&self) -> Result<TlsCertificates, String> {
        let read = |key: &str, path: &Path| {
            fs::read(path).map_err(|error| format!("sessions.{key}: {}: {error}", path.display()))
        };
        let root_cert = self.ca.as_deref().map(|path| read("tls_ca_file", path)).transpose()?;
        let client_tls = match &self.identity {
            None => None,
            Some((certificate, key)) => Some(ClientTlsConfig {
                client_cert: read("tls_certificate_file", certificate)?,
                client_key: secret_file::read(key)
                    .map_err(|error| format!("sessions.tls_key_file: {error}"))?
                    .to_vec(),
            }),
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }

    /// The current versions of the files.
    pub(super) fn version(&self) -> Vec<Option<FileVersion>> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.ca.iter().chain(identity).map(|path| FileVersion::of(path)).collect()
    }
}

/// Identifies a version of a file by its modification time, inode and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileVersion {
    modified: (i64, i64),
    inode: u64,
    length: u64,
}

impl FileVersion {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self { modified: (file.mtime(), file.mtime_nsec()), inode: file.ino(), length: file.len() })
    }
}

impl Password {
    /// Returns the current password. `key` is that of the configuration, for messages.
    fn read(&self, key: &str) -> Result<Option<String>, String> {
        match self {
            Self::None => Ok(None),
            Self::Value(password) => Ok(Some(password.clone())),
            Self::File(path) => {
                let contents = secret_file::read(path).map_err(|error| format!("{key}_file: {error}"))?;
                let text = std::str::from_utf8(&contents)
                    .map_err(|_| format!("{key}_file: {} is not UTF-8", path.display()))?;
                Ok(Some(text.trim_end().to_owned()))
            }
        }
    }

    /// Returns the current version of the file.
    fn version(&self) -> Option<FileVersion> {
        match self {
            Self::File(path) => FileVersion::of(path),
            Self::None | Self::Value(_) => None,
        }
    }
}

impl RedisSettings {
    /// Settings without passwords and with the system's root certificates.
    pub fn new(url: String, connect_timeout: Duration, response_timeout: Duration) -> Self {
        Self {
            url,
            password: Password::None,
            sentinel_password: Password::None,
            tls: RedisTlsFiles::default(),
            connect_timeout,
            response_timeout,
            durability: Durability::Primary,
            buckets: super::layout::DEFAULT_BUCKETS,
        }
    }

    /// Fails with one sentence if the URL or a file is invalid; it does not repeat a password.
    pub fn check(&self) -> Result<(), String> {
        let RedisUrl { servers, tls, redis } = self.parse_url()?;
        if !tls && (self.tls.ca.is_some() || self.tls.identity.is_some()) {
            return Err(
                "sessions.tls_ca_file, tls_certificate_file and tls_key_file need sessions.url = \"rediss://...\""
                    .to_owned(),
            );
        }
        if !(0..=i64::from(i32::MAX)).contains(&redis.db()) {
            return Err(format!("sessions.url: there is no database {}: use 0 to {}", redis.db(), i32::MAX));
        }
        if !(1..=MAX_BUCKETS).contains(&self.buckets) {
            return Err(format!("sessions.buckets must be 1 to {MAX_BUCKETS}"));
        }
        let (endpoint, peer) = match &servers {
            Servers::Single(endpoint) => (Some(endpoint), Peer::DataNode),
            Servers::Cluster { seeds } => (seeds.first(), Peer::DataNode),
            Servers::Sentinel { sentinels, .. } => (sentinels.first(), Peer::Sentinel),
        };
        if peer == Peer::DataNode && !matches!(self.sentinel_password, Password::None) {
            return Err("sessions.sentinel_password needs sessions.url = \"redis+sentinel://...\"".to_owned());
        }
        if let Some(endpoint) = endpoint {
            self.client(endpoint, peer, ProtocolVersion::RESP2)?;
        }
        // The password of the data nodes as well, if the first client was for a Sentinel.
        self.password.read("sessions.password").map(drop)
    }

    pub(super) fn is_cluster(&self) -> Result<bool, String> {
        Ok(matches!(self.parse_url()?.servers, Servers::Cluster { .. }))
    }

    pub(super) fn parse_url(&self) -> Result<RedisUrl, String> {
        RedisUrl::parse(&self.url)
    }

    /// Returns the current version of the file with the password of the data nodes.
    pub(super) fn password_version(&self) -> Option<FileVersion> {
        self.password.version()
    }

    /// Returns the command that authenticates an open connection to a data node with the current password.
    pub(super) fn auth_command(&self) -> Result<Option<redis::Cmd>, String> {
        let redis = self.credentials(Peer::DataNode)?;
        Ok(redis.password().map(|password| {
            let mut command = redis::cmd("AUTH");
            if let Some(user) = redis.username() {
                command.arg(user);
            }
            command.arg(password);
            command
        }))
    }

    /// Returns a client for one server, with the current credentials and files.
    pub(super) fn client(
        &self,
        endpoint: &Endpoint,
        peer: Peer,
        protocol: ProtocolVersion,
    ) -> Result<Client, String> {
        let invalid = |error: redis::RedisError| format!("sessions.url: {error}");
        let tls = self.parse_url()?.tls;
        let address = match endpoint.clone() {
            Endpoint::Unix(path) => ConnectionAddr::Unix(path),
            Endpoint::Tcp { host, port } if tls => {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            }
            Endpoint::Tcp { host, port } => ConnectionAddr::Tcp(host, port),
        };
        // Without these a connection to a host that is gone stays open for a quarter of an hour.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(1))
            .with_retries(3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(Duration::from_secs(5));
        let info = address.into_connection_info().map_err(invalid)?;
        let info =
            info.set_redis_settings(self.credentials(peer)?.set_protocol(protocol)).set_tcp_settings(tcp);
        if tls {
            let build = Client::build_with_tls(info, self.tls.read()?);
            build.map_err(|error| format!("the certificates for TLS to Redis are not valid PEM: {error}"))
        } else {
            Client::open(info).map_err(invalid)
        }
    }

    /// Returns user, password and database for a server.
    fn credentials(&self, peer: Peer) -> Result<RedisConnectionInfo, String> {
        match peer {
            Peer::DataNode => {
                let redis = self.parse_url()?.redis;
                match self.password.read("sessions.password")? {
                    Some(password) if redis.password().is_none() => Ok(redis.set_password(password)),
                    _ => Ok(redis),
                }
            }
            Peer::Sentinel => {
                let redis = RedisConnectionInfo::default();
                match self.sentinel_password.read("sessions.sentinel_password")? {
                    Some(password) => Ok(redis.set_password(password)),
                    None => Ok(redis),
                }
            }
        }
    }
}
