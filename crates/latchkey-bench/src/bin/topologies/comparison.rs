//! Strict Validate, and logins with logouts, on two installations in turns.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use latchkey::grpc::pb;
use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    load::LoadTarget,
    statistics::{Spread, median, round},
};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::{
    Plan,
    installation::{CpuTimes, Installation, Setup, TopologyKind},
};

/// Logins with logouts under way at each Latchkey server.
const CONCURRENT_LOGINS: usize = 32;

/// Attempts of a turn.
const MAX_ATTEMPTS: usize = 4;

/// The installations that are compared with a single Redis server and as many Latchkey servers.
const OTHERS: [Setup; 5] = [
    Setup { topology: TopologyKind::Sentinel, buckets: 64, servers: 1 },
    Setup { topology: TopologyKind::Cluster, buckets: 64, servers: 1 },
    Setup { topology: TopologyKind::Cluster, buckets: 4096, servers: 1 },
    Setup { topology: TopologyKind::Cluster, buckets: 64, servers: 2 },
    Setup { topology: TopologyKind::Cluster, buckets: 64, servers: 3 },
];

/// A kind of request.
struct Workload {
    /// Name in the JSON.
    key: &'static str,
    /// Name in the tables.
    name: &'static str,
    /// Arguments of `latchkey bench`; `None` for logins with logouts.
    arguments: Option<&'static [&'static str]>,
    /// Requests per second, over all Latchkey servers; `None` for as many as they answer.
    rate: Option<u64>,
}

const WORKLOADS: [Workload; 4] = [
    Workload { key: "validate", name: "Validate", arguments: Some(&[]), rate: None },
    Workload { key: "validate_at_rate", name: "Validate, 5000/s", arguments: Some(&[]), rate: Some(5000) },
    Workload {
        key: "validate_stream",
        name: "ValidateStream",
        arguments: Some(&["--stream", "--concurrency", "256"]),
        rate: None,
    },
    Workload { key: "login_logout", name: "login and logout", arguments: None, rate: None },
];

/// An installation that is ready for turns.
struct Side {
    installation: Installation,
    tokens: PathBuf,
    user_ids: Vec<String>,
}

/// The result of one turn.
struct Turn {
    requests: f64,
    per_second: f64,
    cpu: CpuTimes,
    commands: BTreeMap<String, u64>,
}

impl Turn {
    fn latchkey_us(&self) -> f64 {
        self.cpu.latchkey * 1e6 / self.requests
    }

    fn redis_us(&self) -> f64 {
        self.cpu.redis * 1e6 / self.requests
    }
}

pub(crate) async fn measure_all(plan: &Plan, pinning: &CorePinning) -> Result<Value> {
    let mut comparisons = Vec::new();
    for other in OTHERS {
        comparisons.push(compare(plan, pinning, other).await?);
    }
    Ok(Value::Array(comparisons))
}

#[expect(clippy::print_stderr, reason = "prints the progress, because this takes minutes")]
async fn compare(plan: &Plan, pinning: &CorePinning, other: Setup) -> Result<Value> {
    eprintln!("{} ...", other.name());
    let single = Setup { topology: TopologyKind::Single, buckets: 64, servers: other.servers };
    let sides = [Side::start(plan, pinning, single).await?, Side::start(plan, pinning, other).await?];
    let mut rows = Vec::new();
    for workload in &WORKLOADS {
        for side in &sides {
            side.turn_until_served(workload, plan.turn / 2).await?;
        }
        let mut turns = [Vec::new(), Vec::new()];
        for _ in 0..plan.pairs {
            for (side, turns) in sides.iter().zip(&mut turns) {
                turns.push(side.turn_until_served(workload, plan.turn).await?);
            }
        }
        let ratio = |value: fn(&Turn) -> f64| {
            Spread::of(turns[0].iter().zip(&turns[1]).map(|(single, other)| value(other) / value(single)))
                .json()
        };
        rows.push(json!({
            "key": workload.key,
            "name": workload.name,
            "ratio_of_latchkey_cpu": ratio(Turn::latchkey_us),
            "ratio_of_redis_cpu": ratio(Turn::redis_us),
            "ratio_of_all_cpu": ratio(|turn| turn.latchkey_us() + turn.redis_us()),
            "single": side_json(&turns[0]),
            "other": side_json(&turns[1]),
        }));
    }
    Ok(json!({
        "single": single.name(),
        "other": other.name(),
        "rows": rows,
    }))
}

