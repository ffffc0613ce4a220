//! Validate over random users in comparison with a few users, and the memory of the server.

use std::path::{Path, PathBuf};

use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    load::{LoadResult, LoadTarget},
    processes::{LatchkeyServer, redis_info},
    seed,
    statistics::{Spread, median, round},
    support::redis::RedisServer,
};
use serde_json::{Value, json};

use crate::Plan;

const HOT_USERS: usize = 100;
/// The server may answer from memory.
const STALENESS: &str = "250ms";
const UNARY: &[&str] = &[];
const STREAM: &[&str] = &["--stream", "--concurrency", "256"];
/// The default size of the near-cache, which does not hold a million users.
pub(crate) const SMALL_CACHE_MIB: &str = "64";
/// A near-cache that holds them.
pub(crate) const LARGE_CACHE_MIB: &str = "512";

/// The tokens of all users, and the file that a load reads its tokens from.
pub(crate) struct Tokens {
    all: Vec<String>,
    file: PathBuf,
}

impl Tokens {
    pub(crate) fn new(folder: &Path, all: Vec<String>) -> Self {
        Self { all, file: folder.join("tokens") }
    }

    fn load(
        &self,
        latchkey: &LatchkeyServer,
        plan: &Plan,
        arguments: &[&str],
        tokens: impl Iterator<Item: AsRef<str>>,
    ) -> Result<LoadResult> {
        seed::write_tokens(&self.file, tokens)?;
        let address = latchkey.process.grpc;
        LoadTarget { address, tokens: &self.file, arguments, real_time: false }.run(plan.turn, None)
    }

    fn hot(&self) -> impl Iterator<Item = &String> {
        self.all.iter().take(HOT_USERS)
    }

    /// As many as there are users. Each turn draws again, so that none finds the users of the one before in a cache.
    fn random(&self) -> impl Iterator<Item = &String> {
        self.all.iter().map(|_| &self.all[rand::random_range(0..self.all.len())])
    }

    /// Validates the tokens of all users once, so that every cache is as full as it gets.
    fn visit_all(&self, latchkey: &LatchkeyServer, plan: &Plan) -> Result<()> {
        let mut visited = 0;
        while visited < self.all.len() {
            let result = self.load(latchkey, plan, STREAM, self.all[visited..].iter())?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some millions")]
            let requests = result.requests as usize;
            visited += requests.max(1);
        }
        Ok(())
    }
}

/// Measures a few users and random ones in turns, by unary calls and over streams, once every cache is full.
pub(crate) fn compare(
    plan: &Plan,
    latchkey: &LatchkeyServer,
    tokens: &Tokens,
    cache_mib: Option<&str>,
) -> Result<Value> {
    let after_start = latchkey.process.resident_bytes();
    tokens.load(latchkey, plan, UNARY, tokens.hot())?;
    let with_hot_users = latchkey.process.resident_bytes();
    tokens.visit_all(latchkey, plan)?;
    let mut results = json!({
        "hot_users": HOT_USERS,
        "cache_mib": cache_mib.and_then(|size| size.parse::<u64>().ok()),
        "resident_bytes_after_start": after_start,
        "resident_bytes_with_hot_users": with_hot_users,
        "resident_bytes_with_all_users": latchkey.process.resident_bytes(),
    });
    for (key, arguments) in [("unary", UNARY), ("stream", STREAM)] {
        let mut turns = Vec::new();
        for _ in 0..plan.turns {
            let hot = tokens.load(latchkey, plan, arguments, tokens.hot())?.requests_per_second;
            let random = tokens.load(latchkey, plan, arguments, tokens.random())?.requests_per_second;
            turns.push((hot, random));
        }
        results[key] = json!({
            "hot_per_second": round(median(turns.iter().map(|(hot, _)| *hot)), 0),
            "random_per_second": round(median(turns.iter().map(|(_, random)| *random)), 0),
            "ratio": Spread::of(turns.iter().map(|(hot, random)| random / hot)).json(),
        });
    }
    results["resident_bytes_after_random_users"] = latchkey.process.resident_bytes().into();
    Ok(results)
}

/// On Redis: its memory per session, and Validate with and without the near-cache.
pub(crate) async fn measure_redis(plan: &Plan, pinning: &CorePinning) -> Result<Value> {
    let data = tempfile::tempdir()?;
    let redis = pinning.on_server_core(RedisServer::start);
    let before = used_memory(&redis)?;
    let registers = seed::redis(redis.url()).await?;
    let signer = seed::signer(data.path())?;
    let tokens = seed::open_sessions(&registers, &signer, plan.sessions, "Firefox on Linux", &[]).await?;
    let tokens = Tokens::new(data.path(), tokens);
    let used = used_memory(&redis)? - before;
    drop(registers);

    let mut latchkey = LatchkeyServer::start_on(data, Some(redis), pinning, &[]).await?;
    let strict = compare(plan, &latchkey, &tokens, None)?;
    let settings = [("VALIDATE__MAX_STALENESS", STALENESS), ("VALIDATE__CACHE_MIB", SMALL_CACHE_MIB)];
    latchkey = latchkey.restart(pinning, &settings).await?;
    let cached = compare(plan, &latchkey, &tokens, Some(SMALL_CACHE_MIB))?;
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    let bytes_per_session = used as f64 / plan.sessions as f64;
    Ok(json!({
        "bytes_per_session": round(bytes_per_session, 1),
        "strict": strict,
        "cached": cached,
    }))
}

fn used_memory(redis: &RedisServer) -> Result<u64> {
    let bytes = redis_info(redis, "memory", "used_memory").ok_or("Redis does not report its memory")?;
    Ok(bytes.parse()?)
}
