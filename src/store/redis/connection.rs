//! A supervised connection to Redis.
//!
//! The client library multiplexes well, but it recovers badly: a half-open connection only times out, and a time-out
//! does not make the library reconnect. So one task owns the connection (`supervisor`). It connects, verifies that
//! the server is a primary and stays one, and drops the connection at the first error that a new connection may
//! solve. Meanwhile every request fails at once with `Unavailable`; nothing is queued.
//!
//! A connection for requests consists of two channels, one that reads and one that writes, because a server that
//! holds up a write (`CLIENT PAUSE WRITE`, a blocked script) holds up everything behind it on the same TCP
//! connection. Both are opened and replaced together, so that reads come from the server that takes the writes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use arc_swap::ArcSwap;
use redis::{
    Cmd, ErrorKind, RedisError, RedisResult, ScriptInvocation, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::sync::{Notify, SetOnce};

use super::{
    NAME,
    connect::{FileVersion, RedisSettings, RoleCheck},
    supervisor::supervise,
};
use crate::{
    domain::ports::StoreError,
    isolation::supervisor::{self, Importance},
};

/// A channel is replaced after this many time-outs in a row.
const MAX_CONSECUTIVE_TIMEOUTS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionKind {
    /// Serves requests, over two channels.
    Requests,
    /// Waits for events, over one channel.
    Events,
}

impl ConnectionKind {
    /// The value of the log field `redis.purpose`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Events => "events",
        }
    }
}

/// A handle to a supervised connection. Clones share the connection; the supervisor ends with the last of them.
#[derive(Clone)]
pub(super) struct SupervisedConnection(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) kind: ConnectionKind,
    /// The address of the server, for messages.
    pub(super) address: String,
    pub(super) state: ArcSwap<State>,
    pub(super) wake_supervisor: Notify,
    /// The write channel no longer answers. The supervisor replaces both channels; until then the old ones serve
    /// reads.
    pub(super) writes_stalled: AtomicBool,
    /// Set once the first attempt to connect has succeeded or failed.
    pub(super) first_attempt: SetOnce<()>,
}

pub(super) enum State {
    Connected(Channels),
    /// Holds the reason.
    Disconnected(String),
}

/// The open channels to one server.
pub(super) struct Channels {
    pub(super) read: Channel,
    /// The same TCP connection as `read` if the connection waits for events.
    pub(super) write: Channel,
    pub(super) role_check: RoleCheck,
    /// The version of the password file that the channels were opened with.
    pub(super) password_version: Option<FileVersion>,
}

/// One TCP connection, with its count of time-outs.
pub(super) struct Channel {
    connection: MultiplexedConnection,
    consecutive_timeouts: AtomicU32,
}

impl Channel {
    pub(super) const fn new(connection: MultiplexedConnection) -> Self {
        Self { connection, consecutive_timeouts: AtomicU32::new(0) }
    }
}

/// Selects a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Channels {
    const fn get(&self, access: Access) -> &Channel {
        match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        }
    }
}

impl SupervisedConnection {
    /// Starts to connect in the background.
    pub(super) fn start(settings: &RedisSettings, kind: ConnectionKind) -> Result<Self, String> {
        settings.check()?;
        let inner = Arc::new(Inner {
            kind,
            address: settings.address(),
            state: ArcSwap::from_pointee(State::Disconnected("not yet connected".into())),
            wake_supervisor: Notify::new(),
            writes_stalled: AtomicBool::new(false),
            first_attempt: SetOnce::new(),
        });
        let (weak, settings) = (Arc::downgrade(&inner), settings.clone());
        let supervising = async move || supervise(weak.clone(), settings.clone()).await;
        tokio::spawn(supervisor::supervise(
            "redis connection",
            // The probes of health notice when this task is down.
            Importance::Deferrable,
            supervising,
        ));
        Ok(Self(inner))
    }

    /// Waits until the first attempt to connect has succeeded or failed. Requests do not wait for it; they fail at
    /// once.
    pub(super) async fn first_attempt(&self) {
        self.0.first_attempt.wait().await;
    }

    /// Sends a command that reads. If the response is not certainly the one to this command (`is_expected`), verifies
    /// that the channel is in sync before it returns the response.
    pub(super) async fn read(
        &self,
        command: &Cmd,
        is_expected: impl FnOnce(&Value) -> bool,
    ) -> Result<Value, StoreError> {
        let state = self.state();
        let response = self.send(&state, Access::Read, command).await?;
        if !is_expected(&response) {
            self.verify_in_sync(&state, Access::Read).await?;
        }
        Ok(response)
    }

