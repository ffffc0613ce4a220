//! `latchkey backup` and `latchkey restore`: what of an installation is in an archive, and how it comes back.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::components::{is_database_used, is_embedded, redis_registers, scheme};
use crate::{
    config::Config,
    domain::{
        Error,
        epoch::CurrentEpoch,
        ports::{Clock as _, Registers},
        sessions::Epoch,
        types::Timestamp,
    },
    store::{
        backup::{self, ADMIN_KEY, DATABASE, KEYS, Manifest, Source},
        clock::SystemClock,
        codec_store::CodecStore,
        embedded::{self, Database, EmbeddedRegisters},
        redis::RedisOptions,
        restore::{self, Staging, Use},
    },
};

/// The time limit of a restore for connecting to Redis.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The destination of an archive.
#[derive(Debug)]
pub enum Target<'a> {
    /// A file.
    File {
        /// Its path.
        path: &'a Path,
        /// If true, an existing file is replaced.
        replace: bool,
    },
    /// Standard output.
    StandardOutput,
}

/// What is not in an archive because it is in another store, each with the way to back it up.
pub fn not_included(config: &Config) -> Vec<String> {
    let mut parts = Vec::new();
    if !is_embedded(config) {
        parts.push("the sessions, which are in Redis: its RDB or AOF files have them".to_owned());
    }
    let sql = |what: &str, url: &str| {
        let (place, how) = match scheme(url) {
            "postgres" | "postgresql" => ("PostgreSQL", "use pg_dump"),
            "sqlite" => ("another SQLite file", "use `sqlite3 FILE \".backup COPY\"`"),
            _ => ("MySQL or MariaDB", "use mysqldump --single-transaction"),
        };
        format!("the {what}, which are in {place}: {how}")
    };
    if scheme(&config.accounts.url) != "embedded" {
        parts.push(sql("accounts", &config.accounts.url));
    }
    let callers = &config.access.callers_url.0;
    if !callers.is_empty() && scheme(callers) != "embedded" {
        parts.push(sql("callers", callers));
    }
    parts
}

fn has_database(config: &Config) -> bool {
    is_embedded(config) || is_database_used(config)
}

/// Writes an archive. A server may be running.
pub fn backup(config: &Config, target: &Target<'_>) -> Result<Manifest, String> {
    let data_dir = &config.data_dir;
    restore::check_complete(data_dir)?;
    // Beside the archive, because a copy of the database could fill the volume of a server.
    let temporary = match target {
        Target::File { path, replace } => {
            if path.is_dir() {
                return Err(format!("{} is a directory: name a file in it", path.display()));
            }
            if !replace && path.symlink_metadata().is_ok() {
                return Err(backup::exists(path));
            }
            backup::directory_of(path)
        }
        Target::StandardOutput => data_dir,
    };
    let mut sources = Vec::new();
    let copy;
    if has_database(config) {
        let database = data_dir.join(DATABASE);
        if !database.exists() {
            return Err(format!(
                "data_dir: there is no {DATABASE} in {}: give the settings of the server, for example with --config",
                data_dir.display()
            ));
        }
        check_wal(data_dir)?;
        copy = backup::temporary_file(temporary)
            .map_err(|error| format!("cannot write to {}: {error}", temporary.display()))?;
        embedded::snapshot(&database, copy.path())
            .map_err(|error| format!("cannot copy {}: {error}", database.display()))?;
        sources.push(Source::database(copy.path()));
    }
    let keys = Source::keys(&config.keys_dir()).map_err(|error| format!("token.keys_dir: {error}"))?;
    if keys.is_empty() {
        return Err(format!("token.keys_dir: there is no key in {}", config.keys_dir().display()));
    }
    sources.extend(keys);
    let admin_key = Source::secret(ADMIN_KEY.to_owned(), &config.admin_key_file());
    sources.push(admin_key.map_err(|error| format!("access.admin_key_file: {error}"))?);

    let now = rfc3339(SystemClock.now());
    let manifest = Manifest::new(now, scheme(&config.sessions.url), scheme(&config.accounts.url));
    match target {
        Target::File { path, replace } => backup::write_file(path, *replace, manifest, &sources),
        Target::StandardOutput => {
            let mut out = io::stdout().lock();
            let written = backup::write(&mut out, manifest, &sources);
            written
                .and_then(|manifest| out.flush().map(|()| manifest))
                .map_err(|error| format!("cannot write to standard output: {error}"))
        }
    }
}

