//! One row of the table: throughput in turns with the echo, latency at half of the peak, and memory.

use std::{path::Path, time::Duration};

use latchkey::grpc::pb::{Session, ValidateRequest, ValidateResponse, validate_response::Verdict};
use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    echo,
    load::{LoadResult, LoadTarget},
    processes::{CHEAP_PASSWORDS, LatchkeyServer, ServerProcess, USERS},
    statistics::{Spread, median, round},
    support::client::Client,
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{Plan, rows::Row};

/// The largest difference in bytes between an answer of the echo and one of Latchkey.
const MAX_SIZE_DIFFERENCE: usize = 8;
/// The part of its peak at which the echo still has a steady latency.
const STEADY: f64 = 0.9;
const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p99_9", "max"];

/// The result of one turn at full load.
pub(crate) struct Throughput {
    pub(crate) requests_per_second: f64,
    /// Processor time of the server, and of its store, per request.
    cpu_us: Option<f64>,
    /// The same time as a part of one core.
    core_busy: Option<f64>,
}

pub(crate) async fn measure(
    row: &Row,
    plan: &Plan,
    pinning: &CorePinning,
    echo: &ServerProcess,
) -> Result<Value> {
    let settings = [&CHEAP_PASSWORDS, row.settings].concat();
    let latchkey = LatchkeyServer::start(pinning, row.on_redis, &settings).await?;
    let resident_bytes = latchkey.process.resident_bytes();
    let tokens = latchkey.create_tokens(USERS).await?;
    check_answer_size(&latchkey.client, &tokens, &echo::session::session(0)).await?;
    let target = |address, arguments| LoadTarget { address, tokens: &tokens, arguments, real_time: false };
    let latchkey_target = target(latchkey.process.grpc, row.arguments);
    let echo_target = target(echo.grpc, row.echo.arguments);
    let latchkey_turn = || measure_throughput(&latchkey_target, plan.turn, || latchkey.cpu_time());
    let echo_turn = || measure_throughput(&echo_target, plan.turn, || echo.cpu_time());

    echo_target.run(plan.warm_up, None)?;
    latchkey_target.run(plan.warm_up, None)?;
    let mut pairs = Vec::new();
    for _ in 0..plan.pairs {
        pairs.push((echo_turn()?, latchkey_turn()?));
    }
    let ratio = Spread::of(
        pairs.iter().map(|(echo, latchkey)| latchkey.requests_per_second / echo.requests_per_second),
    );
    // The ratio if both servers were at their limit.
    let cpu_ratio =
        Spread::of(pairs.iter().filter_map(|(echo, latchkey)| Some(echo.cpu_us? / latchkey.cpu_us?)));
    let echo_peak = median(pairs.iter().map(|(echo, _)| echo.requests_per_second));
    let latchkey_peak = median(pairs.iter().map(|(_, latchkey)| latchkey.requests_per_second));
    let rate = half(latchkey_peak);
    #[expect(clippy::cast_precision_loss, reason = "a rate of some thousands")]
    let echo_is_steady = rate as f64 <= echo_peak * STEADY;
    let at_rate =
        measure_latency(plan, rate, [echo_is_steady.then_some(&echo_target), Some(&latchkey_target)])?;
    let p99 = |load: &LoadResult| load.latency_us["p99"].as_f64();
    let turns = at_rate[0].iter().zip(&at_rate[1]);
    let p99_ratio = Spread::of(turns.filter_map(|(echo, latchkey)| Some(p99(latchkey)? / p99(echo)?)));
    let [echo_at_rate, latchkey_at_rate] = at_rate.map(|turns| latency_json(&turns));
    let side = |peak: f64, turns: Vec<&Throughput>, at_rate: Value| {
        let median_of = |value: fn(&Throughput) -> Option<f64>| {
            let values: Option<Vec<_>> = turns.iter().map(|turn| value(turn)).collect();
            values.map(|values| round(median(values.into_iter()), 3))
        };
        json!({
            "requests_per_second": round(peak, 0),
            "runs": turns.iter().map(|turn| round(turn.requests_per_second, 0)).collect::<Vec<_>>(),
            "server_cpu_us_per_request": median_of(|turn| turn.cpu_us),
            "server_core_busy": median_of(|turn| turn.core_busy),
            "at_rate": at_rate,
        })
    };
    Ok(json!({
        "key": row.key,
        "name": row.name,
        "against": row.echo.name,
        "goal": row.goal,
        "ratio": ratio.json(),
        "ratio_of_server_cpu": cpu_ratio.json(),
        "rate": rate,
        "p99_ratio_at_rate": p99_ratio.json(),
        "echo": side(echo_peak, pairs.iter().map(|(echo, _)| echo).collect(), echo_at_rate),
        "latchkey": side(latchkey_peak, pairs.iter().map(|(_, latchkey)| latchkey).collect(), latchkey_at_rate),
        "resident_bytes_after_start": resident_bytes,
        "redis": latchkey.redis_version(),
    }))
}

pub(crate) fn measure_throughput(
    target: &LoadTarget<'_>,
    duration: Duration,
    cpu_time: impl Fn() -> Option<Duration>,
) -> Result<Throughput> {
    let before = cpu_time();
    let result = target.run(duration, None)?;
    let used = cpu_time().zip(before).map(|(after, before)| after.saturating_sub(before).as_secs_f64());
    let seconds = result.requests / result.requests_per_second;
    Ok(Throughput {
        requests_per_second: result.requests_per_second,
        cpu_us: used.map(|used| used * 1e6 / result.requests),
        core_busy: used.map(|used| used / seconds),
    })
}

/// Loads both servers at the same rate, in turns.
fn measure_latency(
    plan: &Plan,
    rate: u64,
    targets: [Option<&LoadTarget<'_>>; 2],
) -> Result<[Vec<LoadResult>; 2]> {
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..plan.latency_turns {
        for (target, results) in targets.iter().zip(&mut results) {
            if let Some(target) = target {
                results.push(target.run(plan.latency_turn, Some(rate))?);
            }
        }
    }
    Ok(results)
}

/// The median of each percentile over the turns.
fn latency_json(turns: &[LoadResult]) -> Value {
    if turns.is_empty() {
        return Value::Null;
    }
    let median_of = |name: &str| median(turns.iter().filter_map(|turn| turn.latency_us[name].as_f64()));
    let latencies: serde_json::Map<_, _> =
        PERCENTILES.map(|name| (name.to_owned(), round(median_of(name), 0).into())).into_iter().collect();
    json!({
        "unsent": turns.iter().map(|turn| turn.unsent).max(),
        "latency_us": latencies,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of some thousands")]
fn half(peak: f64) -> u64 {
    ((peak / 2.0) as u64).clamp(1, 1_000_000)
}

/// Checks that the echo returns as many bytes as Latchkey; otherwise the two are not comparable.
pub(crate) async fn check_answer_size(client: &Client, tokens: &Path, echo: &Session) -> Result<()> {
    let request = ValidateRequest { token: first_token(tokens)?, ..Default::default() };
    let response = client.auth.clone().validate(request).await?;
    let ValidateResponse { verdict: Some(Verdict::Session(session)), .. } = response.into_inner() else {
        return Err("a new token was rejected".into());
    };
    if session.encoded_len().abs_diff(echo.encoded_len()) > MAX_SIZE_DIFFERENCE {
        return Err(format!("the answer of the echo has another size than {session:?}").into());
    }
    Ok(())
}

pub(crate) fn first_token(tokens: &Path) -> Result<String> {
    let text = std::fs::read_to_string(tokens)?;
    Ok(text.lines().next().ok_or("the file of tokens is empty")?.to_owned())
}
