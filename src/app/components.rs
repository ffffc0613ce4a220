//! Creates the components of a server from the configuration and its files.

pub(super) mod accounts;
mod missing_keys;
mod webhook;

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use rustix::{
    fs::{Access, AtFlags, CWD, accessat as access_at},
    io::Errno,
};

use crate::{
    config::{Config, ValidateAccess},
    domain::{
        Metrics, Slots,
        guessable::why_guessable,
        health::ProbeMark,
        lease::Delivery,
        limiter::LoginLimiter,
        password::{Argon2Params, PasswordPolicy, Passwords},
        ports::{Clock, EventLog, Registers},
        rotation::Rotation,
        sessions::{Epoch, UserSessions},
        throttle::{Throttle, ThrottleRule},
        token::{TokenSettings, Tokens},
    },
    grpc::access::AccessSettings,
    metrics::store::StoreMetrics,
    store::{
        audit::{AuditFile, AuditTrail},
        backend::Backend,
        batching::BatchingSessions,
        clock::SystemClock,
        codec_store::CodecStore,
        embedded::{Database, EmbeddedRegisters},
        key_files::{self, KeyFileDirectory},
        metered::{Metered, StoreNames},
        near_cache,
        redis::{Durability, Password, RedisOptions, RedisRegisters, RedisSettings, RedisTlsFiles},
        restore::{self, Use},
        secret_file,
    },
};

pub(super) use self::{
    accounts::{accounts_and_callers, is_database_used},
    missing_keys::check_missing_keys,
    webhook::webhook_receiver,
};

