//! Measures Latchkey in comparison with other ways to let the latest login win: services in Go and Node.js as a team would
//! write them itself, the recipe with Django REST Framework, Sa-Token and Keycloak. Writes `docs/performance/peers.json`,
//! a chart, and the tables in `docs/performance.md`, which explains them.
//!
//! `make peers` installs the peers, builds the server and runs this. A wrong answer fails the run.

mod comparison;
mod http;
mod keycloak;
mod peer;
mod report;
mod users;

use std::{path::Path, process::ExitCode, time::Duration};

use latchkey_bench::{Result, core_pinning::CorePinning, page};
use serde_json::{Value, json};

use self::{comparison::Subjects, peer::PEERS};

/// The extent of the measurement.
struct Plan {
    /// Number of users with one session each.
    users: usize,
    /// Number of users of the comparison with few users.
    hot_users: usize,
    /// Number of turns of each server for each number of users.
    turns: usize,
    /// Duration of a turn, in whole seconds.
    turn: Duration,
    /// Duration of the load before the first turn.
    warm_up: Duration,
    /// The same for servers that compile while they run.
    long_warm_up: Duration,
}

const PLAN: Plan = Plan {
    users: 200_000,
    hot_users: 100,
    turns: 5,
    turn: Duration::from_secs(2),
    warm_up: Duration::from_secs(3),
    long_warm_up: Duration::from_secs(30),
};

/// Shows whether everything works, and how it looks; the results are not published.
const SMOKE: Plan = Plan {
    users: 2_000,
    hot_users: 20,
    turns: 1,
    turn: Duration::from_secs(1),
    warm_up: Duration::from_secs(1),
    long_warm_up: Duration::from_secs(2),
};

/// Measures some of the peers, or all.
#[expect(clippy::print_stderr, reason = "prints the progress, because this takes minutes")]
async fn measure(plan: &Plan, names: &[&str]) -> Result<Value> {
    if let Some(unknown) = names.iter().find(|name| PEERS.iter().all(|peer| peer.key != **name)) {
        let known: Vec<_> = PEERS.iter().map(|peer| peer.key).collect();
        return Err(
            format!("unknown peer `{unknown}`: expected `smoke` or some of {}", known.join(", ")).into()
        );
    }
    let pinning = CorePinning::set_up();
    eprintln!("{} users ...", plan.users);
    let subjects = Subjects::start(plan, &pinning).await?;
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for peer in PEERS.iter().filter(|peer| names.is_empty() || names.contains(&peer.key)) {
        if !peer.is_installed() {
            eprintln!("{}: not installed", peer.name);
            missing.push(peer.name);
            continue;
        }
        eprintln!("{} ...", peer.name);
        let result = subjects.compare(peer, plan, &pinning).await;
        peers.push(result.map_err(|error| format!("{}: {error}", peer.name))?);
    }
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "placement": pinning.description(),
        "redis": subjects.redis_version(),
        "users": plan.users,
        "hot_users": plan.hot_users,
        "turns": plan.turns,
        "seconds_each": plan.turn.as_secs_f64(),
        "peers": peers,
        "not_installed": missing,
    }))
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "prints the result")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (plan, names, folder) = match arguments[..] {
        [] => (PLAN, &[][..], Some(page::RESULTS)),
        ["smoke", ref names @ ..] => (SMOKE, names, Some("target/bench")),
        ref names => (PLAN, names, None),
    };
    let results = match measure(&plan, names).await {
        Ok(results) => results,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", report::tables(&results));
    if let Some(folder) = folder
        && let Err(error) = report::write(&results, Path::new(folder))
    {
        eprintln!("failed to write the results: {error}; run this in the root of the repository");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
