//! Measures Latchkey in comparison with a bare tonic server, and its logins in comparison with their bare password hashes,
//! and writes `docs/performance/`. `docs/performance.md` explains the results.
//!
//! `make bench` builds the server and the echo, and runs this. A wrong verdict fails the run.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

mod charts;
mod comparison;
mod login_burst;
mod logins;
mod report;
mod rows;
mod scaling;

use std::{path::Path, process::ExitCode, time::Duration};

use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    page,
    processes::{ServerProcess, USERS},
};
use serde_json::{Value, json};

use rows::{FLOOR, ROWS, Row};

/// The extent of the measurement.
#[derive(Clone, Copy)]
struct Plan {
    /// Number of turns of the echo and of Latchkey at full load.
    pairs: usize,
    /// Duration of such a turn.
    turn: Duration,
    /// Duration of the load before the first turn.
    warm_up: Duration,
    /// Number of turns at half of the peak, for the latency.
    latency_turns: usize,
    /// Duration of such a turn.
    latency_turn: Duration,
    /// Number of turns with logins, which vary more.
    login_turns: usize,
    /// Duration of a turn with or without a login burst.
    login_burst_turn: Duration,
    /// Number of turns for each point of the scaling charts.
    scaling_turns: usize,
    /// Duration of such a turn.
    scaling_turn: Duration,
    /// The largest number of users in the scaling charts.
    max_users: usize,
}

const PLAN: Plan = Plan {
    pairs: 5,
    turn: Duration::from_secs(3),
    warm_up: Duration::from_secs(1),
    latency_turns: 5,
    latency_turn: Duration::from_secs(2),
    login_turns: 7,
    login_burst_turn: Duration::from_secs(4),
    scaling_turns: 3,
    scaling_turn: Duration::from_millis(800),
    max_users: 100_000,
};

/// Shows whether everything works, and how it looks; the results are not published.
const SMOKE: Plan = Plan {
    pairs: 2,
    turn: Duration::from_millis(300),
    warm_up: Duration::from_millis(100),
    latency_turns: 1,
    latency_turn: Duration::from_millis(300),
    login_turns: 2,
    login_burst_turn: Duration::from_millis(300),
    scaling_turns: 1,
    scaling_turn: Duration::from_millis(200),
    max_users: 1_000,
};

#[expect(clippy::print_stderr, reason = "prints the progress, because this takes minutes")]
async fn measure(plan: &Plan) -> Result<Value> {
    // Read before this process is pinned to one core.
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let pinning = CorePinning::set_up();
    eprintln!("{}", pinning.description());
    let echo = ServerProcess::start_echo(&pinning, 0)?;
    let mut rows = Vec::new();
    for row in &ROWS {
        eprintln!("{} ...", row.name);
        rows.push(comparison::measure(row, plan, &pinning, &echo).await?);
    }
    let h2_echo = ServerProcess::start_h2_echo(&pinning)?;
    let mut floor = Vec::new();
    for row in &FLOOR {
        eprintln!("{}, against the h2 echo ...", row.name);
        floor.push(measure_floor(row, plan, &pinning, &h2_echo).await?);
    }
    eprintln!("connections, users and payload ...");
    let scaling = scaling::measure(plan, &pinning, &echo).await?;
    eprintln!("Login ...");
    let logins = logins::measure(plan, &pinning).await?;
    eprintln!("Validate during a login burst ...");
    let login_burst = login_burst::measure(plan, &pinning).await?;
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "environment": {
            "cpu": cpu_model(),
            "cores": cores,
            "placement": pinning.description(),
        },
        "pairs": plan.pairs,
        "seconds_each": plan.turn.as_secs_f64(),
        "users": USERS,
        "connections": 8,
        "calls_at_a_time_on_each": 32,
        "in_flight_on_each_stream": 256,
        "rows": rows,
        "floor": floor,
        "scaling": scaling,
        "logins": logins,
        "login_burst": login_burst,
    }))
}

/// The throughput of one row against the h2 echo; its latency is compared with the other echo.
async fn measure_floor(
    row: &Row,
    plan: &Plan,
    pinning: &CorePinning,
    h2_echo: &ServerProcess,
) -> Result<Value> {
    comparison::measure(row, &Plan { latency_turns: 0, ..*plan }, pinning, h2_echo).await
}

/// Measures some parts, by their names in the JSON, and prints them.
#[expect(clippy::print_stdout, reason = "prints the result")]
async fn measure_parts(names: &[&str]) -> Result<()> {
    let rows = ROWS.iter().chain(&FLOOR);
    let parts: Vec<_> = rows.map(|row| row.key).chain(["scaling", "logins", "login_burst"]).collect();
    if let Some(unknown) = names.iter().find(|name| !parts.contains(name)) {
        let parts = parts.join(", ");
        return Err(format!(
            "unknown part `{unknown}`: expected `smoke`, which measures everything briefly and writes to target/bench, or some of {parts}, which are measured and printed"
        )
        .into());
    }
    let pinning = CorePinning::set_up();
    let echo = ServerProcess::start_echo(&pinning, 0)?;
    let h2_echo = ServerProcess::start_h2_echo(&pinning)?;
    for name in names {
        let result = match *name {
            "scaling" => scaling::measure(&PLAN, &pinning, &echo).await?,
            "logins" => logins::measure(&PLAN, &pinning).await?,
            "login_burst" => login_burst::measure(&PLAN, &pinning).await?,
            key => {
                if let Some(row) = FLOOR.iter().find(|row| row.key == key) {
                    measure_floor(row, &PLAN, &pinning, &h2_echo).await?
                } else {
                    let row = ROWS.iter().find(|row| row.key == key).ok_or("unknown row")?;
                    comparison::measure(row, &PLAN, &pinning, &echo).await?
                }
            }
        };
        println!("{name}: {result:#}");
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
    for chart in &charts::SCALING_CHARTS {
        charts::scaling(results, chart, &path(&format!("scaling_{}", chart.key)))?;
    }
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "prints the result")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (plan, folder) = match arguments[..] {
        [] => (PLAN, page::RESULTS),
        ["smoke"] => (SMOKE, "target/bench"),
        ["hash", millis, threads] => {
            let duration = Duration::from_millis(millis.parse().unwrap());
            println!("{}", logins::hashes_per_second(duration, threads.parse().unwrap()));
            return ExitCode::SUCCESS;
        }
        ref names => {
            return match measure_parts(names).await {
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
        eprintln!("failed to write the results: {error}; run this in the root of the repository");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