/// The schemes of `sessions.url` for Redis.
const REDIS_SCHEMES: [&str; 7] =
    ["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

/// The name of SQLite in traces.
const SQLITE: &str = "sqlite";

/// Letters and digits of an admin key that must not be part of words.
const MIN_RANDOM_CHARACTERS: usize = 10;

/// Logins that wait for long may use one of this many streams of a connection. The others stay free for users who are
/// logged in.
const LOGIN_STREAM_SHARE: u32 = 2;

/// The errors that prevent a start, each a sentence that begins with its setting.
#[derive(Default)]
pub(super) struct Errors(pub(super) Vec<String>);

impl Errors {
    /// Runs a check of the settings of a section, unless one of them has an error already.
    fn step<T>(&mut self, section: &str, check: impl FnOnce() -> Result<T, String>) -> Option<T> {
        let is_of_section = |error: &String| {
            error.strip_prefix(section).is_some_and(|rest| rest.starts_with(['.', ':', ' ']))
        };
        if self.0.iter().any(is_of_section) {
            return None;
        }
        check().map_err(|error| self.0.push(error)).ok()
    }
}

/// Components that are created while the configuration is checked.
pub(super) struct CheckedComponents {
    pub(super) slots: Slots,
    pub(super) passwords: Passwords,
}

/// The ports of the session store.
pub(super) struct SessionStore {
    pub(super) sessions: Arc<dyn Registers<UserSessions>>,
    pub(super) throttle: Arc<dyn Registers<Throttle>>,
    pub(super) epoch: Arc<dyn Registers<Epoch>>,
    pub(super) deliveries: Arc<dyn Registers<Delivery>>,
    pub(super) probe: Arc<dyn Registers<ProbeMark>>,
    pub(super) events: Arc<dyn EventLog>,
}

impl SessionStore {
    /// Requires a runtime, because it spawns tasks. Requests are counted, timed and traced below the batching, so that those that
    /// are sent together cost and count as one.
    fn new<R: Backend>(registers: R, system: &'static str, metrics: &Arc<StoreMetrics>) -> Self {
        let store = Arc::new(CodecStore::new(registers));
        let metered =
            |collection| Arc::new(Metered::new(store.clone(), metrics, StoreNames { system, collection }));
        Self {
            sessions: Arc::new(BatchingSessions::new(metered("sessions"))),
            throttle: metered("throttle"),
            epoch: metered("epoch"),
            deliveries: metered("deliveries"),
            probe: metered("probe"),
            events: metered("events"),
        }
    }

    /// Adds the near-cache, if it is configured.
    pub(super) fn cached(self, config: &Config, metrics: &Arc<StoreMetrics>) -> Self {
        let bytes = super::memory::near_cache_bytes(config.validate.cache_mib);
        if bytes == 0 {
            return self;
        }
        let (sessions, events) = near_cache::cached(self.sessions, self.events, bytes, is_embedded(config));
        Self { sessions: Arc::new(sessions.metered(metrics)), events: Arc::new(events), ..self }
    }
}

/// Checks the configuration and its files. Creates no files. Adds all errors; steps whose settings have an error already are
/// left out.
pub(super) fn check_config(config: &Config, errors: &mut Errors) -> Option<CheckedComponents> {
    let slots = errors.step("session", || slots(config));
    let passwords = errors.step("password", || passwords(config));
    errors.step("access", || {
        let path = config.admin_key_file();
        if path.exists() {
            admin_key(config).map(drop)
        } else {
            require_writable("access.admin_key_file", &path)
        }
    });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    errors.step("tls", || super::tls::encryption(config, &clock));
    errors.step("data_dir", || {
        if config.data_dir.exists() {
            secret_file::check_data_directory(&config.data_dir)
                .map_err(|error| format!("data_dir: {error}"))?;
            restore::check_complete(&config.data_dir)?;
        }
        // The databases and locks are files in it.
        require_writable("data_dir", &config.data_dir.join("latchkey.db"))
    });
    errors.step("token", || check_keys(config));
    errors.step("sessions", || if is_embedded(config) { Ok(()) } else { redis_settings(config).map(drop) });
    errors.step("accounts", || accounts::check(config));
    errors.step("webhook", || webhook_receiver(config, &clock));
    errors.step("audit", || match config.audit.file.as_str() {
        "" => Ok(()),
        file => require_writable("audit.file", Path::new(file)),
    });
    errors.step("log", || crate::telemetry::check(&config.log));
    errors.step("otlp", || crate::telemetry::check_otlp(&config.otlp));
    Some(CheckedComponents { slots: slots?, passwords: passwords? })
}

fn check_keys(config: &Config) -> Result<(), String> {
    let keys = config.keys_dir();
    if !config.token.keys_dir.is_empty() || key_files::exist(&keys)? {
        let files = key_files::check(&keys).map_err(|error| format!("token.keys_dir: {error}"))?;
        if let Some(name) = config.signing_key().filter(|name| files.iter().all(|file| file.name != *name)) {
            let keys = keys.display();
            return Err(format!("token.signing_key: there is no key file {name} in {keys}"));
        }
    } else if let Some(name) = config.signing_key() {
        let keys = keys.display();
        return Err(format!(
            "token.signing_key: there is no {name} in {keys} yet: leave it empty for the first start, which makes a key"
        ));
    }
    Ok(())
}

/// Fails if this file cannot be written, or created together with the directories that are missing.
fn require_writable(setting: &str, file: &Path) -> Result<(), String> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let Some(existing) = file.ancestors().find(|path| path.exists()) else { return Ok(()) };
    let failed = |why: &str| {
        Err(format!(
            "{setting}: {} cannot be written, because {} {why}: choose another path, or let the user of the server write there",
            file.display(),
            existing.display()
        ))
    };
    if existing != file && !existing.is_dir() {
        return failed("is not a directory");
    }
    let access = if existing.is_dir() { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK };
    match access_at(CWD, existing, access, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(Errno::ROFS) => failed("is on a read-only file system"),
        Err(_) => failed("may not be written by this user"),
    }
}

/// Creates the data directory and locks it.
pub(super) fn prepare_data_dir(config: &Config) -> Result<Option<File>, String> {
    let dir = &config.data_dir;
    let failed = |error: std::io::Error| format!("data_dir: cannot use {}: {error}", dir.display());
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    if is_embedded(config) {
        let lock = restore::lock(dir, Use::Exclusive).map_err(failed)?;
        return lock.map(Some).ok_or_else(|| {
            format!(
                "another Latchkey is running on {}: stop it, choose another data_dir, or share sessions through Redis (sessions.url)",
                dir.display()
            )
        });
    }
    match restore::lock(dir, Use::Shared) {
        Ok(None) => Err(format!(
            "a Latchkey with embedded sessions, or a restore, uses {}: stop it, or choose another data_dir",
            dir.display()
        )),
        Ok(lock) => Ok(lock),
        Err(error) => {
            tracing::warn!(error.message = %error, "cannot lock data_dir: `latchkey restore` will not notice this server");
            Ok(None)
        }
    }
}

