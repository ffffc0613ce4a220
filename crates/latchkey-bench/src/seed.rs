//! Seeds a store with the sessions that logins would open, without checking passwords: a million users would take hours.

use std::{io::Write as _, num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use latchkey::{
    config::Config,
    domain::{
        ports::{Change, Clock as _, Commit, Registers, Revision},
        sessions::{
            Context, Epoch, KickWar, OnLimit, Open, Opened, Profile, Session, SlotPolicy, Transition,
            UserSessions, Victim,
        },
        token::{TokenSettings, Tokens},
        types::{Device, Role, SessionId, Slot, Timestamp, UserId},
    },
    store::{
        backend::Backend,
        clock::SystemClock,
        codec_store::CodecStore,
        embedded::{Database, EmbeddedRegisters},
        key_files,
        redis::{RedisRegisters, RedisSettings},
    },
};

use crate::Result;

const CONCURRENT_COMMITS: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The tokens of a server with this data directory. Creates the signing key if there is none.
pub fn signer(data: &Path) -> Result<Tokens> {
    let variable = ("LATCHKEY_DATA_DIR".to_owned(), data.display().to_string());
    let config = Config::load(None, [variable])?;
    let keys = config.keys_dir();
    if !keys.exists() {
        key_files::generate(&keys, config.token.algorithm, SystemClock.now())?;
    }
    let token = config.token;
    let settings = TokenSettings { issuer: token.issuer, audience: token.audience, leeway: token.leeway };
    Ok(Tokens::new(key_files::load(&keys)?, settings))
}

/// The registers of a server with this data directory and the embedded store.
pub async fn embedded(data: &Path) -> Result<(CodecStore<EmbeddedRegisters>, Database)> {
    let database = Database::open(&data.join("latchkey.db")).await?;
    Ok((CodecStore::new(EmbeddedRegisters::start(database.clone(), Arc::new(SystemClock))), database))
}

/// The registers of a server with this Redis.
pub async fn redis(url: String) -> Result<CodecStore<RedisRegisters>> {
    redis_with(RedisSettings::new(url, CONNECT_TIMEOUT, CONNECT_TIMEOUT)).await
}

/// The registers of a server with a Redis that has this number of buckets.
pub async fn redis_with_buckets(url: String, buckets: u16) -> Result<CodecStore<RedisRegisters>> {
    let settings = RedisSettings::new(url, CONNECT_TIMEOUT, CONNECT_TIMEOUT);
    redis_with(RedisSettings { buckets, ..settings }).await
}

async fn redis_with(settings: RedisSettings) -> Result<CodecStore<RedisRegisters>> {
    let registers = CodecStore::new(RedisRegisters::start(&settings, "lk")?);
    let begun = std::time::Instant::now();
    while let Err(error) = Registers::<UserSessions>::load(&registers, &UserId::random()).await {
        if begun.elapsed() > CONNECT_TIMEOUT {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(registers)
}

/// Opens a session for each of this many new users, and returns their tokens.
pub async fn open_sessions<R: Backend>(
    registers: &CodecStore<R>,
    signer: &Tokens,
    users: usize,
    device: &str,
    roles: &[Role],
) -> Result<Vec<String>> {
    let logins = stream::iter(0..users).map(|number| log_in(registers, signer, number, device, roles));
    logins.buffer_unordered(CONCURRENT_COMMITS).try_collect().await
}

/// Writes a file with one token per line.
pub fn write_tokens(path: &Path, tokens: impl Iterator<Item: AsRef<str>>) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for token in tokens {
        writeln!(file, "{}", token.as_ref())?;
    }
    Ok(file.flush()?)
}

/// The sessions of a new user after one login at `now`, and the session that it opened.
pub fn first_login(username: &str, device: &str, roles: &[Role], now: Timestamp) -> (UserSessions, Session) {
    let opened = log_in_again(&UserSessions::default(), username, device, roles, now);
    (opened.state, opened.outcome.session)
}

/// What a login at `now` makes of the sessions of a user.
pub fn log_in_again(
    sessions: &UserSessions,
    username: &str,
    device: &str,
    roles: &[Role],
    now: Timestamp,
) -> Transition<Opened> {
    let open = Open {
        id: SessionId::random(),
        slot: Slot::parse("default").unwrap(),
        device: Device::parse(device).unwrap(),
        profile: Profile { username: username.into(), roles: roles.iter().cloned().collect() },
        policy: SlotPolicy {
            idle_timeout: Duration::from_hours(1),
            absolute_timeout: Duration::from_hours(24),
            limit: NonZeroU32::MIN,
            on_limit: OnLimit::Displace,
            victim: Victim::Oldest,
            exclusive: false,
            kick_war: KickWar { changes: 0, window: Duration::from_mins(1) },
        },
        login_key: None,
        takeover: false,
        client: None,
    };
    let at = Context {
        now,
        tombstone_ttl: Duration::from_hours(24),
        leeway: Duration::ZERO,
        epoch: &Epoch::FIRST,
    };
    sessions.open(open, at).unwrap()
}

/// Commits what a login commits, with a user id of 26 characters and a username of 12, and returns the token.
async fn log_in<R: Backend>(
    registers: &CodecStore<R>,
    signer: &Tokens,
    number: usize,
    device: &str,
    roles: &[Role],
) -> Result<String> {
    let now = SystemClock.now();
    let (state, session) = first_login(&format!("user{number:08}"), device, roles, now);
    let change = Change { keep_until: state.keep_until(now), state, events: Vec::new() };
    let user_id = UserId::random();
    match registers.commit(&user_id, Revision::ABSENT, change).await? {
        Commit::Committed(_) => Ok(signer.issue(&user_id, &session, roles)?),
        Commit::Conflict(_) => Err("a new id was in use".into()),
    }
}
