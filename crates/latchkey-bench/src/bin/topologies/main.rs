//! Measures what the topologies of Redis cost: strict Validate and commits on one server, behind Sentinels and on a cluster
//! of three masters, with one to three Latchkey servers, and what following events costs by the number of buckets and of
//! servers. Writes `docs/performance/topologies.json` and the tables in `docs/performance.md`, which explains them.
//!
//! `make topologies` builds the server and runs this. A wrong verdict fails the run.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

mod commits;
mod comparison;
mod delay;
mod followers;
mod installation;
mod report;

use std::{process::ExitCode, time::Duration};

use latchkey_bench::{Result, core_pinning::CorePinning};
use serde_json::{Value, json};

/// The extent of the measurement.
struct Plan {
    /// Number of turns of both sides of a comparison.
    pairs: usize,
    /// Duration of such a turn.
    turn: Duration,
    /// Number of users, each with one session.
    users: usize,
    /// Number of logins with a password whose commits are counted.
    logins: usize,
    /// How long followers are observed, without events and then with events.
    observation: Duration,
    /// Commits with an event per second while followers are observed.
    event_rate: u32,
    /// Number of events whose delay is measured.
    delays: u32,
}

const PLAN: Plan = Plan {
    pairs: 5,
    turn: Duration::from_secs(2),
    users: 1000,
    logins: 200,
    observation: Duration::from_secs(5),
    event_rate: 500,
    delays: 200,
};

/// Shows whether everything works; the results are not published.
const SMOKE: Plan = Plan {
    pairs: 2,
    turn: Duration::from_millis(300),
    users: 100,
    logins: 20,
    observation: Duration::from_secs(1),
    event_rate: 200,
    delays: 20,
};

const PARTS: [&str; 3] = ["requests", "followers", "commits"];

#[expect(clippy::print_stderr, reason = "prints the progress, because this takes minutes")]
async fn measure(plan: &Plan, parts: &[&str]) -> Result<Value> {
    let pinning = CorePinning::set_up();
    eprintln!("{}", pinning.description());
    let mut results = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "placement": pinning.description(),
        "pairs": plan.pairs,
        "seconds_each": plan.turn.as_secs_f64(),
        "users": plan.users,
    });
    for part in parts {
        results[*part] = match *part {
            "requests" => comparison::measure_all(plan, &pinning).await?,
            "followers" => followers::measure_all(plan, &pinning).await?,
            _ => commits::measure(plan, &pinning).await?,
        };
    }
    Ok(results)
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "prints the result")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (plan, parts) = match &arguments[..] {
        [] => (PLAN, &PARTS[..]),
        ["smoke"] => (SMOKE, &PARTS[..]),
        parts if parts.iter().all(|part| PARTS.contains(part)) => (PLAN, parts),
        _ => {
            eprintln!(
                "expected `smoke`, which measures briefly and writes no files, or some of {}, which are measured and \
                 printed",
                PARTS.join(", ")
            );
            return ExitCode::from(2);
        }
    };
    let results = match measure(&plan, parts).await {
        Ok(results) => results,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.is_empty()
        && let Err(error) = report::write(&results)
    {
        eprintln!("failed to write the results: {error}; run this in the root of the repository");
        return ExitCode::FAILURE;
    }
    println!("{results:#}\n\n{}", report::table(&results));
    ExitCode::SUCCESS
}
