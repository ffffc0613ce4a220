//! One row: throughput in pairs with the echo, latency at half of the peak, memory.

use std::{fs::File, io::BufRead as _, io::BufReader, path::Path, time::Duration};

use latchkey::grpc::pb::{Session, ValidateRequest, ValidateResponse, validate_response::Verdict};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    Plan,
    client::Client,
    load::{Found, Target},
    numbers::{Spread, median, round},
    place::Place,
    rows::{CHEAP_PASSWORDS, Row},
    server::{Latchkey, Server, USERS},
};

/// By how much an answer of the echo may be longer or shorter than one of Latchkey, in bytes.
const SAME_SIZE: usize = 8;
/// Of its peak, the echo bears at least so much evenly: at a higher rate its latency tells nothing.
const BEARABLE: f64 = 0.9;
const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p99_9", "max"];

/// What one run of the load has cost.
pub struct Run {
    pub requests_per_second: f64,
    /// Processor time of the server, and of its store, for one request.
    cpu_us: Option<f64>,
    /// Which part of the time that was of one core.
    busy: Option<f64>,
}

pub async fn row(row: &Row, plan: &Plan, place: &Place, echo: &Server) -> Result<Value, String> {
    let settings = [&CHEAP_PASSWORDS, row.settings].concat();
    let latchkey = Latchkey::start(place, row.on_redis, &settings).await?;
    let resident = latchkey.server.resident();
    let tokens = latchkey.tokens(USERS).await?;
    same_size(&latchkey.client, &tokens, &crate::echo::session(0)).await?;
    let ours =
        Target { address: latchkey.server.grpc, tokens: &tokens, arguments: row.arguments, first: false };
    let theirs = Target { address: echo.grpc, tokens: &tokens, arguments: row.echo.arguments, first: false };
    let run_ours = || run(&ours, plan.each, || latchkey.cpu());
    let run_theirs = || run(&theirs, plan.each, || echo.cpu());

    theirs.load(plan.warm_up, None)?;
    ours.load(plan.warm_up, None)?;
    let mut pairs = Vec::new();
    for _ in 0..plan.pairs {
        pairs.push((run_theirs()?, run_ours()?));
    }
    let ratio =
        Spread::of(pairs.iter().map(|(theirs, ours)| ours.requests_per_second / theirs.requests_per_second));
    // What the ratio would be if both servers were at their limit.
    let of_cpu = pairs.iter().filter_map(|(theirs, ours)| Some(theirs.cpu_us? / ours.cpu_us?));
    let of_cpu = Spread::of(of_cpu);
    let peaks = [
        median(pairs.iter().map(|(theirs, _)| theirs.requests_per_second)),
        median(pairs.iter().map(|(_, ours)| ours.requests_per_second)),
    ];
    let rate = half(peaks[1]);
    #[expect(clippy::cast_precision_loss, reason = "a rate of some thousands")]
    let echo_bears_it = rate as f64 <= peaks[0] * BEARABLE;
    let at_rate = latencies(plan, rate, [echo_bears_it.then_some(&theirs), Some(&ours)])?;
    let p99 = |load: &Found| load.latency_us["p99"].as_f64();
    let turns = at_rate[0].iter().zip(&at_rate[1]);
    let p99_ratio = Spread::of(turns.filter_map(|(echo, ours)| Some(p99(ours)? / p99(echo)?)));
    let [echo_at_rate, ours_at_rate] = at_rate.map(|turns| latency(&turns));
    let side = |peak: f64, runs: &dyn Fn(&(Run, Run)) -> &Run, at_rate: Value| {
        let all = |of: fn(&Run) -> Option<f64>| {
            let values: Option<Vec<_>> = pairs.iter().map(|pair| of(runs(pair))).collect();
            values.map(|values| round(median(values.into_iter()), 3))
        };
        json!({
            "requests_per_second": round(peak, 0),
            "runs": pairs.iter().map(|pair| round(runs(pair).requests_per_second, 0)).collect::<Vec<_>>(),
            "server_cpu_us_per_request": all(|run| run.cpu_us),
            "server_core_busy": all(|run| run.busy),
            "at_rate": at_rate,
        })
    };
    let echo_side = side(peaks[0], &|pair| &pair.0, echo_at_rate);
    let our_side = side(peaks[1], &|pair| &pair.1, ours_at_rate);
    Ok(json!({
        "key": row.key,
        "name": row.name,
        "against": row.echo.name,
        "goal": row.goal,
        "ratio": ratio.json(),
        "ratio_of_server_cpu": of_cpu.json(),
        "rate": rate,
        "p99_ratio_at_rate": p99_ratio.json(),
        "echo": echo_side,
        "latchkey": our_side,
        "resident_bytes_after_start": resident,
        "redis": latchkey.redis_version(),
    }))
}

pub fn run(
    target: &Target<'_>,
    duration: Duration,
    cpu: impl Fn() -> Option<Duration>,
) -> Result<Run, String> {
    let before = cpu();
    let found = target.load(duration, None)?;
    let taken = cpu().zip(before).map(|(after, before)| after.saturating_sub(before).as_secs_f64());
    let seconds = found.requests / found.requests_per_second;
    Ok(Run {
        requests_per_second: found.requests_per_second,
        cpu_us: taken.map(|taken| taken * 1e6 / found.requests),
        busy: taken.map(|taken| taken / seconds),
    })
}

/// The two of them at the same rate, in turns.
fn latencies(plan: &Plan, rate: u64, targets: [Option<&Target<'_>>; 2]) -> Result<[Vec<Found>; 2], String> {
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..plan.latency_turns {
        for (target, found) in targets.iter().zip(&mut found) {
            if let Some(target) = target {
                found.push(target.load(plan.latency, Some(rate))?);
            }
        }
    }
    Ok(found)
}

/// Of each percentile the median over the turns.
fn latency(turns: &[Found]) -> Value {
    if turns.is_empty() {
        return Value::Null;
    }
    let of = |name: &str| median(turns.iter().filter_map(|run| run.latency_us[name].as_f64()));
    let latencies: serde_json::Map<_, _> =
        PERCENTILES.map(|name| (name.to_owned(), round(of(name), 0).into())).into_iter().collect();
    json!({
        "unsent": turns.iter().map(|run| run.unsent).max(),
        "latency_us": latencies,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of some thousands")]
fn half(peak: f64) -> u64 {
    ((peak / 2.0) as u64).clamp(1, 1_000_000)
}

/// That the echo answers as much as Latchkey does. Otherwise the two are not comparable.
pub async fn same_size(client: &Client, tokens: &Path, echo: &Session) -> Result<(), String> {
    let file = File::open(tokens).map_err(|error| error.to_string())?;
    let token = BufReader::new(file).lines().next().ok_or("there is no token")?;
    let token = token.map_err(|error| error.to_string())?;
    let request = ValidateRequest { token, ..Default::default() };
    let answer = client.auth.clone().validate(request).await.map_err(|status| status.to_string())?;
    let ValidateResponse { verdict: Some(Verdict::Session(ours)), .. } = answer.into_inner() else {
        return Err("a fresh token is no session".into());
    };
    if ours.encoded_len().abs_diff(echo.encoded_len()) > SAME_SIZE {
        return Err(format!("the echo is of another size than {ours:?}"));
    }
    Ok(())
}
