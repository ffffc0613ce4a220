//! Opens connections to Redis and verifies that the server is a primary that answers.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo as _,
    RedisError, RedisResult, ServerErrorKind, TlsCertificates, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::connection::{Channel, Channels, ConnectionKind};
use crate::store::secret_file;

/// The address and credentials of Redis.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host[:port][/db]`, the same with `rediss` for TLS, or `unix:///path`.
    pub url: String,
    /// The password if the URL has none.
    pub password: Option<String>,
    /// The file with the password if neither the URL nor `password` has one. It is read for each connection.
    pub password_file: Option<PathBuf>,
    /// The files for TLS. They are read for each connection.
    pub tls: RedisTlsFiles,
    /// The time limit for connecting.
    pub connect_timeout: Duration,
    /// The time limit for a response.
    pub response_timeout: Duration,
}

/// PEM files for TLS to Redis.
#[derive(Debug, Clone, Default)]
pub struct RedisTlsFiles {
    /// Root certificates to trust instead of those of the system (`sessions.tls_ca_file`).
    pub ca: Option<PathBuf>,
    /// The client's certificate (`sessions.tls_certificate_file`) and private key (`sessions.tls_key_file`).
    pub identity: Option<(PathBuf, PathBuf)>,
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

impl RedisSettings {
    /// Settings without a password and with the system's root certificates.
    pub fn new(url: String, connect_timeout: Duration, response_timeout: Duration) -> Self {
        let tls = RedisTlsFiles::default();
        Self { url, password: None, password_file: None, tls, connect_timeout, response_timeout }
    }

    /// Fails with one sentence if the URL or a file for TLS is invalid; it does not repeat the password.
    pub fn check(&self) -> Result<(), String> {
        self.client().map(|_| ())
    }

    /// Returns `host:port`, for messages.
    pub(super) fn address(&self) -> String {
        let info = self.url.as_str().into_connection_info();
        info.map_or_else(|_| "?".to_owned(), |info| info.addr().to_string())
    }

    /// Returns the current version of the password file.
    pub(super) fn password_version(&self) -> Option<FileVersion> {
        FileVersion::of(self.password_file.as_ref()?)
    }

    /// Returns the command that authenticates an open connection with the current password.
    pub(super) fn auth_command(&self) -> Result<Option<redis::Cmd>, String> {
        let client = self.with_current_password()?.client()?;
        let redis = client.get_connection_info().redis_settings();
        Ok(redis.password().map(|password| {
            let mut command = redis::cmd("AUTH");
            if let Some(user) = redis.username() {
                command.arg(user);
            }
            command.arg(password);
            command
        }))
    }

    fn with_current_password(&self) -> Result<Self, String> {
        let Some(path) = self.password_file.as_ref().filter(|_| self.password.is_none()) else {
            return Ok(self.clone());
        };
        let contents = secret_file::read(path)?;
        let text = std::str::from_utf8(&contents).map_err(|_| format!("{} is not UTF-8", path.display()))?;
        Ok(Self { password: Some(text.trim_end().to_owned()), ..self.clone() })
    }

    fn client(&self) -> Result<Client, String> {
        let invalid = |error: RedisError| format!("sessions.url: {error}");
        let info = self.url.as_str().into_connection_info().map_err(invalid)?;
        let mut redis = info.redis_settings().clone();
        if let (None, Some(password)) = (redis.password(), &self.password) {
            redis = redis.set_password(password);
        }
        // Without these a connection to a host that is gone stays open for a quarter of an hour.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(1))
            .with_retries(3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(Duration::from_secs(5));
        let info = info.set_redis_settings(redis).set_tcp_settings(tcp);
        match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                Err("sessions.url: #insecure would not verify the server: remove it, and name its root certificate \
                     in sessions.tls_ca_file"
                    .to_owned())
            }
            ConnectionAddr::TcpTls { .. } => {
                let build = Client::build_with_tls(info, self.tls.read()?);
                build.map_err(|error| format!("the certificates for TLS to Redis are not valid PEM: {error}"))
            }
            _ => Client::open(info).map_err(invalid),
        }
    }
}

