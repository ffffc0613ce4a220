//! A supervised link to Redis.
//!
//! The client library multiplexes well and repairs badly: a half-open connection only times out, and a
//! time-out does not make it reconnect. So one task owns the link (`supervise`). It connects, makes sure that
//! what answers is a master and stays one, and throws the connections away at the first sign of trouble. Whoever
//! asks meanwhile is told at once that the store is unavailable: fail fast, never queue.
//!
//! The link for requests has two connections, because a server that holds up a write (`CLIENT PAUSE WRITE`, a
//! script that it does not let run) holds up everything behind it on the same connection. Both are opened together
//! and replaced together, so that what is read comes from the server that is written to.

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
    connect::{Fingerprint, RedisSettings, Role},
    supervisor::supervise,
};
use crate::{
    domain::ports::StoreError,
    isolation::supervisor::{self, Importance},
};

/// A connection that has timed out this often in a row is replaced.
const TIMEOUTS_IN_A_ROW: u32 = 3;

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To answer requests.
    Requests,
    /// To wait for events.
    Events,
}

impl Purpose {
    /// As the log says it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Events => "events",
        }
    }
}

/// A supervised link. A clone is the same link.
#[derive(Clone)]
pub(super) struct Connection(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) purpose: Purpose,
    /// Of the server, for messages.
    pub(super) address: String,
    pub(super) state: ArcSwap<State>,
    /// Wakes the supervisor.
    pub(super) trouble: Notify,
    /// Writes are stuck: the connections are to be replaced, and reads go on over the old ones until then.
    pub(super) stuck: AtomicBool,
    /// Set once the first attempt to connect has ended, in whichever way.
    pub(super) attempted: SetOnce<()>,
}

pub(super) enum State {
    Up(Live),
    /// Why there is no connection.
    Down(String),
}

/// Open connections to one server.
pub(super) struct Live {
    pub(super) reads: Channel,
    /// The same connection where the link is not for requests.
    pub(super) writes: Channel,
    pub(super) role: Role,
    /// Of the password file that was used.
    pub(super) fingerprint: Option<Fingerprint>,
}

/// A connection, and how often it has timed out in a row.
pub(super) struct Channel {
    connection: MultiplexedConnection,
    timeouts: AtomicU32,
}

impl Channel {
    pub(super) const fn new(connection: MultiplexedConnection) -> Self {
        Self { connection, timeouts: AtomicU32::new(0) }
    }
}

/// Which of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

impl Live {
    const fn lane(&self, usage: Use) -> &Channel {
        match usage {
            Use::Read => &self.reads,
            Use::Write => &self.writes,
        }
    }
}

impl Connection {
    /// Begins to connect.
    pub(super) fn start(settings: &RedisSettings, purpose: Purpose) -> Result<Self, String> {
        settings.check()?;
        let shared = Arc::new(Shared {
            purpose,
            address: settings.address(),
            state: ArcSwap::from_pointee(State::Down("not yet connected".into())),
            trouble: Notify::new(),
            stuck: AtomicBool::new(false),
            attempted: SetOnce::new(),
        });
        let (weak, settings) = (Arc::downgrade(&shared), settings.clone());
        let supervising = async move || supervise(weak.clone(), settings.clone()).await;
        tokio::spawn(supervisor::supervise(
            "redis connection",
            // Health finds out by its probes.
            Importance::Deferrable,
            supervising,
        ));
        Ok(Self(shared))
    }

    /// Returns once the first attempt to connect has ended, in whichever way. For who can wait; others
    /// are told at once that there is no connection yet.
    pub(super) async fn attempted(&self) {
        self.0.attempted.wait().await;
    }

    /// The answer to a command that reads. Where it does not `fit` the command, it is made sure that the
    /// connection is in step: that this is not the answer to another one.
    pub(super) async fn read(
        &self,
        command: &Cmd,
        fits: impl FnOnce(&Value) -> bool,
    ) -> Result<Value, StoreError> {
        let state = self.0.state.load_full();
        let answer = self.ask(&state, Use::Read, command).await?;
        if !fits(&answer) {
            self.must_be_in_step(&state, Use::Read).await?;
        }
        Ok(answer)
    }

