//! Opens connections to Redis and verifies that the server is a primary that answers.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, PushInfo, RedisError, RedisResult,
    ServerErrorKind, Value, aio::MultiplexedConnection,
};

use super::{
    connection::{Channel, Channels, ConnectionKind},
    follow::MAX_BLOCK,
    preparation::Preparation,
    settings::{Durability, Peer, RedisSettings},
    url::Endpoint,
};

/// Receives what a server sends without being asked.
pub(super) type PushHandler = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// What is needed to connect to one server.
pub(super) struct Connector {
    pub(super) settings: Arc<RedisSettings>,
    pub(super) endpoint: Endpoint,
    pub(super) kind: ConnectionKind,
    /// What is done on a new connection for requests before it is used.
    pub(super) preparation: Arc<Preparation>,
    /// The server may push, over RESP3.
    pub(super) push_handler: Option<PushHandler>,
}

impl Connector {
    /// Connects to a primary that answers.
    pub(super) async fn connect(&self) -> Result<Channels, String> {
        let settings = &*self.settings;
        let password_version = settings.password_version();
        let protocol = match self.push_handler {
            Some(_) => ProtocolVersion::RESP3,
            None => ProtocolVersion::RESP2,
        };
        let client = settings.client(&self.endpoint, Peer::DataNode, protocol)?;
        let response_timeout = settings.response_timeout
            + match self.kind {
                // An XREAD that finds nothing must not count as a time-out.
                ConnectionKind::Events => MAX_BLOCK,
                ConnectionKind::Requests => Duration::ZERO,
            };
        let mut read = self.open(&client, response_timeout).await?;
        let role_check = RoleCheck::detect(&mut read).await?;
        // A server that is still loading its data answers ROLE, but not PING.
        let _: Value = redis::cmd("PING").query_async(&mut read).await.map_err(|error| error.to_string())?;
        let write = match self.kind {
            ConnectionKind::Requests => {
                // Commits are confirmed by WAIT on the connection that made them, which answers nothing else meanwhile.
                let wait = match settings.durability {
                    Durability::Primary => Duration::ZERO,
                    Durability::Replicas { timeout, .. } => timeout,
                };
                let mut write = self.open(&client, response_timeout + wait).await?;
                check_configuration(&mut read, settings.durability).await;
                self.preparation.prepare(&self.endpoint, &mut write).await?;
                write
            }
            ConnectionKind::Events => read.clone(),
        };
        Ok(Channels { read: Channel::new(read), write: Channel::new(write), role_check, password_version })
    }

    async fn open(
        &self,
        client: &Client,
        response_timeout: Duration,
    ) -> Result<MultiplexedConnection, String> {
        let opening =
            open(client, self.settings.connect_timeout, response_timeout, self.push_handler.clone());
        opening.await.map_err(|error| error.to_string())
    }
}

/// Opens a connection with these limits.
pub(super) async fn open(
    client: &Client,
    connect_timeout: Duration,
    response_timeout: Duration,
    push_handler: Option<PushHandler>,
) -> RedisResult<MultiplexedConnection> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(Some(response_timeout));
    if let Some(handle) = push_handler {
        config = config.set_push_sender(move |push| {
            handle(push);
            Ok::<(), redis::aio::SendError>(())
        });
    }
    client.get_multiplexed_async_connection_with_config(&config).await
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
    pub(super) async fn detect(connection: &mut MultiplexedConnection) -> Result<Self, String> {
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
        match role.as_str() {
            "master" => Ok(()),
            "slave" | "replica" | "sentinel" => Err(format!("its role is {role}, not master")),
            _ => Err("responses belong to other commands".to_owned()),
        }
    }
}

fn is_not_permitted(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// Warns of settings that endanger sessions. They can change at any time, so they are no reason not to connect.
async fn check_configuration(connection: &mut MultiplexedConnection, durability: Durability) {
    let info: RedisResult<String> = redis::cmd("INFO").arg("memory").query_async(connection).await;
    if info.as_ref().is_err_and(is_not_permitted) {
        tracing::info!(
            "the Redis user may not send INFO, so maxmemory-policy was not checked; it must be noeviction"
        );
        return;
    }
    let field = |info: &str, name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    };
    let policy = info.ok().and_then(|info| field(&info, "maxmemory_policy"));
    // With any other policy, Redis may drop sessions when its memory is full, which logs users out.
    if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
        tracing::warn!(
            redis.maxmemory_policy = policy,
            "Redis may drop sessions when its memory is full: set maxmemory-policy to noeviction"
        );
    }
    if let Durability::Replicas { count, .. } = durability {
        let info: RedisResult<String> = redis::cmd("INFO").arg("replication").query_async(connection).await;
        let Ok(info) = info else { return };
        // The field exists only if min-replicas-to-write is set.
        if field(&info, "min_slaves_good_slaves").is_none() {
            tracing::warn!(
                "a primary that is cut off from its replicas goes on accepting writes: set min-replicas-to-write \
                 to {count}, so that it rejects them"
            );
        }
        let connected = field(&info, "connected_slaves").and_then(|count| count.parse::<u32>().ok());
        if connected.is_some_and(|connected| connected < count) {
            tracing::warn!(
                redis.connected_replicas = connected,
                "sessions.durability asks for {count} replicas, and fewer are connected: commits will fail"
            );
        }
    }
}