fn side_json(turns: &[Turn]) -> Value {
    let of = |value: fn(&Turn) -> f64, digits| round(median(turns.iter().map(value)), digits);
    let requests: f64 = turns.iter().map(|turn| turn.requests).sum();
    let mut commands: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, calls) in turns.iter().flat_map(|turn| &turn.commands) {
        *commands.entry(name).or_default() += calls;
    }
    #[expect(clippy::cast_precision_loss, reason = "some millions of calls")]
    let per_request = |calls: u64| round(calls as f64 / requests, 4);
    let commands: Map<String, Value> = commands
        .into_iter()
        .map(|(name, calls)| (name.to_owned(), per_request(calls)))
        .filter(|(_, calls)| *calls >= 0.001)
        .map(|(name, calls)| (name, calls.into()))
        .collect();
    json!({
        "requests_per_second": of(|turn| turn.per_second, 0),
        "latchkey_cpu_us": of(Turn::latchkey_us, 2),
        "redis_cpu_us": of(Turn::redis_us, 2),
        "redis_commands_per_request": commands,
    })
}

impl Side {
    async fn start(plan: &Plan, pinning: &CorePinning, setup: Setup) -> Result<Self> {
        let installation = Installation::start(pinning, setup).await?;
        let tokens = installation.data.path().join("tokens");
        installation.write_tokens(&tokens, plan.users).await?;
        let mut user_ids = Vec::new();
        for number in 0..plan.users {
            user_ids.push(installation.clients[0].user(&format!("user{number:04}")).await);
        }
        Ok(Self { installation, tokens, user_ids })
    }

    /// Repeats a turn with errors: on a busy machine a lease on a primary may end before it is renewed.
    #[expect(clippy::print_stderr, reason = "reports what was repeated")]
    async fn turn_until_served(&self, workload: &Workload, duration: Duration) -> Result<Turn> {
        for _ in 1..MAX_ATTEMPTS {
            match self.turn(workload, duration).await {
                Err(error) if error.to_string().contains("unavailable") => eprintln!("again: {error}"),
                turn => return turn,
            }
        }
        self.turn(workload, duration).await
    }

    async fn turn(&self, workload: &Workload, duration: Duration) -> Result<Turn> {
        let (commands, before) = (self.installation.command_counts(), self.installation.cpu_times()?);
        let (requests, per_second) = match workload.arguments {
            Some(arguments) => self.validate(arguments, duration, workload.rate)?,
            None => self.log_in_and_out(duration).await?,
        };
        let cpu = self.installation.cpu_times()?.since(before);
        let mut counts = self.installation.command_counts();
        counts.retain(|name, calls| {
            *calls -= commands.get(name).copied().unwrap_or_default();
            *calls > 0 && name != "info"
        });
        Ok(Turn { requests, per_second, cpu, commands: counts })
    }

    /// Loads all Latchkey servers at once.
    fn validate(&self, arguments: &[&str], duration: Duration, rate: Option<u64>) -> Result<(f64, f64)> {
        let servers = &self.installation.servers;
        let rate = rate.map(|rate| rate / servers.len() as u64);
        let results: Vec<_> = thread::scope(|scope| {
            let loads: Vec<_> = servers
                .iter()
                .map(|server| {
                    let target = LoadTarget {
                        address: server.grpc,
                        tokens: &self.tokens,
                        arguments,
                        real_time: false,
                    };
                    scope.spawn(move || target.run(duration, rate))
                })
                .collect();
            loads.into_iter().map(|load| load.join().unwrap()).collect()
        });
        let mut total = (0.0, 0.0);
        for result in results {
            let result = result?;
            total = (total.0 + result.requests, total.1 + result.requests_per_second);
        }
        Ok(total)
    }

    /// Opens a session, which displaces none, and logs out, again and again.
    async fn log_in_and_out(&self, duration: Duration) -> Result<(f64, f64)> {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        let workers = CONCURRENT_LOGINS * self.installation.clients.len();
        for worker in 0..workers {
            let client = self.installation.clients[worker % self.installation.clients.len()].clone();
            let user_ids: Vec<_> = self.user_ids.iter().skip(worker).step_by(workers).cloned().collect();
            tasks.spawn(async move {
                let mut count = 0_u32;
                for user_id in user_ids.iter().cycle() {
                    if begun.elapsed() >= duration {
                        break;
                    }
                    let request = pb::IssueSessionRequest {
                        user_id: user_id.clone(),
                        device: "bench".to_owned(),
                        ..Default::default()
                    };
                    let token = client.try_issue(request).await?.token;
                    let request = pb::LogoutRequest { token, ..Default::default() };
                    client.auth.clone().logout(request).await?;
                    count += 1;
                }
                Ok::<_, tonic::Status>(count)
            });
        }
        let mut total = 0.0;
        while let Some(count) = tasks.join_next().await {
            total += f64::from(count?.map_err(|status| format!("a login failed: {status}"))?);
        }
        Ok((total, total / begun.elapsed().as_secs_f64()))
    }
}
