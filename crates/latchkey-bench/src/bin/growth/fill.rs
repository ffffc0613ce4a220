//! Sessions put into a store as logins would put them, but without the logins: checking the passwords of a million
//! users would take hours.

use std::{io::Write as _, num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use latchkey::{
    config::Config,
    domain::{
        ports::{Change, Clock as _, Commit, Registers, Revision},
        sessions::{At, Epoch, KickWar, OnLimit, Open, Profile, SlotPolicy, UserSessions, Victim},
        token::{TokenSettings, Tokens},
        types::{Device, Role, SessionId, Slot, UserId},
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

/// Commits under way at a time.
const AT_ONCE: usize = 256;
/// How long a store may take to come up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tokens of a server that has this data directory, or will have it.
pub fn signer(data: &Path) -> Result<Tokens, String> {
    let variable = ("LATCHKEY_DATA_DIR".to_owned(), data.display().to_string());
    let config = Config::load(None, [variable]).map_err(|error| error.to_string())?;
    let keys = config.keys_dir();
    if !keys.exists() {
        key_files::generate(&keys, config.token.algorithm, SystemClock.now())?;
    }
    let token = config.token;
    let settings = TokenSettings { issuer: token.issuer, audience: token.audience, leeway: token.leeway };
    Ok(Tokens::new(key_files::load(&keys)?, settings))
}

/// The registers of a server with this data directory and the embedded store.
pub async fn embedded(data: &Path) -> Result<(CodecStore<EmbeddedRegisters>, Database), String> {
    let database = Database::open(&data.join("latchkey.db")).await.map_err(|error| error.to_string())?;
    Ok((CodecStore::new(EmbeddedRegisters::start(database.clone(), Arc::new(SystemClock))), database))
}

/// The registers of a server with this Redis.
pub async fn redis(url: String) -> Result<CodecStore<RedisRegisters>, String> {
    let settings = RedisSettings {
        url,
        password: None,
        password_file: None,
        connect_timeout: PATIENCE,
        response_timeout: PATIENCE,
    };
    let registers = CodecStore::new(RedisRegisters::start(&settings, "lk")?);
    let begun = std::time::Instant::now();
    while let Err(error) = Registers::<UserSessions>::load(&registers, &UserId::random()).await {
        if begun.elapsed() > PATIENCE {
            return Err(error.to_string());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(registers)
}

/// Logs in so many new users, one session each: their tokens.
pub async fn sessions<R: Backend>(
    registers: &CodecStore<R>,
    signer: &Tokens,
    users: usize,
    device: &str,
    roles: &[Role],
) -> Result<Vec<String>, String> {
    let logins = stream::iter(0..users).map(|number| log_in(registers, signer, number, device, roles));
    logins.buffer_unordered(AT_ONCE).try_collect().await
}

/// One token a line.
pub fn write<'a>(path: &Path, tokens: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let written = || {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for token in tokens {
            writeln!(file, "{token}")?;
        }
        file.flush()
    };
    written().map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// What a login does to the store: an id of 26 characters, a username of 12.
async fn log_in<R: Backend>(
    registers: &CodecStore<R>,
    signer: &Tokens,
    number: usize,
    device: &str,
    roles: &[Role],
) -> Result<String, String> {
    let now = SystemClock.now();
    let open = Open {
        id: SessionId::random(),
        slot: Slot::parse("default").unwrap(),
        device: Device::parse(device).unwrap(),
        profile: Profile { username: format!("user{number:08}").into(), roles: roles.to_vec() },
        policy: SlotPolicy {
            idle_timeout: Duration::from_hours(1),
            absolute_timeout: Duration::from_hours(24),
            limit: NonZeroU32::MIN,
            on_limit: OnLimit::Displace,
            victim: Victim::Oldest,
            exclusive: false,
            kick_war: KickWar { changes: 6, window: Duration::from_mins(1) },
        },
        login_key: None,
        takeover: false,
        client: None,
    };
    let at =
        At { now, tombstone_ttl: Duration::from_hours(24), leeway: Duration::ZERO, epoch: &Epoch::FIRST };
    let next = UserSessions::default().open(open, at).map_err(|refused| format!("{refused:?}"))?;
    let session = next.outcome.session;
    let change = Change { keep_until: next.state.keep_until(now), state: next.state, events: Vec::new() };
    let user_id = UserId::random();
    let outcome = registers.commit(&user_id, Revision::ABSENT, change).await;
    match outcome.map_err(|error| error.to_string())? {
        Commit::Committed(_) => signer.issue(&user_id, &session, roles).map_err(|error| error.to_string()),
        Commit::Conflict(_) => Err("a new id was somebody's already".into()),
    }
}
