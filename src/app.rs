//! The composition root: the only file that knows all the others.
//!
//! Tests and production start the same [`App`]; what differs are the settings and the clock.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    domain::{
        Engine, Error, Slots,
        password::{Argon2Params, Passwords},
        ports::{Clock, EventLog, Registers},
        sessions::{SlotPolicy, UserSessions},
        token::{TokenSettings, Tokens},
        transact::Turns,
    },
    grpc::{
        self,
        access::Access,
        health::Health,
        server::{ConnectionLimits, serve},
    },
    http,
    store::{
        embedded::{Database, EmbeddedRegisters},
        encoded::Encoded,
        key_files,
        redis::{LinkSettings, RedisRegisters},
        secret_file,
        sql::SqliteAccounts,
    },
    telemetry,
};

/// How often debts of sessions to accounts are looked for.
const DEBT_INTERVAL: Duration = Duration::from_secs(2);

/// Why the server did not start: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl From<String> for StartError {
    fn from(sentence: String) -> Self {
        Self(sentence)
    }
}

/// A running server.
pub struct App {
    /// Where the gRPC port listens.
    pub grpc: SocketAddr,
    /// Where the HTTP port listens.
    pub http: SocketAddr,
    /// The rules it serves.
    pub engine: Arc<Engine>,
    /// The log of sessions that ended.
    pub events: Arc<dyn EventLog>,
    health: Health,
    grace: Duration,
    shutdown: CancellationToken,
    /// The two ports; they end after `shutdown`.
    serving: JoinSet<()>,
    /// What runs beside them; dropped at shutdown.
    background: JoinSet<()>,
    database: Database,
    _lock: Option<File>,
}

/// What follows from the settings and the files they name.
struct Parts {
    slots: Slots,
    passwords: Passwords,
}

/// Sessions as the rules see them, and as readers of the log do.
type SessionStore = (Arc<dyn Registers<UserSessions>>, Arc<dyn EventLog>);

