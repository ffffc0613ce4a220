//! A supervised connection to one Redis server.
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
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;
use redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, SetOnce},
};

use super::{
    NAME,
    connect::{Connector, RoleCheck},
    replication::SharedWait,
    script_call::ScriptCall,
    settings::{Durability, FileVersion},
    supervisor::supervise,
    url::Endpoint,
};
use crate::{
    domain::ports::StoreError,
    isolation::supervisor::{self, Importance},
};

/// A channel is replaced after this many time-outs in a row.
const MAX_CONSECUTIVE_TIMEOUTS: u32 = 3;

/// The most requests to one server that are under way. A server that is slow holds up no more than these.
const MAX_REQUESTS: usize = 8192;

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

/// Why a request has no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another server of the cluster has this hash slot.
    Moved,
    /// This hash slot is being moved to another server of the cluster, which already has the key if anybody does.
    Ask(Endpoint),
    /// This hash slot is being moved, and neither server has all keys of the command.
    TryAgain,
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A handle to a supervised connection. Clones share the connection; the supervisor ends with the last of them.
#[derive(Clone)]
pub(super) struct SupervisedConnection(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) kind: ConnectionKind,
    pub(super) endpoint: Endpoint,
    pub(super) state: ArcSwap<State>,
    pub(super) wake_supervisor: Notify,
    /// The channels have to be replaced. Until then the old ones serve reads.
    pub(super) replacement_due: AtomicBool,
    /// Set once the server may be connected to.
    pub(super) permitted: SetOnce<()>,
    /// Set once the first attempt to connect has succeeded or failed.
    pub(super) first_attempt: SetOnce<()>,
    requests: AtomicUsize,
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
    wait: SharedWait,
}

impl Channel {
    pub(super) fn new(connection: MultiplexedConnection) -> Self {
        Self { connection, consecutive_timeouts: AtomicU32::new(0), wait: SharedWait::default() }
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

/// Counts a request while it is under way.
struct RequestPermit<'a>(&'a AtomicUsize);

impl Drop for RequestPermit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SupervisedConnection {
    /// Starts to connect in the background once that is permitted.
    pub(super) fn start(connector: Connector, runtime: &Handle) -> Self {
        let inner = Arc::new(Inner {
            kind: connector.kind,
            endpoint: connector.endpoint.clone(),
            state: ArcSwap::from_pointee(State::Disconnected("not yet connected".into())),
            wake_supervisor: Notify::new(),
            replacement_due: AtomicBool::new(false),
            permitted: SetOnce::new(),
            first_attempt: SetOnce::new(),
            requests: AtomicUsize::new(0),
        });
        let (weak, connector) = (Arc::downgrade(&inner), Arc::new(connector));
        let supervising = async move || supervise(weak.clone(), Arc::clone(&connector)).await;
        runtime.spawn(supervisor::supervise(
            "redis connection",
            // The probes of health notice when this task is down.
            Importance::Deferrable,
            supervising,
        ));
        Self(inner)
    }

    /// Permits to connect.
    pub(super) fn permit(&self) {
        // An error means that it was permitted before.
        let _ = self.0.permitted.set(());
    }

    /// Waits until the first attempt to connect has succeeded or failed. Requests do not wait for it; they fail at
    /// once.
    pub(super) async fn first_attempt(&self) {
        self.0.first_attempt.wait().await;
    }

    /// Has the supervisor open new channels, with everything that is done before they are used.
    pub(super) fn replace_channels_soon(&self) {
        if !self.0.replacement_due.swap(true, Ordering::AcqRel) {
            self.0.wake_supervisor.notify_one();
        }
    }

