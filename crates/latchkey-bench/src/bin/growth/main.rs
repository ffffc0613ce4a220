//! Measures Latchkey with a million sessions: the memory of the server and of Redis, the start on a large database,
//! Validate over random users against a few, and what a cached user takes. Writes `docs/performance/growth.json` and
//! the table in `docs/performance.md`, which tells what it means.
//!
//! Needs `redis-server` on the PATH, or its path in `LATCHKEY_TEST_REDIS_SERVER`, and the server that is built beside
//! this: `make growth` builds it and runs this. A wrong verdict fails the run.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "made of what the tests are made of")]

#[path = "../../../../../tests/suite/support/client.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod client;
#[path = "../bench/load.rs"]
#[expect(dead_code, reason = "`make bench` needs more of it")]
mod load;
#[path = "../bench/numbers.rs"]
mod numbers;
#[path = "../bench/place.rs"]
#[expect(dead_code, reason = "`make bench` needs more of it")]
mod place;
#[path = "../../../../../tests/suite/support/redis.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod redis;
#[path = "../bench/server.rs"]
#[expect(dead_code, reason = "`make bench` needs more of it")]
mod server;

mod cached;
mod fill;
mod report;
mod speed;
mod start;

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};

use place::Place;

/// How much is measured.
pub struct Plan {
    /// Users with one session each.
    sessions: usize,
    /// Users that are cached at a time, to see what one takes.
    cached: usize,
    /// How often few users and many take turns.
    turns: usize,
    /// How long each turn takes.
    each: Duration,
}

const PLAN: Plan = Plan { sessions: 1_000_000, cached: 200_000, turns: 5, each: Duration::from_secs(3) };

/// Nothing to publish: whether it works.
const SMOKE: Plan = Plan { sessions: 20_000, cached: 20_000, turns: 2, each: Duration::from_millis(300) };

#[expect(clippy::print_stderr, reason = "it takes minutes: how far it has come")]
async fn measure(plan: &Plan) -> Result<Value, String> {
    let place = Place::take();
    eprintln!("what a cached user takes ...");
    let cached = cached::apart(plan)?;
    eprintln!("{} sessions in the embedded store ...", plan.sessions);
    let embedded = start::embedded(plan, &place).await?;
    eprintln!("{} sessions in Redis ...", plan.sessions);
    let redis = speed::redis(plan, &place).await?;
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "placement": place.told(),
        "sessions": plan.sessions,
        "turns": plan.turns,
        "seconds_each": plan.each.as_secs_f64(),
        "embedded": embedded,
        "redis": redis,
        "cached": cached,
    }))
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let plan = match arguments[..] {
        [] => PLAN,
        ["smoke"] => SMOKE,
        ["cached", users] => {
            println!("{}", cached::measure(users.parse().unwrap()).await);
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("`smoke` measures little and writes nothing; without it there are no arguments");
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
        eprintln!("the results cannot be written: {error}; is this the root of the repository?");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