pub(super) fn access_settings(config: &Config) -> Result<AccessSettings, String> {
    Ok(AccessSettings {
        validate_needs_role: config.access.validate == ValidateAccess::Caller,
        certificates: config.certificates().map_err(|error| error.to_string())?,
    })
}

/// Reads the admin key. Generates it if there is none.
pub(super) fn admin_key(config: &Config) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let path = config.admin_key_file();
    if !path.exists() {
        let mut random = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(&mut *random).map_err(|error| format!("no randomness for the admin key: {error}"))?;
        let key = zeroize::Zeroizing::new(format!("lka_{}\n", BASE64URL_NOPAD.encode(&*random)));
        // If another process has created the file meanwhile, its key is used.
        if let Err(error) = secret_file::create(&path, key.as_bytes())
            && !path.exists()
        {
            return Err(format!("access.admin_key_file: {error}"));
        }
    }
    let key = secret_file::read(&path).map_err(|error| format!("access.admin_key_file: {error}"))?;
    let invalid = |problem: &str| {
        Err(format!(
            "access.admin_key_file: {} holds {problem}: remove it, and start with `latchkey serve --allow-new-keys` to generate a new one",
            path.display()
        ))
    };
    let secret = key.trim_ascii();
    if secret.len() < 16 {
        return invalid("fewer than 16 characters");
    }
    match why_guessable(secret.strip_prefix(b"lka_").unwrap_or(secret), MIN_RANDOM_CHARACTERS) {
        Some(why) => invalid(&format!("a key that can be guessed, because {why}")),
        None => Ok(key),
    }
}

pub(super) fn tokens(config: &Config, clock: &dyn Clock) -> Result<(Tokens, Rotation), String> {
    let dir = config.keys_dir();
    if config.token.keys_dir.is_empty() {
        secret_file::close_directory(&dir);
        if !key_files::exist(&dir)? {
            key_files::generate_first(&dir, config.token.algorithm, clock.now())?;
        }
    }
    let directory = Arc::new(KeyFileDirectory(dir));
    let signing = config.signing_key().map(str::to_owned);
    let (interval, delay) = (config.token.reload_interval, config.token.activation_delay());
    let (rotation, ring) = Rotation::start(directory, signing, interval, delay, clock.now())
        .map_err(|error| format!("token.keys_dir: {error}"))?;
    let settings = TokenSettings {
        issuer: config.token.issuer.clone(),
        audience: config.token.audience.clone(),
        leeway: config.token.leeway,
    };
    Ok((Tokens::new(ring, settings), rotation))
}

pub(super) fn session_store(
    config: &Config,
    database: &Database,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    store_metrics: &Arc<StoreMetrics>,
) -> Result<SessionStore, String> {
    if is_embedded(config) {
        let registers = EmbeddedRegisters::start(database.clone(), Arc::clone(clock));
        return Ok(SessionStore::new(registers, SQLITE, store_metrics));
    }
    let options = RedisOptions { rollbacks: metrics.rollbacks.clone(), ..RedisOptions::default() };
    Ok(SessionStore::new(redis_registers(config, options)?, "redis", store_metrics))
}

pub(super) fn redis_registers(config: &Config, options: RedisOptions) -> Result<RedisRegisters, String> {
    RedisRegisters::start_with(&redis_settings(config)?, &config.sessions.key_prefix, options)
        .map_err(|error| format!("sessions.url: {error}"))
}

pub(super) fn is_embedded(config: &Config) -> bool {
    scheme(&config.sessions.url) == "embedded"
}

