//! Connecting to Redis: where, as whom, and to a server that may be used.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult,
    ServerErrorKind, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::connection::{Channel, Live, Purpose};
use crate::store::secret_file;

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host[:port][/db]`.
    pub url: String,
    /// Used where the URL has no password.
    pub password: Option<String>,
    /// Holds the password, where neither the URL nor `password` has one. It is read again for each connection.
    pub password_file: Option<PathBuf>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub response_timeout: Duration,
}

/// Tells a file from its predecessors: when it was changed, which file it is, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(i64, i64, u64, u64);

impl RedisSettings {
    /// Returns what is wrong with the URL, if anything is.
    pub fn check(&self) -> Result<(), String> {
        self.client().map(|_| ()).map_err(|error| error.to_string())
    }

    /// The server, without a password: `host:port`.
    pub(super) fn address(&self) -> String {
        let info = self.url.as_str().into_connection_info();
        info.map_or_else(|_| "?".to_owned(), |info| info.addr().to_string())
    }

    /// Identifies the present contents of the password file.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        let file = fs::metadata(self.password_file.as_ref()?).ok()?;
        Some(Fingerprint(file.mtime(), file.mtime_nsec(), file.ino(), file.len()))
    }

    /// The command that authenticates an open connection with the present password.
    pub(super) fn authenticate(&self) -> Result<Option<redis::Cmd>, String> {
        let client = self.with_current_password()?.client().map_err(|error| error.to_string())?;
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

    fn client(&self) -> RedisResult<Client> {
        let info = self.url.as_str().into_connection_info()?;
        let mut redis = info.redis_settings().clone();
        if let (None, Some(password)) = (redis.password(), &self.password) {
            redis = redis.set_password(password);
        }
        // Without these a link whose other side is gone stays open for a quarter of an hour.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(1))
            .with_retries(3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(Duration::from_secs(5));
        Client::open(info.set_redis_settings(redis).set_tcp_settings(tcp))
    }
}

/// Connects, and makes sure that the server is a master that answers.
pub(super) async fn connect(settings: &RedisSettings, purpose: Purpose) -> Result<Live, String> {
    let fingerprint = settings.fingerprint();
    let client = settings
        .with_current_password()
        .map_err(|error| format!("sessions.password_file: {error}"))?
        .client()
        .map_err(|error| error.to_string())?;
    let mut reads = open(&client, settings).await?;
    let role = Role::find_out(&mut reads).await?;
    // ROLE is answered even by a server that is still loading its data; this is not.
    let _: Value = redis::cmd("PING").query_async(&mut reads).await.map_err(|error| error.to_string())?;
    let writes = match purpose {
        Purpose::Requests => open(&client, settings).await?,
        Purpose::Events => reads.clone(),
    };
    if purpose == Purpose::Requests {
        warn_of_eviction(&mut reads).await;
    }
    Ok(Live { reads: Channel::new(reads), writes: Channel::new(writes), role, fingerprint })
}

async fn open(client: &Client, settings: &RedisSettings) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(settings.response_timeout));
    let opened = client.get_multiplexed_async_connection_with_config(&config).await;
    opened.map_err(|error| error.to_string())
}

/// The command that tells whether a server is a master. After a failover the old address may be that of a
/// replica, which reads well and refuses writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The usual one. It is in the ACL category `@dangerous`.
    Role,
    /// The one for users who may not send the other. Redis lets every user send it.
    Hello,
}

impl Role {
    /// The first of them that the user may send. Fails where the server is no master.
    async fn find_out(connection: &mut MultiplexedConnection) -> Result<Self, String> {
        for role in [Self::Role, Self::Hello] {
            match role.command().query_async(connection).await {
                Ok(answer) => return role.must_be_master(answer).map(|()| role),
                Err(error) if is_not_permitted(&error) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("it refuses both ROLE and HELLO, one of which tells a master from a replica: allow the user ROLE \
             (ACL SETUSER <user> +role)"
            .to_owned())
    }

    /// The command.
    pub(super) fn command(self) -> redis::Cmd {
        redis::cmd(match self {
            Self::Role => "ROLE",
            Self::Hello => "HELLO",
        })
    }

    /// Reads its answer.
    pub(super) fn must_be_master(self, answer: Value) -> Result<(), String> {
        let role = match (self, answer) {
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

/// Any policy but noeviction may drop sessions when memory is short, which logs users out.
async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    let info: RedisResult<String> = redis::cmd("INFO").arg("memory").query_async(connection).await;
    if info.as_ref().is_err_and(is_not_permitted) {
        tracing::info!(
            "the user of Redis may not send INFO: maxmemory-policy is not checked, and must be noeviction"
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
