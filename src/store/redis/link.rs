//! One supervised connection to Redis.
//!
//! The client library multiplexes well and repairs badly: a half-open link only times out, and a
//! time-out does not make it reconnect. So one task owns the link. It connects, makes sure that what
//! answers is a master and stays one, and throws the connection away at the first sign of trouble. Whoever asks
//! meanwhile is told at once that the store is unavailable: fail fast, never queue.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult,
    ScriptInvocation, ServerErrorKind, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::sync::{Notify, SetOnce};

use super::NAME;
use crate::{
    domain::ports::StoreError,
    isolation::supervisor::{self, Importance},
};

/// A connection that has timed out this often in a row is thrown away.
const TIMEOUTS_IN_A_ROW: u32 = 3;
/// How often a connection is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait before connecting again: from the first, doubled each time, to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// How to reach Redis.
#[derive(Clone)]
pub struct LinkSettings {
    /// `redis://[user:password@]host[:port][/db]`.
    pub url: String,
    /// Used where the URL has no password.
    pub password: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub response_timeout: Duration,
}

impl LinkSettings {
    /// Whether the URL is one.
    pub fn check(&self) -> Result<(), String> {
        client(self).map(|_| ()).map_err(|error| error.to_string())
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To answer requests.
    Requests,
    /// To wait for events.
    Events,
}

impl Purpose {
    /// As the log says it.
    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Events => "events",
        }
    }
}

/// A supervised connection. A clone is the same connection.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    purpose: Purpose,
    state: ArcSwap<State>,
    trouble: Notify,
    /// Set once the first attempt to connect has ended, in whichever way.
    attempted: SetOnce<()>,
}

enum State {
    Up(Live),
    /// Why there is no connection.
    Down(String),
}

struct Live {
    connection: MultiplexedConnection,
    timeouts: AtomicU32,
}

impl Link {
    /// Begins to connect.
    pub(super) fn start(settings: &LinkSettings, purpose: Purpose) -> Result<Self, String> {
        let client = client(settings).map_err(|error| error.to_string())?;
        let state = ArcSwap::from_pointee(State::Down("not yet connected".into()));
        let shared = Arc::new(Shared { purpose, state, trouble: Notify::new(), attempted: SetOnce::new() });
        let (weak, settings) = (Arc::downgrade(&shared), settings.clone());
        let supervising = async move || supervise(weak.clone(), client.clone(), settings.clone()).await;
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

    /// The answer to a command.
    pub(super) async fn query(&self, command: &Cmd) -> Result<Value, StoreError> {
        let state = self.0.state.load_full();
        let mut connection = connection(&state)?;
        let answer = connection.send_packed_command(command).await.and_then(Value::extract_error);
        self.judge(&state, answer)
    }

    /// The answer of a script.
    pub(super) async fn invoke(&self, script: &ScriptInvocation<'_>) -> Result<Value, StoreError> {
        let state = self.0.state.load_full();
        let mut connection = connection(&state)?;
        let answer = script.invoke_async(&mut connection).await;
        self.judge(&state, answer)
    }

    /// Gives up a connection that no longer answers, or to a server that has been demoted: it still
    /// reads well, but what it reads grows old.
    async fn check(&self) {
        let state = self.0.state.load_full();
        // The answer is judged on the way.
        if let Ok(role) = self.query(&redis::cmd("ROLE")).await
            && let Err(cause) = must_be_master(role)
        {
            self.0.give_up(&state, &cause);
        }
    }

    fn judge(&self, state: &Arc<State>, answer: RedisResult<Value>) -> Result<Value, StoreError> {
        match &answer {
            Err(error) if error.is_timeout() => {
                if state.timeouts() >= TIMEOUTS_IN_A_ROW {
                    self.0.give_up(state, "it no longer answers");
                }
            }
            Err(error) if is_broken(error) => self.0.give_up(state, &error.to_string()),
            Ok(_) | Err(_) => state.answered(),
        }
        answer.map_err(|error| store_error(&error))
    }
}

impl State {
    /// One more call has timed out: how many in a row.
    fn timeouts(&self) -> u32 {
        match self {
            Self::Up(live) => live.timeouts.fetch_add(1, Ordering::Relaxed) + 1,
            Self::Down(_) => 0,
        }
    }