impl App {
    /// Starts a server. It answers at once, and is healthy once its stores are.
    pub async fn start(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        // Before anything is made.
        let Parts { slots, passwords } = parts(config)?;
        let lock = prepare_data_dir(config)?;
        let admin_key = admin_key(config)?;
        let tokens = tokens(config, &*clock)?;
        let database = Database::open(&config.data_dir.join("latchkey.db"))
            .await
            .map_err(|error| format!("cannot open the database in {}: {error}", config.data_dir.display()))?;
        let (sessions, events) = session_store(config, &database, &clock)?;

        let engine = Arc::new(Engine {
            sessions,
            accounts: Arc::new(SqliteAccounts(database.clone())),
            clock,
            tokens,
            passwords: Arc::new(passwords),
            slots,
            turns: Turns::default(),
            tombstone_ttl: config.session.tombstone_ttl,
        });
        let health = Health::not_serving().await;
        let settings = grpc::Settings {
            max_requests: config.server.max_requests,
            timeout: config.server.request_timeout,
        };
        let access = Access::new(&admin_key);
        let shutdown = CancellationToken::new();
        let services =
            grpc::services(&engine, access, &health, settings, config.server.reflection, &shutdown)?;

        let grpc_listener = bind("listen.grpc", config.listen.grpc).await?;
        let http_listener = bind("listen.http", config.listen.http).await?;
        let address = |listener: &TcpListener| listener.local_addr().map_err(|error| error.to_string());
        let (grpc, http) = (address(&grpc_listener)?, address(&http_listener)?);

        let limits = ConnectionLimits {
            max_connections: config.server.max_connections,
            max_streams: config.server.max_streams,
            age: config.server.connection_age,
        };
        let mut serving = JoinSet::new();
        serving.spawn(serve(grpc_listener, services, limits, shutdown.clone()));
        serving.spawn(http::serve(http_listener, Arc::clone(&engine), health.ready(), shutdown.clone()));

        let mut background = JoinSet::new();
        background.spawn({
            let (health, engine) = (health.clone(), Arc::clone(&engine));
            async move { health.watch(engine).await }
        });
        background.spawn(settle_debts(Arc::clone(&engine)));
        background.spawn(reload_keys(Arc::clone(&engine), config.clone()));

        tracing::info!(
            listen.grpc = %grpc,
            listen.http = %http,
            sessions.store = scheme(&config.sessions.url),
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        let grace = config.server.shutdown_grace;
        Ok(Self {
            grpc,
            http,
            engine,
            events,
            health,
            grace,
            shutdown,
            serving,
            background,
            database,
            _lock: lock,
        })
    }

    /// Refuses what [`App::start`] would refuse before it opens a store or a port, and changes nothing.
    pub fn check(config: &Config) -> Result<(), StartError> {
        parts(config)?;
        telemetry::check(&config.log)?;
        Ok(())
    }

    /// Drains: health says NOT_SERVING, nobody new is let in, and what is under way may finish within
    /// the grace. False if it did not.
    pub async fn stop(mut self) -> bool {
        self.background.shutdown().await;
        self.health.drain().await;
        self.shutdown.cancel();
        let drained =
            tokio::time::timeout(self.grace, async { while self.serving.join_next().await.is_some() {} })
                .await;
        if drained.is_err() {
            tracing::warn!("requests that were under way did not finish within server.shutdown_grace");
        }
        self.serving.shutdown().await;
        // Writes what is in the log of the database into its file.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.database.close()).await;
        drained.is_ok()
    }
}

/// Refuses what can be refused without making anything.
fn parts(config: &Config) -> Result<Parts, String> {
    let parts = Parts { slots: slots(config)?, passwords: passwords(config)? };
    if config.admin_key_file().exists() {
        admin_key(config)?;
    }
    let keys = config.keys_dir();
    if !config.token.keys_dir.is_empty() || key_files_exist(&keys)? {
        key_files::load(&keys, config.signing_key()).map_err(|error| format!("token.keys_dir: {error}"))?;
    } else if let Some(name) = config.signing_key() {
        let keys = keys.display();
        return Err(format!(
            "token.signing_key: there is no {name} in {keys} yet: leave it empty for the first start, which makes a key"
        ));
    }
    if !is_embedded(config) {
        redis_settings(config)?;
    }
    Ok(parts)
}

fn prepare_data_dir(config: &Config) -> Result<Option<File>, String> {
    let dir = &config.data_dir;
    let refused = |error: std::io::Error| format!("data_dir: cannot use {}: {error}", dir.display());
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(refused)?;
    }
    if !is_embedded(config) {
        return Ok(None);
    }
    let lock = File::create(dir.join("latchkey.lock")).map_err(refused)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(format!(
            "another Latchkey is running on {}: stop it, choose another data_dir, or share sessions through Redis (sessions.url)",
            dir.display()
        )),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

/// The admin key; made where there is none.
fn admin_key(config: &Config) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let path = config.admin_key_file();
    if !path.exists() {
        let mut random = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(&mut *random).map_err(|error| format!("no randomness for the admin key: {error}"))?;
        let key = zeroize::Zeroizing::new(format!("lka_{}\n", BASE64URL_NOPAD.encode(&*random)));
        // Another process may have been faster; then its key counts.
        if let Err(error) = secret_file::create(&path, key.as_bytes())
            && !path.exists()
        {
            return Err(format!("access.admin_key_file: {error}"));
        }
    }
    let key = secret_file::read(&path).map_err(|error| format!("access.admin_key_file: {error}"))?;
    if key.trim_ascii().len() < 16 {
        return Err(format!(
            "access.admin_key_file: {} holds fewer than 16 characters: remove it, and the next start makes a good one",
            path.display()
        ));
    }
    Ok(key)
}

fn tokens(config: &Config, clock: &dyn Clock) -> Result<Tokens, String> {
    let dir = config.keys_dir();
    let own = config.token.keys_dir.is_empty();
    if own && !key_files_exist(&dir)? {
        key_files::generate(&dir, config.token.algorithm, clock.now())?;
    }
    let ring =
        key_files::load(&dir, config.signing_key()).map_err(|error| format!("token.keys_dir: {error}"))?;
    let settings = TokenSettings {
        issuer: config.token.issuer.clone(),
        audience: config.token.audience.clone(),
        leeway: config.token.leeway,
    };
    Ok(Tokens::new(ring, settings))
}

fn key_files_exist(dir: &Path) -> Result<bool, String> {
    if !dir.exists() {
        return Ok(false);
    }
    let entries = fs::read_dir(dir)
        .map_err(|error| format!("token.keys_dir: cannot read {}: {error}", dir.display()))?;
    Ok(entries.count() > 0)
}

