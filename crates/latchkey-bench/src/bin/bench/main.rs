//! Measures Latchkey against a bare server of the library, and its logins against their bare hashes, and
//! writes `docs/performance/`. What it means is told in `docs/performance.md`.
//!
//! Needs `redis-server` on the PATH, or its path in `LATCHKEY_TEST_REDIS_SERVER`, and the programs that are
//! built beside this one: `make bench` builds them and runs this. A wrong verdict fails the run.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "made of what the tests are made of")]

#[path = "../../../../../tests/suite/support/client.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod client;
#[path = "../echo/session.rs"]
mod echo;
#[path = "../growth/fill.rs"]
mod fill;
#[path = "../../../../../tests/suite/support/redis.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod redis;

mod charts;
mod load;
mod logins;
mod measure;
mod numbers;
mod place;
mod report;
mod rows;
mod scale;
#[expect(dead_code, reason = "`make growth` needs more of it")]
mod server;
mod storm;

use std::{path::Path, process::ExitCode, time::Duration};

use serde_json::{Value, json};

use place::Place;
use rows::ROWS;
use server::{Server, USERS};

/// How much is measured.
pub struct Plan {
    /// How often the echo and Latchkey take turns.
    pairs: usize,
    /// How long each turn takes.
    each: Duration,
    /// Before the first turn.
    warm_up: Duration,
    /// How often they take turns at bearing half of the peak.
    latency_turns: usize,
    /// How long each of these takes.
    latency: Duration,
    /// How often turns are taken where there are logins: what they take varies more.
    login_pairs: usize,
    /// How long each turn takes without logins, and with a storm of them.
    storm: Duration,
    /// How often they take turns at each point of the charts.
    scale_turns: usize,
    /// How long each of these takes.
    scale_each: Duration,
    /// Users there, at the most.
    most_users: usize,
}

const PLAN: Plan = Plan {
    pairs: 5,
    each: Duration::from_secs(3),
    warm_up: Duration::from_secs(1),
    latency_turns: 5,
    latency: Duration::from_secs(2),
    login_pairs: 7,
    storm: Duration::from_secs(4),
    scale_turns: 3,
    scale_each: Duration::from_millis(800),
    most_users: 100_000,
};

/// Nothing to publish: whether it works, and how it looks.
const SMOKE: Plan = Plan {
    pairs: 2,
    each: Duration::from_millis(300),
    warm_up: Duration::from_millis(100),
    latency_turns: 1,
    latency: Duration::from_millis(300),
    login_pairs: 2,
    storm: Duration::from_millis(300),
    scale_turns: 1,
    scale_each: Duration::from_millis(200),
    most_users: 1_000,
};

#[expect(clippy::print_stderr, reason = "it takes minutes: how far it has come")]
async fn measure(plan: &Plan) -> Result<Value, String> {
    // Before all but one are given away.
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let place = Place::take();
    eprintln!("{}", place.told());
    let echo = Server::echo(&place, 0)?;
    let mut measured = Vec::new();
    for row in &ROWS {
        eprintln!("{} ...", row.name);
        measured.push(measure::row(row, plan, &place, &echo).await?);
    }
    eprintln!("connections, users and payload ...");
    let scaling = scale::measure(plan, &place, &echo).await?;
    eprintln!("Login ...");
    let logins = logins::measure(plan, &place).await?;
    eprintln!("Validate in a storm of logins ...");
    let storm = storm::measure(plan, &place).await?;
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "environment": {
            "cpu": cpu_model(),
            "cores": cores,
            "placement": place.told(),
        },
        "pairs": plan.pairs,
        "seconds_each": plan.each.as_secs_f64(),
        "users": USERS,
        "connections": 8,
        "calls_at_a_time_on_each": 32,
        "in_flight_on_each_stream": 256,
        "rows": measured,
        "scaling": scaling,
        "logins": logins,
        "storm": storm,
    }))
}

/// Measures some parts and prints what they are in the JSON.
#[expect(clippy::print_stdout, reason = "the result")]
async fn measure_parts(parts: &[&str]) -> Result<(), String> {
    let known = || ROWS.iter().map(|row| row.key).chain(["scaling", "logins", "storm"]);
    if let Some(part) = parts.iter().find(|part| !known().any(|known| known == **part)) {
        let known: Vec<_> = known().collect();
        return Err(format!(
            "there is no {part}; `smoke` measures briefly and writes to target/bench, and parts are measured by name and not published: {}",
            known.join(", ")
        ));
    }
    let place = Place::take();
    let echo = Server::echo(&place, 0)?;
    for part in parts {
        let measured = match *part {
            "scaling" => scale::measure(&PLAN, &place, &echo).await?,
            "logins" => logins::measure(&PLAN, &place).await?,
            "storm" => storm::measure(&PLAN, &place).await?,
            key => {
                let row = ROWS.iter().find(|row| row.key == key).ok_or("there is no such row")?;
                measure::row(row, &PLAN, &place, &echo).await?
            }
        };
        println!("{part}: {measured:#}");
    }
    Ok(())
}

fn cpu_model() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.trim().to_owned())
}

fn publish(results: &Value, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    report::write(results, folder)?;
    let path = |name: &str| folder.join(format!("{name}.svg")).display().to_string();
    charts::throughput(results, &path("throughput"))?;
    charts::latency(results, &path("latency"))?;
    for scale in &charts::SCALES {
        charts::scaling(results, scale, &path(&format!("scaling_{}", scale.key)))?;
    }
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (plan, folder) = match arguments[..] {
        [] => (PLAN, report::FOLDER),
        ["smoke"] => (SMOKE, "target/bench"),
        ["hash", millis, threads] => {
            let duration = Duration::from_millis(millis.parse().unwrap());
            println!("{}", logins::hashes(duration, threads.parse().unwrap()));
            return ExitCode::SUCCESS;
        }
        ref parts => {
            return match measure_parts(parts).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::from(2)
                }
            };
        }
    };
    let results = match measure(&plan).await {
        Ok(results) => results,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", report::table(&results));
    if let Err(error) = publish(&results, Path::new(folder)) {
        eprintln!("the results cannot be written: {error}; is this the root of the repository?");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