    fn answered(&self) {
        if let Self::Up(live) = self {
            live.timeouts.store(0, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Throws a connection away, unless that has been done.
    fn give_up(&self, state: &Arc<State>, cause: &str) {
        let stood = self.state.compare_and_swap(state, Arc::new(State::Down(cause.to_owned())));
        if Arc::ptr_eq(&stood, state) {
            let purpose = self.purpose.name();
            tracing::warn!(error.message = cause, redis.purpose = purpose, "lost the connection to Redis");
            self.trouble.notify_one();
        }
    }
}

fn connection(state: &State) -> Result<MultiplexedConnection, StoreError> {
    match state {
        State::Up(live) => Ok(live.connection.clone()),
        State::Down(cause) => {
            Err(StoreError::Unavailable { store: NAME, cause: format!("not connected: {cause}") })
        }
    }
}

/// Whether a new connection, perhaps to another server, is what can help.
fn is_broken(error: &RedisError) -> bool {
    let demoted = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    );
    demoted || error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

/// What an error of Redis means to the rules: that it cannot serve now, unless it found something else
/// where ours should be.
fn store_error(error: &RedisError) -> StoreError {
    let cause = error.to_string();
    if error.code() == Some("WRONGTYPE") {
        StoreError::Corrupt { store: NAME, cause }
    } else {
        StoreError::Unavailable { store: NAME, cause }
    }
}

fn client(settings: &LinkSettings) -> RedisResult<Client> {
    let info = settings.url.as_str().into_connection_info()?;
    let mut redis = info.redis_settings().clone();
    if let (None, Some(password)) = (redis.password(), &settings.password) {
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

async fn supervise(shared: Weak<Shared>, client: Client, settings: LinkSettings) {
    let mut backoff = BACKOFF.0;
    let mut reported = String::new();
    loop {
        let connected = connect(&client, &settings).await;
        let Some(strong) = shared.upgrade() else { return };
        let purpose = strong.purpose;
        match connected {
            Ok(mut connection) => {
                tracing::info!(redis.purpose = purpose.name(), "connected to Redis");
                if purpose == Purpose::Requests {
                    warn_of_eviction(&mut connection).await;
                }
                let live = Live { connection, timeouts: AtomicU32::new(0) };
                strong.state.store(Arc::new(State::Up(live)));
                // Fails where it has been set before, which is as well.
                let _ = strong.attempted.set(());
                drop(strong);
                watch(&shared).await;
                (backoff, reported) = (BACKOFF.0, String::new());
            }
            Err(cause) => {
                if cause != reported {
                    tracing::warn!(
                        error.message = cause,
                        redis.purpose = purpose.name(),
                        "cannot connect to Redis; trying again until it works"
                    );
                    reported.clone_from(&cause);
                }
                strong.state.store(Arc::new(State::Down(cause)));
                let _ = strong.attempted.set(());
            }
        }
        // Also after a connection was lost: it may have been good for nothing from the beginning.
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Returns once the connection is gone, or nobody needs it any more.
async fn watch(shared: &Weak<Shared>) {
    loop {
        let Some(link) = shared.upgrade().map(Link) else { return };
        if matches!(**link.0.state.load(), State::Down(_)) {
            return;
        }
        tokio::select! {
            () = link.0.trouble.notified() => {}
            () = tokio::time::sleep(CHECK_INTERVAL) => {
                link.check().await;
            }
        }
    }
}

async fn connect(client: &Client, settings: &LinkSettings) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(settings.response_timeout));
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| error.to_string())?;

    // After a failover the old address may be that of a replica, which reads well and refuses writes.
    let role = redis::cmd("ROLE").query_async(&mut connection).await.map_err(|error| error.to_string())?;
    must_be_master(role)?;
    // ROLE is answered even by a server that is still loading its data; this is not.
    let _: Value =
        redis::cmd("PING").query_async(&mut connection).await.map_err(|error| error.to_string())?;
    Ok(connection)
}

/// Takes the answer to ROLE.
fn must_be_master(answer: Value) -> Result<(), String> {
    let role = match answer {
        Value::Array(parts) => parts.into_iter().next().unwrap_or(Value::Nil),
        other => other,
    };
    let role: String = redis::from_redis_value(role).unwrap_or_default();
    if role == "master" { Ok(()) } else { Err(format!("its role is {role}, not master")) }
}

/// Any policy but noeviction may drop sessions when memory is short, which logs users out.
async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    let info: RedisResult<String> = redis::cmd("INFO").arg("memory").query_async(connection).await;
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