pub(super) fn redis_settings(config: &Config) -> Result<RedisSettings, String> {
    let sessions = &config.sessions;
    let url = sessions.url.clone();
    if !REDIS_SCHEMES.contains(&scheme(&url)) {
        return Err(format!(
            "sessions.url: {} is not supported: use embedded:, redis://host:port/db, rediss://host:port/db, \
             unix:///path, redis+sentinel://host:port,host:port/master-name or redis+cluster://host:port,host:port",
            scheme(&url)
        ));
    }
    let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
    if sessions.tls_certificate_file.is_empty() != sessions.tls_key_file.is_empty() {
        return Err(
            "sessions.tls_certificate_file and sessions.tls_key_file go together: set both or neither"
                .to_owned(),
        );
    }
    let password = |value: &str, path: &str| match (value, file(path)) {
        (_, Some(path)) => Password::File(path),
        ("", None) => Password::None,
        (value, None) => Password::Value(value.to_owned()),
    };
    let identity = file(&sessions.tls_certificate_file).zip(file(&sessions.tls_key_file));
    let settings = RedisSettings {
        url,
        password: password(&sessions.password, &sessions.password_file),
        sentinel_password: password(&sessions.sentinel_password, &sessions.sentinel_password_file),
        tls: RedisTlsFiles { ca: file(&sessions.tls_ca_file), identity },
        connect_timeout: sessions.connect_timeout,
        response_timeout: sessions.response_timeout,
        durability: durability(&sessions.durability, sessions.durability_timeout)?,
        buckets: sessions.buckets,
    };
    settings.check()?;
    Ok(settings)
}

/// Parses `primary` or `replicas:N`.
fn durability(text: &str, timeout: Duration) -> Result<Durability, String> {
    let replicas = || text.strip_prefix("replicas:")?.parse().ok().filter(|count| (1..=100).contains(count));
    match text {
        "primary" => Ok(Durability::Primary),
        _ => replicas().map(|count| Durability::Replicas { count, timeout }).ok_or_else(|| {
            format!("sessions.durability: {text:?} is neither primary nor replicas:N with N from 1 to 100")
        }),
    }
}

pub(super) fn scheme(url: &str) -> &str {
    url.split_once(':').map_or(url, |(scheme, _)| scheme)
}

/// The password of a store: a value, the content of a file, or none.
fn password(key: &str, value: &str, file: &str) -> Result<Option<String>, String> {
    if file.is_empty() {
        return Ok(Some(value.to_owned()).filter(|password| !password.is_empty()));
    }
    let contents =
        secret_file::read(Path::new(file)).map_err(|error| format!("{key}.password_file: {error}"))?;
    let text = std::str::from_utf8(&contents).map_err(|_| format!("{key}.password_file: is not UTF-8"))?;
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
        // One processor stays free for other requests.
        0 => std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1).max(1)),
        threads => threads,
    };
    let policy = PasswordPolicy::new(password.min_length, ["latchkey", &config.token.issuer])
        .with_blocklist(password.blocklist.iter().map(String::as_str));
    let passwords = Passwords::new(params, threads, password.queue).map_err(|error| error.to_string())?;
    let share = usize::try_from(config.server.max_streams / LOGIN_STREAM_SHARE).unwrap_or(usize::MAX).max(1);
    Ok(passwords.with_policy(policy).with_connection_share(share))
}

fn slots(config: &Config) -> Result<Slots, String> {
    let policies = config.slot_policies().map_err(|error| error.to_string())?;
    Slots::new(policies).ok_or_else(|| "session.slots must name at least one slot".to_owned())
}

pub(super) fn login_limiter(
    config: &Config,
    registers: Arc<dyn Registers<Throttle>>,
    clock: &Arc<dyn Clock>,
) -> LoginLimiter {
    let throttle = &config.throttle;
    let account = ThrottleRule::Account {
        free: throttle.free_attempts,
        first_wait: throttle.first_wait,
        longest_wait: throttle.longest_wait,
        lock_after: throttle.max_failures,
    };
    let address = (throttle.address_failures > 0).then_some(ThrottleRule::Address {
        failures: throttle.address_failures,
        window: throttle.address_window,
    });
    LoginLimiter::new(registers, Arc::clone(clock), account, address)
}

pub(super) fn audit_trail(config: &Config) -> Result<AuditTrail, String> {
    let file = match config.audit.file.as_str() {
        "" => None,
        path => Some(AuditFile::open(Path::new(path)).map_err(|error| format!("audit.file: {error}"))?),
    };
    Ok(AuditTrail { log: config.audit.log, log_imports: config.audit.log_imports, file })
}
