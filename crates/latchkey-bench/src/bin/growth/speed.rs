//! Validate over users at random against Validate over a few, and what the server holds then.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    Plan, fill,
    load::Target,
    numbers::{Spread, median, round},
    place::Place,
    redis::RedisServer,
    server::Latchkey,
};

/// The few.
const HOT: usize = 1000;
/// So many draws of one user among all.
const DRAWS: usize = 1_000_000;

/// Tokens of a few users, and of users drawn at random among all.
pub struct Tokens {
    hot: PathBuf,
    random: PathBuf,
}

impl Tokens {
    pub fn write(folder: &Path, all: &[String]) -> Result<Self, String> {
        let tokens = Self { hot: folder.join("tokens-hot"), random: folder.join("tokens-random") };
        fill::write(&tokens.hot, all.iter().take(HOT))?;
        let draws = (0..DRAWS.min(all.len())).map(|_| &all[rand::random_range(0..all.len())]);
        fill::write(&tokens.random, draws)?;
        Ok(tokens)
    }
}

/// Both in turns, after which the cache is as full as it gets.
pub fn compare(plan: &Plan, latchkey: &Latchkey, tokens: &Tokens) -> Result<Value, String> {
    let ask = |tokens: &Path| {
        let target = Target { address: latchkey.server.grpc, tokens, arguments: &[], first: false };
        Ok::<_, String>(target.load(plan.each, None)?.requests_per_second)
    };
    let started = latchkey.server.resident();
    ask(&tokens.hot)?;
    let warm = latchkey.server.resident();
    ask(&tokens.random)?;
    let mut turns = Vec::new();
    for _ in 0..plan.turns {
        turns.push((ask(&tokens.hot)?, ask(&tokens.random)?));
    }
    Ok(json!({
        "hot_users": HOT,
        "hot_per_second": round(median(turns.iter().map(|(hot, _)| *hot)), 0),
        "random_per_second": round(median(turns.iter().map(|(_, random)| *random)), 0),
        "ratio": Spread::of(turns.iter().map(|(hot, random)| random / hot)).json(),
        "resident_bytes_after_start": started,
        "resident_bytes_with_hot_users": warm,
        "resident_bytes_after_random_users": latchkey.server.resident(),
    }))
}

/// On Redis: its memory a session, and both ways to ask it.
pub async fn redis(plan: &Plan, place: &Place) -> Result<Value, String> {
    let data = tempfile::tempdir().map_err(|error| error.to_string())?;
    let redis = place.on_servers_core(RedisServer::start);
    let before = used_memory(&redis)?;
    let registers = fill::redis(redis.url()).await?;
    let signer = fill::signer(data.path())?;
    let all = fill::sessions(&registers, &signer, plan.sessions, "Firefox on Linux", &[]).await?;
    let tokens = Tokens::write(data.path(), &all)?;
    drop(all);
    let taken = used_memory(&redis)? - before;
    drop(registers);

    let mut latchkey = Latchkey::on(data, Some(redis), place, &[]).await?;
    let strict = compare(plan, &latchkey, &tokens)?;
    latchkey = latchkey.again(place, &[("VALIDATE__MAX_STALENESS", "5s")]).await?;
    let cached = compare(plan, &latchkey, &tokens)?;
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    let each = taken as f64 / plan.sessions as f64;
    Ok(json!({
        "bytes_per_session": round(each, 1),
        "always_asked": strict,
        "from_memory": cached,
    }))
}

fn used_memory(redis: &RedisServer) -> Result<u64, String> {
    let info: String = redis.query(::redis::cmd("INFO").arg("memory"));
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|line| line.trim().parse().ok()).ok_or_else(|| "Redis does not tell its memory".into())
}