    /// The same for a script. Scripts may write, and go behind one another.
    pub(super) async fn invoke(
        &self,
        script: &ScriptInvocation<'_>,
        fits: impl FnOnce(&Value) -> bool,
    ) -> Result<Value, StoreError> {
        let state = self.0.state.load_full();
        let mut connection = self.lane(&state, Use::Write)?.connection.clone();
        let answer = script.invoke_async(&mut connection).await;
        let answer = self.judge(&state, Use::Write, answer)?;
        if !fits(&answer) {
            self.must_be_in_step(&state, Use::Write).await?;
        }
        Ok(answer)
    }

    /// Gives the connection up where the answers that it carries belong to other commands.
    async fn must_be_in_step(&self, state: &Arc<State>, usage: Use) -> Result<(), StoreError> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let echo = self.ask(state, usage, redis::cmd("PING").arg(&nonce)).await?;
        if matches!(&echo, Value::BulkString(bytes) if bytes == nonce.as_bytes()) {
            return Ok(());
        }
        self.0.give_up(state, "its answers belong to other commands");
        Err(self.unavailable("an answer belongs to another command"))
    }

    /// The state of the link.
    pub(super) fn state(&self) -> Arc<State> {
        self.0.state.load_full()
    }

    pub(super) async fn ask(
        &self,
        state: &Arc<State>,
        usage: Use,
        command: &Cmd,
    ) -> Result<Value, StoreError> {
        let mut connection = self.lane(state, usage)?.connection.clone();
        let answer = connection.send_packed_command(command).await.and_then(Value::extract_error);
        self.judge(state, usage, answer)
    }

    /// Sends AUTH. That it is refused does not end the connection, which stays with the password before.
    pub(super) async fn authenticate_with(
        &self,
        state: &Arc<State>,
        usage: Use,
        command: &Cmd,
    ) -> Result<(), String> {
        let mut connection = self.lane(state, usage).map_err(|error| error.to_string())?.connection.clone();
        let answer = connection.send_packed_command(command).await.and_then(Value::extract_error);
        answer.map(drop).map_err(|error| error.to_string())
    }

    fn lane<'a>(&self, state: &'a State, usage: Use) -> Result<&'a Channel, StoreError> {
        match state {
            State::Up(live) => Ok(live.lane(usage)),
            State::Down(cause) => Err(self.unavailable(cause)),
        }
    }

    fn unavailable(&self, cause: &str) -> StoreError {
        let cause = format!("not connected to {}: {cause}", self.0.address);
        StoreError::Unavailable { store: NAME, cause }
    }

    fn judge(&self, state: &Arc<State>, usage: Use, answer: RedisResult<Value>) -> Result<Value, StoreError> {
        if let State::Up(live) = &**state {
            let timeouts = &live.lane(usage).timeouts;
            match &answer {
                Err(error) if error.is_timeout() => {
                    if timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_IN_A_ROW {
                        self.0.no_answers(state, usage);
                    }
                }
                Err(error) if is_broken(error) => self.0.give_up(state, &error.to_string()),
                Ok(_) | Err(_) => timeouts.store(0, Ordering::Relaxed),
            }
        }
        answer.map_err(|error| store_error(&error, &self.0.address))
    }
}

impl Shared {
    /// Throws the connections away, unless that has been done.
    pub(super) fn give_up(&self, state: &Arc<State>, cause: &str) {
        let stood = self.state.compare_and_swap(state, Arc::new(State::Down(cause.to_owned())));
        if Arc::ptr_eq(&stood, state) {
            tracing::warn!(
                error.message = cause,
                redis.address = self.address,
                redis.purpose = self.purpose.name(),
                "lost the connection to Redis"
            );
            self.trouble.notify_one();
        }
    }

    fn no_answers(&self, state: &Arc<State>, usage: Use) {
        if usage == Use::Read || self.purpose == Purpose::Events {
            self.give_up(state, "it no longer answers");
        } else if !self.stuck.swap(true, Ordering::AcqRel) {
            self.trouble.notify_one();
        }
    }
}

/// Whether a new connection, perhaps to another server or with another password, is what can help.
fn is_broken(error: &RedisError) -> bool {
    let demoted = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    );
    let rejected = error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    demoted
        || rejected
        || error.is_io_error()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// What an error of Redis means to the rules: that it cannot serve now, unless it found something else
/// where ours should be.
fn store_error(error: &RedisError, address: &str) -> StoreError {
    let cause = format!("{error} ({address})");
    if error.code() == Some("WRONGTYPE") {
        StoreError::Corrupt { store: NAME, cause }
    } else {
        StoreError::Unavailable { store: NAME, cause }
    }
}