    /// Sends a command that reads. If the response is not certainly the one to this command (`is_expected`), verifies
    /// that the channel is in sync before it returns the response.
    pub(super) async fn read(
        &self,
        command: &Cmd,
        is_expected: impl FnOnce(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let state = self.state();
        let response = self.send(&state, Access::Read, command).await?;
        if !is_expected(&response) {
            self.verify_in_sync(&state, Access::Read).await?;
        }
        Ok(response)
    }

    /// Sends commands that read in one write, and returns the response to each.
    ///
    /// `verify_role` also asks whether the server is a primary after it has answered the commands. So a server that
    /// was demoted meanwhile does not answer with what it has not heard from the new primary. A cluster does not need
    /// that, because there a replica answers `MOVED`.
    pub(super) async fn read_many(
        &self,
        mut pipeline: Pipeline,
        verify_role: bool,
        is_expected: impl FnOnce(&[Result<Value, Failure>]) -> bool,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        let state = self.state();
        let channel = self.channel(&state, Access::Read)?;
        let role_check = match &*state {
            State::Connected(channels) if verify_role => Some(channels.role_check),
            _ => None,
        };
        if let Some(check) = role_check {
            pipeline.add_command(check.command());
        }
        let count = pipeline.len();
        let _permit = self.request_permit()?;
        let sent = channel.connection.clone().send_packed_commands(&pipeline, 0, count).await;
        let mut responses = self.track(&state, Access::Read, sent)?;
        if responses.len() != count {
            self.0.disconnect(&state, "the number of responses is not that of the commands");
            return Err(self.unavailable("the number of responses is not that of the commands").into());
        }
        if let Some(check) = role_check {
            let role = responses.pop().unwrap_or(Value::Nil).extract_error();
            if let Err(cause) = check.require_primary(self.track(&state, Access::Read, role)?) {
                self.0.disconnect(&state, &cause);
                return Err(self.unavailable(&cause).into());
            }
        }
        let responses: Vec<_> = responses
            .into_iter()
            .map(|response| self.track(&state, Access::Read, response.extract_error()))
            .collect();
        if !is_expected(&responses) {
            self.verify_in_sync(&state, Access::Read).await?;
        }
        Ok(responses)
    }

    /// Runs a script, with the same verification as [`Self::read`]. Scripts may write, so they use the write channel.
    /// `asking` says that the server was named by an `ASK` redirection.
    pub(super) async fn run_script(
        &self,
        call: &ScriptCall<'_>,
        asking: bool,
        is_expected: impl FnOnce(&Value) -> bool,
    ) -> Result<Value, Failure> {
        self.run_script_on(&self.state(), call, asking, is_expected).await
    }

    async fn run_script_on(
        &self,
        state: &Arc<State>,
        call: &ScriptCall<'_>,
        asking: bool,
        is_expected: impl FnOnce(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let mut connection = self.channel(state, Access::Write)?.connection.clone();
        let _permit = self.request_permit()?;
        let response = if asking {
            // `ASKING` holds for the next command only, so the script has to be there.
            let loaded = call.script.load_async(&mut connection).await;
            self.track(state, Access::Write, loaded)?;
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.add_command(redis::cmd("ASKING")).add_command(call.evalsha());
            let responses = connection.send_packed_commands(&pipeline, 0, 2).await;
            responses.and_then(|mut responses| responses.pop().unwrap_or(Value::Nil).extract_error())
        } else {
            call.invocation().invoke_async(&mut connection).await
        };
        let response = self.track(state, Access::Write, response)?;
        if !is_expected(&response) {
            self.verify_in_sync(state, Access::Write).await?;
        }
        Ok(response)
    }

    /// Runs a script that commits, and waits until as many replicas as `durability` asks for have what it wrote.
    pub(super) async fn commit(
        &self,
        call: &ScriptCall<'_>,
        asking: bool,
        durability: Durability,
        is_write: impl FnOnce(&Value) -> bool,
        is_expected: impl FnOnce(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let state = self.state();
        let response = self.run_script_on(&state, call, asking, is_expected).await?;
        // A conflict has written nothing. What is made of it is confirmed later.
        if is_write(&response) {
            self.wait_for_replicas(&state, durability).await?;
        }
        Ok(response)
    }

    /// Waits until replicas have everything that was answered on any connection before the call.
    pub(super) async fn confirm(&self, key: &str, durability: Durability) -> Result<(), Failure> {
        let state = self.state();
        // WAIT waits only for what its own connection has written.
        let mut write = redis::cmd("SET");
        write.arg(key).arg("").arg("PX").arg(60_000);
        self.send(&state, Access::Write, &write).await?;
        self.wait_for_replicas(&state, durability).await
    }

    /// Waits until as many replicas as `durability` asks for have everything that this connection has written.
    async fn wait_for_replicas(&self, state: &Arc<State>, durability: Durability) -> Result<(), Failure> {
        let Durability::Replicas { count, timeout } = durability else { return Ok(()) };
        let wait = &self.channel(state, Access::Write)?.wait;
        let (this, sent_on) = (self.clone(), Arc::clone(state));
        let confirmed = wait.join(move || async move {
            let mut command = redis::cmd("WAIT");
            // 0 would wait for ever.
            command.arg(count).arg(timeout.as_millis().max(1));
            let response = this.send(&sent_on, Access::Write, &command).await;
            response.map_err(|failure| failure.into_store_error(&this.0.endpoint)).and_then(|response| {
                redis::from_redis_value::<u32>(response).map_err(|error| super::corrupt(&error.to_string()))
            })
        });
        let confirmed = confirmed.await?;
        if confirmed >= count {
            return Ok(());
        }
        let cause = format!(
            "{confirmed} of {count} replicas of {} confirmed the commit in time (sessions.durability), so its outcome \
             is unknown",
            self.0.endpoint
        );
        Err(StoreError::Unavailable { store: NAME, cause }.into())
    }

    /// Sends a command that reads to the server that a hash slot is being moved to, as `ASK` requires.
    pub(super) async fn ask(&self, command: Cmd) -> Result<Value, Failure> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(redis::cmd("ASKING")).add_command(command);
        let mut responses = self.read_many(pipeline, false, |_| true).await?;
        responses.pop().unwrap_or(Ok(Value::Nil))
    }

    /// Disconnects if the responses on the channel belong to other commands: a PING has to return its own nonce.
    pub(super) async fn verify_in_sync(&self, state: &Arc<State>, access: Access) -> Result<(), Failure> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        // It belongs to a request that has its place already.
        let echo = self.send_uncounted(state, access, redis::cmd("PING").arg(&nonce)).await?;
        if matches!(&echo, Value::BulkString(bytes) if bytes == nonce.as_bytes()) {
            return Ok(());
        }
        self.0.disconnect(state, "responses belong to other commands");
        Err(self.unavailable("a response belongs to another command").into())
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
    ) -> Result<Value, Failure> {
        let _permit = self.request_permit()?;
        self.send_uncounted(state, access, command).await
    }

    async fn send_uncounted(
        &self,
        state: &Arc<State>,
        access: Access,
        command: &Cmd,
    ) -> Result<Value, Failure> {
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

    fn request_permit(&self) -> Result<RequestPermit<'_>, StoreError> {
        let requests = &self.0.requests;
        if requests.fetch_add(1, Ordering::Relaxed) < MAX_REQUESTS {
            return Ok(RequestPermit(requests));
        }
        requests.fetch_sub(1, Ordering::Relaxed);
        let cause = format!("{MAX_REQUESTS} requests to {} are under way", self.0.endpoint);
        Err(StoreError::Unavailable { store: NAME, cause })
    }

    fn unavailable(&self, cause: &str) -> StoreError {
        let cause = format!("not connected to {}: {cause}", self.0.endpoint);
        StoreError::Unavailable { store: NAME, cause }
    }

    /// Counts time-outs, disconnects on errors that a new connection may solve, and converts the error.
    fn track<T>(&self, state: &Arc<State>, access: Access, response: RedisResult<T>) -> Result<T, Failure> {
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
        response.map_err(|error| failure(&error, &self.0.endpoint))
    }
}

impl Inner {
    /// Drops the channels of `state`, unless they have been dropped or replaced already.
    pub(super) fn disconnect(&self, state: &Arc<State>, cause: &str) {
        let previous = self.state.compare_and_swap(state, Arc::new(State::Disconnected(cause.to_owned())));
        if Arc::ptr_eq(&previous, state) {
            tracing::warn!(
                error.message = cause,
                redis.address = %self.endpoint,
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
        } else if !self.replacement_due.swap(true, Ordering::AcqRel) {
            self.wake_supervisor.notify_one();
        }
    }
}

impl Failure {
    /// The error for a caller that cannot follow a redirection.
    pub(super) fn into_store_error(self, endpoint: &Endpoint) -> StoreError {
        let cause = match self {
            Self::Store(error) => return error,
            Self::Moved => "another node has this hash slot".to_owned(),
            Self::Ask(target) => format!("this hash slot is being moved to {target}"),
            Self::TryAgain => "this hash slot is being moved".to_owned(),
        };
        StoreError::Unavailable { store: NAME, cause: format!("{cause} ({endpoint})") }
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

/// Every error makes the store unavailable, except for a key of another type, because another program uses the key,
/// and the redirections of a cluster.
fn failure(error: &RedisError, endpoint: &Endpoint) -> Failure {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => return Failure::Moved,
        ErrorKind::Server(ServerErrorKind::TryAgain) => return Failure::TryAgain,
        ErrorKind::Server(ServerErrorKind::Ask) => {
            if let Some(target) = error.redirect_node().and_then(|(address, _)| endpoint.redirected(address))
            {
                return Failure::Ask(target);
            }
        }
        _ => {}
    }
    let cause = format!("{error} ({endpoint})");
    Failure::Store(if error.code() == Some("WRONGTYPE") {
        StoreError::Corrupt { store: NAME, cause }
    } else {
        StoreError::Unavailable { store: NAME, cause }
    })
}