/// Connects to a primary that answers.
pub(super) async fn connect(settings: &RedisSettings, kind: ConnectionKind) -> Result<Channels, String> {
    let password_version = settings.password_version();
    let client = settings
        .with_current_password()
        .map_err(|error| format!("sessions.password_file: {error}"))?
        .client()?;
    let mut read = open(&client, settings).await?;
    let role_check = RoleCheck::detect(&mut read).await?;
    // A server that is still loading its data answers ROLE, but not PING.
    let _: Value = redis::cmd("PING").query_async(&mut read).await.map_err(|error| error.to_string())?;
    let write = match kind {
        ConnectionKind::Requests => {
            let write = open(&client, settings).await?;
            warn_of_eviction(&mut read).await;
            write
        }
        ConnectionKind::Events => read.clone(),
    };
    Ok(Channels { read: Channel::new(read), write: Channel::new(write), role_check, password_version })
}

async fn open(client: &Client, settings: &RedisSettings) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(settings.response_timeout));
    let opened = client.get_multiplexed_async_connection_with_config(&config).await;
    opened.map_err(|error| error.to_string())
}

/// The command that verifies that a server is a primary. After a failover the old address may lead to a replica,
/// which answers reads and rejects writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoleCheck {
    /// ROLE is the usual command, but it is in the ACL category `@dangerous`.
    Role,
    /// HELLO is allowed to every user.
    Hello,
}

impl RoleCheck {
    /// Returns the first command that the user may send. Fails if the server is not a primary.
    async fn detect(connection: &mut MultiplexedConnection) -> Result<Self, String> {
        for check in [Self::Role, Self::Hello] {
            match check.command().query_async(connection).await {
                Ok(response) => return check.require_primary(response).map(|()| check),
                Err(error) if is_not_permitted(&error) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("the user may send neither ROLE nor HELLO, one of which is needed to tell a primary from a replica: \
             allow ROLE with ACL SETUSER <user> +role"
            .to_owned())
    }

    pub(super) fn command(self) -> redis::Cmd {
        redis::cmd(match self {
            Self::Role => "ROLE",
            Self::Hello => "HELLO",
        })
    }

    /// Fails unless the response to [`Self::command`] comes from a primary.
    pub(super) fn require_primary(self, response: Value) -> Result<(), String> {
        let role = match (self, response) {
            (Self::Role, Value::Array(parts)) => parts.into_iter().next(),
            (Self::Hello, Value::Array(parts)) => {
                let is_role =
                    |part: &Value| redis::from_redis_value_ref(part).is_ok_and(|name: String| name == "role");
                parts.iter().position(is_role).and_then(|at| parts.into_iter().nth(at + 1))
            }
            (Self::Hello, Value::Map(parts)) => parts.into_iter().find_map(|(name, role)| {
                redis::from_redis_value(name).is_ok_and(|name: String| name == "role").then_some(role)
            }),
            (_, other) => Some(other),
        };
        let role: String = redis::from_redis_value(role.unwrap_or(Value::Nil)).unwrap_or_default();
        if role == "master" { Ok(()) } else { Err(format!("its role is {role}, not master")) }
    }
}

fn is_not_permitted(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// With any policy but noeviction, Redis may drop sessions when its memory is full, which logs users out.
async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    let info: RedisResult<String> = redis::cmd("INFO").arg("memory").query_async(connection).await;
    if info.as_ref().is_err_and(is_not_permitted) {
        tracing::info!(
            "the Redis user may not send INFO, so maxmemory-policy was not checked; it must be noeviction"
        );
    }
    let policy = info.ok().and_then(|info| {
        info.lines()
            .find_map(|line| line.strip_prefix("maxmemory_policy:").map(|policy| policy.trim().to_owned()))
    });
    if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
        tracing::warn!(
            redis.maxmemory_policy = policy,
            "Redis may drop sessions when its memory is full: set maxmemory-policy to noeviction"
        );
    }
}
