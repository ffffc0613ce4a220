//! Turns of a peer and of Latchkey, over a few users and over many.

use std::{fs, path::PathBuf, time::Duration};

use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    processes::{LatchkeyServer, redis_info},
    seed,
    statistics::{Spread, median, round},
    support::redis::RedisServer,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Plan,
    peer::{Call, Peer, load_grpc},
    users::Credential,
};

/// The cached server may answer from memory.
const STALENESS: &str = "250ms";
/// Clock ticks per second in /proc on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the peers are compared with: two servers of Latchkey on the Redis of the peers.
pub(crate) struct Subjects {
    redis: RedisServer,
    tokens: Vec<String>,
    strict: LatchkeyServer,
    cached: LatchkeyServer,
    folder: TempDir,
}

/// A turn of a server.
struct Turn {
    per_second: f64,
    /// The part of the turn in which the core of the servers was busy.
    core_busy: Option<f64>,
}

impl Subjects {
    pub(crate) async fn start(plan: &Plan, pinning: &CorePinning) -> Result<Self> {
        let redis = pinning.on_server_core(RedisServer::start);
        let folder = tempfile::tempdir()?;
        let registers = seed::redis(redis.url()).await?;
        let signer = seed::signer(folder.path())?;
        let tokens = seed::open_sessions(&registers, &signer, plan.users, "Firefox on Linux", &[]).await?;
        drop(registers);
        let (url, keys) = (redis.url(), folder.path().join("keys").display().to_string());
        let store = [("SESSIONS__URL", url.as_str()), ("TOKEN__KEYS_DIR", keys.as_str())];
        let strict = LatchkeyServer::start_on(tempfile::tempdir()?, None, pinning, &store).await?;
        let settings = [store.as_slice(), &[("VALIDATE__MAX_STALENESS", STALENESS)]].concat();
        let cached = LatchkeyServer::start_on(tempfile::tempdir()?, None, pinning, &settings).await?;
        let subjects = Self { redis, tokens, strict, cached, folder };
        let all = subjects.write(subjects.tokens.iter())?;
        for server in [&subjects.strict, &subjects.cached] {
            load_grpc(server.process.grpc, &all, plan.warm_up)?;
        }
        Ok(subjects)
    }

    pub(crate) fn redis_version(&self) -> Option<String> {
        redis_info(&self.redis, "server", "redis_version")
    }

    pub(crate) async fn compare(&self, peer: &Peer, plan: &Plan, pinning: &CorePinning) -> Result<Value> {
        let running = peer.start(plan, pinning, &self.redis, &self.tokens)?;
        running.check().await?;
        let users = if peer.has_all_users() { plan.users } else { plan.hot_users };
        let credentials = running.logins.log_in(0..users)?;
        let line = |credential: &Credential| match peer.call {
            Call::Grpc => credential.token.clone(),
            _ => format!("{} {}", credential.token, credential.expected),
        };
        let warm_up = if peer.compiles_while_running { plan.long_warm_up } else { plan.warm_up };
        running.load(&self.write(credentials.iter().map(line))?, warm_up)?;

        let mut result = json!({ "key": peer.key, "name": peer.name, "connections": peer.connections() });
        for (key, users) in [("hot", plan.hot_users), ("random", plan.users)] {
            if credentials.len() < users {
                continue;
            }
            let (mut of_peer, mut strict, mut cached) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..plan.turns {
                let (of_peer_users, of_users) = (&credentials[..users], &self.tokens[..users]);
                let draws = self.write(draw(plan.users, of_peer_users).map(line))?;
                of_peer.push(turn(plan, pinning, |duration| running.load(&draws, duration))?);
                let draws = self.write(draw(plan.users, of_users))?;
                for (server, turns) in [(&self.strict, &mut strict), (&self.cached, &mut cached)] {
                    let load = |duration| load_grpc(server.process.grpc, &draws, duration);
                    turns.push(turn(plan, pinning, load)?);
                }
            }
            let times = |latchkey: &[Turn]| {
                let pairs = latchkey.iter().zip(&of_peer);
                Spread::of(pairs.map(|(latchkey, peer)| latchkey.per_second / peer.per_second)).json()
            };
            result[key] = json!({
                "peer": side(&of_peer),
                "strict": side(&strict),
                "cached": side(&cached),
                "strict_ratio": times(&strict),
                "cached_ratio": times(&cached),
            });
        }
        Ok(result)
    }

    /// Writes a file with these lines.
    fn write(&self, lines: impl Iterator<Item: AsRef<str>>) -> Result<PathBuf> {
        let path = self.folder.path().join("lines");
        seed::write_tokens(&path, lines)?;
        Ok(path)
    }
}

/// Draws from these at random, this many times: more often than a turn has requests.
fn draw<T>(count: usize, from: &[T]) -> impl Iterator<Item = &T> {
    (0..count).map(|_| &from[rand::random_range(0..from.len())])
}

fn side(turns: &[Turn]) -> Value {
    let busy: Vec<_> = turns.iter().filter_map(|turn| turn.core_busy).collect();
    json!({
        "requests_per_second": round(median(turns.iter().map(|turn| turn.per_second)), 0),
        "runs": turns.iter().map(|turn| round(turn.per_second, 0)).collect::<Vec<_>>(),
        "core_busy": (!busy.is_empty()).then(|| round(median(busy.into_iter()), 2)),
    })
}

fn turn(plan: &Plan, pinning: &CorePinning, load: impl FnOnce(Duration) -> Result<f64>) -> Result<Turn> {
    let before = busy_time(pinning);
    let per_second = load(plan.turn)?;
    let used = busy_time(pinning).zip(before).map(|(after, before)| after - before);
    Ok(Turn { per_second, core_busy: used.map(|used| (used / plan.turn.as_secs_f64()).min(1.0)) })
}

/// The time in seconds that the core of the servers has been busy.
fn busy_time(pinning: &CorePinning) -> Option<f64> {
    let CorePinning::Pinned { server_core, .. } = pinning else { return None };
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let mut lines = stat.lines();
    let times = lines.find_map(|line| line.strip_prefix(&format!("cpu{server_core} ")))?;
    let times: Vec<f64> = times.split_whitespace().filter_map(|time| time.parse().ok()).collect();
    // User, nice, system, idle, waiting for the disk, and two kinds of interrupts.
    let &[user, nice, system, _, _, irq, soft_irq, ..] = times.as_slice() else { return None };
    Some((user + nice + system + irq + soft_irq) / TICKS_PER_SECOND)
}