fn session_store(
    config: &Config,
    database: &Database,
    clock: &Arc<dyn Clock>,
) -> Result<SessionStore, String> {
    if is_embedded(config) {
        let store = Arc::new(Encoded(EmbeddedRegisters::start(database.clone(), Arc::clone(clock))));
        return Ok((store.clone(), store));
    }
    let registers = RedisRegisters::start(&redis_settings(config)?, &config.sessions.key_prefix)
        .map_err(|error| format!("sessions.url: {error}"))?;
    let store = Arc::new(Encoded(registers));
    Ok((store.clone(), store))
}

fn is_embedded(config: &Config) -> bool {
    scheme(&config.sessions.url) == "embedded"
}

fn redis_settings(config: &Config) -> Result<LinkSettings, String> {
    let url = config.sessions.url.clone();
    if scheme(&url) != "redis" {
        let other = scheme(&url);
        return Err(format!("sessions.url: {other} is not supported; use embedded: or redis://host:port/db"));
    }
    let settings = LinkSettings {
        url,
        password: redis_password(config)?,
        connect_timeout: config.sessions.connect_timeout,
        response_timeout: config.sessions.response_timeout,
    };
    settings.check().map_err(|error| format!("sessions.url: {error}"))?;
    Ok(settings)
}

fn scheme(url: &str) -> &str {
    url.split_once(':').map_or(url, |(scheme, _)| scheme)
}

fn redis_password(config: &Config) -> Result<Option<String>, String> {
    let sessions = &config.sessions;
    if sessions.password_file.is_empty() {
        return Ok(Some(sessions.password.clone()).filter(|password| !password.is_empty()));
    }
    let contents = secret_file::read(Path::new(&sessions.password_file))
        .map_err(|error| format!("sessions.password_file: {error}"))?;
    let text =
        std::str::from_utf8(&contents).map_err(|_| "sessions.password_file: is not UTF-8".to_owned())?;
    Ok(Some(text.trim_end().to_owned()))
}

fn passwords(config: &Config) -> Result<Passwords, String> {
    let password = &config.password;
    let params = Argon2Params {
        memory_kib: password.memory_kib,
        iterations: password.iterations,
        parallelism: password.parallelism,
    };
    let threads = match password.threads {
        // One processor stays free for everything else.
        0 => std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1).max(1)),
        threads => threads,
    };
    Passwords::new(params, threads, password.queue).map_err(|error| error.to_string())
}

fn slots(config: &Config) -> Result<Slots, String> {
    let policy = SlotPolicy {
        idle_timeout: config.session.idle_timeout,
        absolute_timeout: config.session.absolute_timeout,
        limit: config.session.limit,
    };
    let slots = config.slots().map_err(|error| error.to_string())?;
    Slots::uniform(&slots, policy).ok_or_else(|| "session.slots must name at least one slot".to_owned())
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("{key}: cannot listen on {address}: {error}"))
}

async fn settle_debts(engine: Arc<Engine>) {
    loop {
        match engine.settle_debts().await {
            Ok(_) => {}
            // Health has told of the outage.
            Err(Error::Store(error)) if error.is_transient() => {}
            Err(error) => tracing::error!(error.message = %error, "sessions cannot follow their accounts"),
        }
        tokio::time::sleep(DEBT_INTERVAL).await;
    }
}

/// Picks up keys that were added or removed.
async fn reload_keys(engine: Arc<Engine>, config: Config) {
    let dir = config.keys_dir();
    let mut reported = String::new();
    loop {
        tokio::time::sleep(config.token.reload_interval).await;
        match key_files::load(&dir, config.signing_key()) {
            Ok(ring) => {
                reported.clear();
                if !engine.tokens.keyring().is_same(&ring) {
                    tracing::info!(
                        token.kid = ring.signing().kid,
                        token.keys = ring.keys().len(),
                        "using new signing keys"
                    );
                    engine.tokens.rotate(ring);
                }
            }
            Err(error) if error != reported => {
                tracing::error!(
                    error.message = error,
                    "the signing keys cannot be read; going on with those in memory"
                );
                reported = error;
            }
            Err(_) => {}
        }
    }
}
