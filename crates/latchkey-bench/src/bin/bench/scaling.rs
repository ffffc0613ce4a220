//! The ratio to the echo by the number of connections, by the number of users, and by the number of roles of a session.
//! Each point is measured briefly, for a chart.

use std::path::{Path, PathBuf};

use latchkey::{
    domain::types::Role,
    store::{backend::Backend, codec_store::CodecStore},
};
use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    echo,
    load::LoadTarget,
    processes::{LatchkeyServer, ServerProcess},
    seed,
    statistics::{Spread, median, round},
    support::redis::RedisServer,
};
use serde_json::{Value, json};

use crate::{
    Plan,
    comparison::{check_answer_size, first_token, measure_throughput},
    rows::UNARY_ECHO,
};

const CONNECTIONS: [&str; 6] = ["1", "2", "4", "8", "16", "32"];
const USERS: [usize; 4] = [100, 1_000, 10_000, 100_000];
/// Number of users where another number varies.
const DEFAULT_USERS: usize = 1_000;
const ROLES: [usize; 4] = [0, 4, 12, 32];

/// One server, with the tokens of its users: those without roles, and a file of tokens for each number of roles.
struct Side {
    key: &'static str,
    name: &'static str,
    latchkey: LatchkeyServer,
    tokens: Tokens,
}

struct Tokens {
    without_roles: Vec<String>,
    with_roles: Vec<PathBuf>,
}

pub(crate) async fn measure(plan: &Plan, pinning: &CorePinning, echo: &ServerProcess) -> Result<Value> {
    let sides = [embedded(plan, pinning).await?, redis(plan, pinning).await?];

    let mut connections = Vec::new();
    let default_users = DEFAULT_USERS.min(plan.max_users);
    let files = [sides[0].token_file(default_users)?, sides[1].token_file(default_users)?];
    for count in CONNECTIONS {
        let mut point = measure_point(plan, echo, &sides, &files, &["--connections", count])?;
        point["connections"] = count.parse::<u64>()?.into();
        connections.push(point);
    }
    let mut users = Vec::new();
    for count in USERS.into_iter().filter(|count| *count <= plan.max_users) {
        let files = [sides[0].token_file(count)?, sides[1].token_file(count)?];
        let mut point = measure_point(plan, echo, &sides, &files, &[])?;
        point["users"] = count.into();
        users.push(point);
    }
    let mut payload = Vec::new();
    for (index, count) in ROLES.into_iter().enumerate() {
        let files = sides.each_ref().map(|side| side.tokens.with_roles[index].clone());
        let echo = ServerProcess::start_echo(pinning, count)?;
        check_answer_size(&sides[0].latchkey.client, &files[0], &echo::session::session(count)).await?;
        let mut point = measure_point(plan, &echo, &sides, &files, &[])?;
        point["roles"] = count.into();
        point["token_bytes"] = first_token(&files[0])?.len().into();
        payload.push(point);
    }
    let names = sides.each_ref().map(|side| json!({ "key": side.key, "name": side.name }));
    Ok(json!({
        "seconds_each": plan.scaling_turn.as_secs_f64(),
        "turns": plan.scaling_turns,
        "sides": names,
        "connections": connections,
        "users": users,
        "payload": payload,
    }))
}

/// Loads the echo and both servers in turns.
fn measure_point(
    plan: &Plan,
    echo: &ServerProcess,
    sides: &[Side; 2],
    tokens: &[PathBuf; 2],
    arguments: &[&str],
) -> Result<Value> {
    let echo_arguments = [UNARY_ECHO.arguments, arguments].concat();
    let target = |address, tokens, arguments| LoadTarget { address, tokens, arguments, real_time: false };
    let echo_target = target(echo.grpc, &tokens[0], &echo_arguments);
    let targets = [0, 1].map(|side| target(sides[side].latchkey.process.grpc, &tokens[side], arguments));
    // Fills the caches.
    for target in &targets {
        target.run(plan.scaling_turn, None)?;
    }
    let per_second = |target| -> Result<f64> {
        Ok(measure_throughput(target, plan.scaling_turn, || None)?.requests_per_second)
    };
    let mut turns = Vec::new();
    for _ in 0..plan.scaling_turns {
        turns.push((per_second(&echo_target)?, [per_second(&targets[0])?, per_second(&targets[1])?]));
    }
    let mut point = json!({ "echo": round(median(turns.iter().map(|(echo, _)| *echo)), 0) });
    for (index, side) in sides.iter().enumerate() {
        point[side.key] = json!({
            "requests_per_second": round(median(turns.iter().map(|(_, servers)| servers[index])), 0),
            "ratio": Spread::of(turns.iter().map(|(echo, servers)| servers[index] / echo)).json(),
        });
    }
    Ok(point)
}

impl Side {
    /// Writes a file with the tokens of this many users.
    fn token_file(&self, users: usize) -> Result<PathBuf> {
        let path = self.latchkey.data.path().join(format!("tokens-{users}"));
        seed::write_tokens(&path, self.tokens.without_roles.iter().take(users))?;
        Ok(path)
    }
}

async fn embedded(plan: &Plan, pinning: &CorePinning) -> Result<Side> {
    let data = tempfile::tempdir()?;
    let (registers, database) = seed::embedded(data.path()).await?;
    let tokens = open_sessions(plan, data.path(), &registers).await?;
    drop(registers);
    database.close().await;
    let latchkey = LatchkeyServer::start_on(data, None, pinning, &[]).await?;
    Ok(Side { key: "embedded", name: "Validate, embedded store", latchkey, tokens })
}

async fn redis(plan: &Plan, pinning: &CorePinning) -> Result<Side> {
    let data = tempfile::tempdir()?;
    let redis = pinning.on_server_core(RedisServer::start);
    let registers = seed::redis(redis.url()).await?;
    let tokens = open_sessions(plan, data.path(), &registers).await?;
    let latchkey = LatchkeyServer::start_on(data, Some(redis), pinning, &[]).await?;
    Ok(Side { key: "redis_strict", name: "Validate, Redis, strict", latchkey, tokens })
}

async fn open_sessions<R: Backend>(plan: &Plan, data: &Path, registers: &CodecStore<R>) -> Result<Tokens> {
    let signer = seed::signer(data)?;
    let without_roles = seed::open_sessions(registers, &signer, plan.max_users, "bench", &[]).await?;
    let mut with_roles = Vec::new();
    for count in ROLES {
        let roles =
            Role::parse_all(&echo::session::roles(count)).map_err(|violation| violation.description)?;
        let users = DEFAULT_USERS.min(plan.max_users);
        let tokens = seed::open_sessions(registers, &signer, users, "bench", &roles).await?;
        let path = data.join(format!("tokens-of-{count}-roles"));
        seed::write_tokens(&path, tokens.iter())?;
        with_roles.push(path);
    }
    Ok(Tokens { without_roles, with_roles })
}
