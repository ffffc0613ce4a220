//! How the ratio to the echo changes with the number of connections, with that of users, and with what a session
//! carries. Briefly at each point: these are for charts.

use std::path::{Path, PathBuf};

use latchkey::domain::types::Role;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Plan, echo, fill,
    load::Target,
    measure::{run, same_size},
    numbers::{Spread, median, round},
    place::Place,
    redis::RedisServer,
    rows::UNARY_ECHO,
    server::{Latchkey, Server},
};

const CONNECTIONS: [&str; 6] = ["1", "2", "4", "8", "16", "32"];
const USERS: [usize; 4] = [100, 1_000, 10_000, 100_000];
/// Of those whose number is not what is looked at.
const SOME_USERS: usize = 1_000;
const ROLES: [usize; 4] = [0, 4, 12, 32];

/// One of our servers, and the tokens of its users: those without roles, and some with each number of them.
struct Side {
    key: &'static str,
    name: &'static str,
    latchkey: Latchkey,
    without_roles: Vec<String>,
    with_roles: Vec<PathBuf>,
}

pub async fn measure(plan: &Plan, place: &Place, echo: &Server) -> Result<Value, String> {
    let sides = [embedded(plan, place).await?, redis(plan, place).await?];
    let some = |side: &Side| side.tokens(SOME_USERS.min(plan.most_users));

    let mut connections = Vec::new();
    let files = [some(&sides[0])?, some(&sides[1])?];
    for count in CONNECTIONS {
        let point = point(plan, echo, &sides, &files, &["--connections", count])?;
        connections.push(with(point, "connections", &count.parse::<u64>().unwrap().into()));
    }
    let mut users = Vec::new();
    for count in USERS.into_iter().filter(|count| *count <= plan.most_users) {
        let files = [sides[0].tokens(count)?, sides[1].tokens(count)?];
        users.push(with(point(plan, echo, &sides, &files, &[])?, "users", &count.into()));
    }
    let mut payload = Vec::new();
    for (index, count) in ROLES.into_iter().enumerate() {
        let files = [sides[0].with_roles[index].clone(), sides[1].with_roles[index].clone()];
        let echo = Server::echo(place, count)?;
        same_size(&sides[0].latchkey.client, &files[0], &echo::session(count)).await?;
        let point = with(point(plan, &echo, &sides, &files, &[])?, "roles", &count.into());
        payload.push(with(point, "token_bytes", &first_line(&files[0])?.len().into()));
    }
    let names = sides.each_ref().map(|side| json!({ "key": side.key, "name": side.name }));
    Ok(json!({
        "seconds_each": plan.scale_each.as_secs_f64(),
        "turns": plan.scale_turns,
        "sides": names,
        "connections": connections,
        "users": users,
        "payload": payload,
    }))
}

/// The echo and both of ours, in turns.
fn point(
    plan: &Plan,
    echo: &Server,
    sides: &[Side; 2],
    tokens: &[PathBuf; 2],
    arguments: &[&str],
) -> Result<Value, String> {
    let of_echo = [UNARY_ECHO.arguments, arguments].concat();
    let theirs = Target { address: echo.grpc, tokens: &tokens[0], arguments: &of_echo, first: false };
    let ours = [0, 1].map(|side| Target {
        address: sides[side].latchkey.server.grpc,
        tokens: &tokens[side],
        arguments,
        first: false,
    });
    // So that what can be in memory is.
    for target in &ours {
        target.load(plan.scale_each, None)?;
    }
    let per_second = |target| Ok::<_, String>(run(target, plan.scale_each, || None)?.requests_per_second);
    let mut turns = Vec::new();
    for _ in 0..plan.scale_turns {
        turns.push((per_second(&theirs)?, [per_second(&ours[0])?, per_second(&ours[1])?]));
    }
    let mut found = json!({ "echo": round(median(turns.iter().map(|(echo, _)| *echo)), 0) });
    for (index, side) in sides.iter().enumerate() {
        found[side.key] = json!({
            "requests_per_second": round(median(turns.iter().map(|(_, ours)| ours[index])), 0),
            "ratio": Spread::of(turns.iter().map(|(echo, ours)| ours[index] / echo)).json(),
        });
    }
    Ok(found)
}

fn with(mut point: Value, name: &str, value: &Value) -> Value {
    point[name] = value.clone();
    point
}

fn first_line(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.lines().next().map(str::to_owned).ok_or_else(|| "there is no token".into())
}

impl Side {
    /// A file with the tokens of so many users.
    fn tokens(&self, users: usize) -> Result<PathBuf, String> {
        let path = self.latchkey.data.path().join(format!("tokens-{users}"));
        fill::write(&path, self.without_roles.iter().take(users))?;
        Ok(path)
    }
}

fn data() -> Result<TempDir, String> {
    tempfile::tempdir().map_err(|error| error.to_string())
}

async fn embedded(plan: &Plan, place: &Place) -> Result<Side, String> {
    let data = data()?;
    let (registers, database) = fill::embedded(data.path()).await?;
    let (without_roles, with_roles) = users(plan, data.path(), &registers).await?;
    drop(registers);
    database.close().await;
    let latchkey = Latchkey::on(data, None, place, &[]).await?;
    Ok(Side { key: "embedded", name: "Validate, embedded store", latchkey, without_roles, with_roles })
}

async fn redis(plan: &Plan, place: &Place) -> Result<Side, String> {
    let data = data()?;
    let redis = place.on_servers_core(RedisServer::start);
    let registers = fill::redis(redis.url()).await?;
    let (without_roles, with_roles) = users(plan, data.path(), &registers).await?;
    let latchkey = Latchkey::on(data, Some(redis), place, &[]).await?;
    Ok(Side {
        key: "redis_strict",
        name: "Validate, Redis, always asked",
        latchkey,
        without_roles,
        with_roles,
    })
}

async fn users<R: latchkey::store::backend::Backend>(
    plan: &Plan,
    data: &Path,
    registers: &latchkey::store::codec_store::CodecStore<R>,
) -> Result<(Vec<String>, Vec<PathBuf>), String> {
    let signer = fill::signer(data)?;
    let without_roles = fill::sessions(registers, &signer, plan.most_users, "bench", &[]).await?;
    let mut with_roles = Vec::new();
    for count in ROLES {
        let roles = Role::parse_all(&echo::roles(count)).map_err(|wrong| wrong.description)?;
        let users = SOME_USERS.min(plan.most_users);
        let tokens = fill::sessions(registers, &signer, users, "bench", &roles).await?;
        let path = data.join(format!("tokens-of-{count}-roles"));
        fill::write(&path, tokens.iter())?;
        with_roles.push(path);
    }
    Ok((without_roles, with_roles))
}