    /// Runs a script, with the same verification as [`Self::read`]. Scripts may write, so they use the write channel.
    pub(super) async fn run_script(
        &self,
        script: &ScriptInvocation<'_>,
        is_expected: impl FnOnce(&Value) -> bool,
    ) -> Result<Value, StoreError> {
        let state = self.state();
        let mut connection = self.channel(&state, Access::Write)?.connection.clone();
        let response = script.invoke_async(&mut connection).await;
        let response = self.track(&state, Access::Write, response)?;
        if !is_expected(&response) {
            self.verify_in_sync(&state, Access::Write).await?;
        }
        Ok(response)
    }

    /// Disconnects if the responses on the channel belong to other commands: a PING has to return its own nonce.
    async fn verify_in_sync(&self, state: &Arc<State>, access: Access) -> Result<(), StoreError> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let echo = self.send(state, access, redis::cmd("PING").arg(&nonce)).await?;
        if matches!(&echo, Value::BulkString(bytes) if bytes == nonce.as_bytes()) {
            return Ok(());
        }
        self.0.disconnect(state, "responses belong to other commands");
        Err(self.unavailable("a response belongs to another command"))
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.0.state.load_full()
    }

    /// Sends a command over a channel of `state`.
    pub(super) async fn send(
        &self,
        state: &Arc<State>,
        access: Access,
        command: &Cmd,
    ) -> Result<Value, StoreError> {
        let mut connection = self.channel(state, access)?.connection.clone();
        let response = connection.send_packed_command(command).await.and_then(Value::extract_error);
        self.track(state, access, response)
    }

    /// Sends AUTH. An error does not disconnect: the channel stays authenticated with the previous password.
    pub(super) async fn send_auth(
        &self,
        state: &Arc<State>,
        access: Access,
        command: &Cmd,
    ) -> Result<(), String> {
        let mut connection =
            self.channel(state, access).map_err(|error| error.to_string())?.connection.clone();
        let response = connection.send_packed_command(command).await.and_then(Value::extract_error);
        response.map(drop).map_err(|error| error.to_string())
    }

    fn channel<'a>(&self, state: &'a State, access: Access) -> Result<&'a Channel, StoreError> {
        match state {
            State::Connected(channels) => Ok(channels.get(access)),
            State::Disconnected(cause) => Err(self.unavailable(cause)),
        }
    }

    fn unavailable(&self, cause: &str) -> StoreError {
        let cause = format!("not connected to {}: {cause}", self.0.address);
        StoreError::Unavailable { store: NAME, cause }
    }

    /// Counts time-outs, disconnects on errors that a new connection may solve, and converts the error.
    fn track(
        &self,
        state: &Arc<State>,
        access: Access,
        response: RedisResult<Value>,
    ) -> Result<Value, StoreError> {
        if let State::Connected(channels) = &**state {
            let timeouts = &channels.get(access).consecutive_timeouts;
            match &response {
                Err(error) if error.is_timeout() => {
                    if timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_CONSECUTIVE_TIMEOUTS {
                        self.0.replace_unresponsive(state, access);
                    }
                }
                Err(error) if needs_reconnect(error) => self.0.disconnect(state, &error.to_string()),
                Ok(_) | Err(_) => timeouts.store(0, Ordering::Relaxed),
            }
        }
        response.map_err(|error| store_error(&error, &self.0.address))
    }
}

impl Inner {
    /// Drops the channels of `state`, unless they have been dropped or replaced already.
    pub(super) fn disconnect(&self, state: &Arc<State>, cause: &str) {
        let previous = self.state.compare_and_swap(state, Arc::new(State::Disconnected(cause.to_owned())));
        if Arc::ptr_eq(&previous, state) {
            tracing::warn!(
                error.message = cause,
                redis.address = self.address,
                redis.purpose = self.kind.name(),
                "lost the connection to Redis"
            );
            self.wake_supervisor.notify_one();
        }
    }

    /// Disconnects if reads time out. If only writes do, has the supervisor replace the channels while reads go on.
    fn replace_unresponsive(&self, state: &Arc<State>, access: Access) {
        if access == Access::Read || self.kind == ConnectionKind::Events {
            self.disconnect(state, "the server no longer responds");
        } else if !self.writes_stalled.swap(true, Ordering::AcqRel) {
            self.wake_supervisor.notify_one();
        }
    }
}

/// Whether a new connection, perhaps to another server or with another password, may solve the error.
fn needs_reconnect(error: &RedisError) -> bool {
    let demoted_or_loading = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    );
    let unauthenticated = error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    demoted_or_loading
        || unauthenticated
        || error.is_io_error()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// Every error makes the store unavailable, except for a key of another type: another program uses the key.
fn store_error(error: &RedisError, address: &str) -> StoreError {
    let cause = format!("{error} ({address})");
    if error.code() == Some("WRONGTYPE") {
        StoreError::Corrupt { store: NAME, cause }
    } else {
        StoreError::Unavailable { store: NAME, cause }
    }
}
