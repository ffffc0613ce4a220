//! Measures Latchkey with a million sessions: the memory of the server and of Redis, the start on a large database,
//! Validate over random users in comparison with a few, and the memory of a cached user. Writes
//! `docs/performance/growth.json` and the table in `docs/performance.md`, which explains it.
//!
//! `make growth` builds the server and runs this. A wrong verdict fails the run.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

mod embedded;
mod near_cache;
mod report;
mod working_set;

use std::{process::ExitCode, time::Duration};

use latchkey_bench::{Result, core_pinning::CorePinning};
use serde_json::{Value, json};

/// The extent of the measurement.
struct Plan {
    /// Number of users with one session each.
    sessions: usize,
    /// Number of users in the near-cache while its memory is measured.
    cached_users: usize,
    /// Number of turns for each side of a comparison.
    turns: usize,
    /// Duration of a turn.
    turn: Duration,
}

const PLAN: Plan =
    Plan { sessions: 1_000_000, cached_users: 200_000, turns: 5, turn: Duration::from_secs(3) };

/// Shows whether everything works; the results are not published.
const SMOKE: Plan =
    Plan { sessions: 20_000, cached_users: 20_000, turns: 2, turn: Duration::from_millis(300) };

#[expect(clippy::print_stderr, reason = "prints the progress, because this takes minutes")]
async fn measure(plan: &Plan) -> Result<Value> {
    let pinning = CorePinning::set_up();
    eprintln!("memory of a cached user ...");
    let cached = near_cache::measure_in_own_process(plan)?;
    eprintln!("{} sessions in the embedded store ...", plan.sessions);
    let embedded = embedded::measure(plan, &pinning).await?;
    eprintln!("{} sessions in Redis ...", plan.sessions);
    let redis = working_set::measure_redis(plan, &pinning).await?;
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "placement": pinning.description(),
        "sessions": plan.sessions,
        "turns": plan.turns,
        "seconds_each": plan.turn.as_secs_f64(),
        "embedded": embedded,
        "redis": redis,
        "cached": cached,
    }))
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "prints the result")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let plan = match arguments[..] {
        [] => PLAN,
        ["smoke"] => SMOKE,
        ["cached", users] => {
            println!("{}", near_cache::measure(users.parse().unwrap()).await);
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("the only argument is `smoke`, which measures briefly and writes no files");
            return ExitCode::from(2);
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
    if arguments.is_empty()
        && let Err(error) = report::write(&results)
    {
        eprintln!("failed to write the results: {error}; run this in the root of the repository");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