/// Fails if no server is running and the last one has left a damaged -wal file: a copy would lack what SQLite drops.
fn check_wal(data_dir: &Path) -> Result<(), String> {
    // With the lock held no server writes to the file.
    let Ok(Some(_lock)) = restore::lock(data_dir, Use::Shared) else { return Ok(()) };
    embedded::check_wal(&data_dir.join("latchkey.db-wal")).map_err(|error| error.to_string())
}

/// The options of a restore.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOptions {
    /// Whether files that are in the data directory are moved aside.
    pub force: bool,
    /// If true, no new epoch begins, so that sessions stay live.
    pub keep_sessions: bool,
}

/// A restore that succeeded.
#[derive(Debug)]
pub struct Restored {
    /// The contents of the archive.
    pub manifest: Manifest,
    /// The directory with the old files, if there were any.
    pub aside: Option<PathBuf>,
    /// What was in the archive and was not restored, with the reason.
    pub skipped: Vec<String>,
}

/// Restores an archive into the data directory of a server that is stopped. Unless sessions are kept, begins a new epoch.
pub async fn restore(
    config: &Config,
    archive: impl Read,
    options: RestoreOptions,
) -> Result<Restored, String> {
    let staging = Staging::begin(&config.data_dir, options.force)?;
    let directory = staging.directory();
    let manifest = backup::extract(archive, directory)?;
    check_stores(config, &manifest)?;
    let database = directory.join(DATABASE);
    if manifest.has_database() {
        embedded::verify(&database).map_err(|error| format!("{DATABASE} is damaged: {error}"))?;
    }
    if !options.keep_sessions {
        begin_epochs(config, manifest.has_database().then_some(&database)).await?;
    }
    let mut skipped = Vec::new();
    for (key, value, name) in [
        ("token.keys_dir", &config.token.keys_dir, KEYS),
        ("access.admin_key_file", &config.access.admin_key_file, ADMIN_KEY),
    ] {
        if !value.is_empty() {
            let path = directory.join(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
            skipped.push(format!("{name}, because {key} names {value}: `tar -xf FILE {name}` extracts it"));
        }
    }
    let now = rfc3339(SystemClock.now()).replace([':', '.'], "-");
    let aside = staging.place(&format!("replaced-{now}"))?;
    Ok(Restored { manifest, aside, skipped })
}

/// Fails if the configuration is not that of the backup: its server would begin with empty stores.
fn check_stores(config: &Config, manifest: &Manifest) -> Result<(), String> {
    for (key, then, now) in [
        ("sessions.url", &manifest.sessions, scheme(&config.sessions.url)),
        ("accounts.url", &manifest.accounts, scheme(&config.accounts.url)),
    ] {
        if (then == "embedded") != (now == "embedded") {
            return Err(format!(
                "{key} was {then}: when the backup was made, and now it is {now}: give the settings of that server, for example with --config"
            ));
        }
    }
    if has_database(config) && !manifest.has_database() {
        return Err(format!("it has no {DATABASE}, which the settings of this server need"));
    }
    Ok(())
}

/// Begins a new epoch in the restored database and in the session store that is configured.
async fn begin_epochs(config: &Config, database: Option<&PathBuf>) -> Result<(), String> {
    if let Some(path) = database {
        let failed =
            |error: &dyn std::fmt::Display| format!("cannot begin a new epoch in {DATABASE}: {error}");
        let database = Database::open(path).await.map_err(|error| failed(&error))?;
        let registers = EmbeddedRegisters::start(database.clone(), Arc::new(SystemClock));
        let begun = begin_epoch(Arc::new(CodecStore::new(registers))).await;
        database.close().await;
        begun.map_err(|error| failed(&error))?;
        if path.with_extension("db-wal").exists() {
            return Err(failed(&"its -wal file cannot be merged"));
        }
    }
    if is_embedded(config) {
        return Ok(());
    }
    let store = Arc::new(CodecStore::new(redis_registers(config, RedisOptions::default())?));
    let begun = Instant::now();
    loop {
        match begin_epoch(store.clone()).await {
            Ok(()) => return Ok(()),
            Err(Error::Store(error)) if error.is_transient() && begun.elapsed() < CONNECT_TIMEOUT => {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(error) => {
                return Err(format!(
                    "sessions.url: cannot begin a new epoch in Redis: {error}: start Redis first, or restore with --keep-sessions and run `latchkey session end --everyone` before users are let in"
                ));
            }
        }
    }
}

async fn begin_epoch(registers: Arc<dyn Registers<Epoch>>) -> Result<(), Error> {
    CurrentEpoch::new(registers).begin(SystemClock.now(), None).await
}

fn rfc3339(at: Timestamp) -> String {
    let since = Duration::from_micros(at.as_micros());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}
