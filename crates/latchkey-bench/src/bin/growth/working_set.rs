//! Validate over random users in comparison with a few users, and the memory of the server.

use std::path::{Path, PathBuf};

use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    load::LoadTarget,
    processes::{LatchkeyServer, redis_info},
    seed,
    statistics::{Spread, median, round},
    support::redis::RedisServer,
};
use serde_json::{Value, json};

use crate::Plan;

const HOT_USERS: usize = 1000;
/// Number of random draws of one user among all.
const DRAWS: usize = 1_000_000;

/// Files with the tokens of a few users, and of users drawn at random.
pub(crate) struct TokenFiles {
    hot: PathBuf,
    random: PathBuf,
}

impl TokenFiles {
    pub(crate) fn write(folder: &Path, tokens: &[String]) -> Result<Self> {
        let files = Self { hot: folder.join("tokens-hot"), random: folder.join("tokens-random") };
        seed::write_tokens(&files.hot, tokens.iter().take(HOT_USERS))?;
        let draws = (0..DRAWS.min(tokens.len())).map(|_| &tokens[rand::random_range(0..tokens.len())]);
        seed::write_tokens(&files.random, draws)?;
        Ok(files)
    }
}

/// Measures both in turns, once the cache is as full as it gets.
pub(crate) fn compare(plan: &Plan, latchkey: &LatchkeyServer, files: &TokenFiles) -> Result<Value> {
    let validates_per_second = |tokens: &Path| {
        let target = LoadTarget { address: latchkey.process.grpc, tokens, arguments: &[], real_time: false };
        Ok::<_, latchkey_bench::Error>(target.run(plan.turn, None)?.requests_per_second)
    };
    let after_start = latchkey.process.resident_bytes();
    validates_per_second(&files.hot)?;
    let with_hot_users = latchkey.process.resident_bytes();
    validates_per_second(&files.random)?;
    let mut turns = Vec::new();
    for _ in 0..plan.turns {
        turns.push((validates_per_second(&files.hot)?, validates_per_second(&files.random)?));
    }
    Ok(json!({
        "hot_users": HOT_USERS,
        "hot_per_second": round(median(turns.iter().map(|(hot, _)| *hot)), 0),
        "random_per_second": round(median(turns.iter().map(|(_, random)| *random)), 0),
        "ratio": Spread::of(turns.iter().map(|(hot, random)| random / hot)).json(),
        "resident_bytes_after_start": after_start,
        "resident_bytes_with_hot_users": with_hot_users,
        "resident_bytes_after_random_users": latchkey.process.resident_bytes(),
    }))
}

/// On Redis: its memory per session, and Validate with and without the near-cache.
pub(crate) async fn measure_redis(plan: &Plan, pinning: &CorePinning) -> Result<Value> {
    let data = tempfile::tempdir()?;
    let redis = pinning.on_server_core(RedisServer::start);
    let before = used_memory(&redis)?;
    let registers = seed::redis(redis.url()).await?;
    let signer = seed::signer(data.path())?;
    let tokens = seed::open_sessions(&registers, &signer, plan.sessions, "Firefox on Linux", &[]).await?;
    let files = TokenFiles::write(data.path(), &tokens)?;
    drop(tokens);
    let used = used_memory(&redis)? - before;
    drop(registers);

    let mut latchkey = LatchkeyServer::start_on(data, Some(redis), pinning, &[]).await?;
    let always_asked = compare(plan, &latchkey, &files)?;
    latchkey = latchkey.restart(pinning, &[("VALIDATE__MAX_STALENESS", "250ms")]).await?;
    let from_memory = compare(plan, &latchkey, &files)?;
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    let bytes_per_session = used as f64 / plan.sessions as f64;
    Ok(json!({
        "bytes_per_session": round(bytes_per_session, 1),
        "always_asked": always_asked,
        "from_memory": from_memory,
    }))
}

fn used_memory(redis: &RedisServer) -> Result<u64> {
    let bytes = redis_info(redis, "memory", "used_memory").ok_or("Redis does not report its memory")?;
    Ok(bytes.parse()?)
}
