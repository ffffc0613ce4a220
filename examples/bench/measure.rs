//! One row: throughput in pairs with the echo, latency at half of the peak, memory.

use std::time::Duration;

use latchkey::grpc::pb::{ValidateRequest, ValidateResponse, validate_response::Verdict};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    Plan,
    load::Target,
    numbers::{Spread, median, round},
    place::Place,
    rows::{CHEAP_PASSWORDS, Row},
    server::{Latchkey, Server},
};

/// By how much an answer of the echo may be longer or shorter than one of Latchkey, in bytes.
const SAME_SIZE: usize = 8;

/// What one run of the load has cost.
struct Run {
    requests_per_second: f64,
    /// Processor time of the server, and of its store, for one request.
    cpu_us: Option<f64>,
    /// Which part of the time that was of one core.
    busy: Option<f64>,
}

pub async fn row(row: &Row, plan: &Plan, place: &Place, echo: &Server) -> Result<Value, String> {
    let settings = [&CHEAP_PASSWORDS, row.settings].concat();
    let latchkey = Latchkey::start(place, row.on_redis, &settings).await?;
    let resident = latchkey.server.resident();
    let tokens = latchkey.tokens().await?;
    same_size(&latchkey, &tokens, row).await?;
    let ours = Target { address: latchkey.server.grpc, tokens: &tokens, arguments: row.arguments };
    let theirs = Target { address: echo.grpc, tokens: &tokens, arguments: row.echo };
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
    let [theirs_at_half, ours_at_half] = [(&theirs, peaks[0]), (&ours, peaks[1])].map(|(target, peak)| {
        let found = target.load(plan.latency, Some(half(peak)))?;
        Ok::<_, String>(json!({ "rate": half(peak), "unsent": found.unsent, "latency_us": found.latency_us }))
    });
    let side = |peak: f64, runs: &dyn Fn(&(Run, Run)) -> &Run, at_half: Value| {
        let all = |of: fn(&Run) -> Option<f64>| {
            let values: Option<Vec<_>> = pairs.iter().map(|pair| of(runs(pair))).collect();
            values.map(|values| round(median(values.into_iter()), 3))
        };
        json!({
            "requests_per_second": round(peak, 0),
            "runs": pairs.iter().map(|pair| round(runs(pair).requests_per_second, 0)).collect::<Vec<_>>(),
            "server_cpu_us_per_request": all(|run| run.cpu_us),
            "server_core_busy": all(|run| run.busy),
            "at_half_of_peak": at_half,
        })
    };
    let echo_side = side(peaks[0], &|pair| &pair.0, theirs_at_half?);
    let our_side = side(peaks[1], &|pair| &pair.1, ours_at_half?);
    Ok(json!({
        "key": row.key,
        "name": row.name,
        "ratio": ratio.json(),
        "ratio_of_server_cpu": of_cpu.json(),
        "echo": echo_side,
        "latchkey": our_side,
        "resident_bytes_after_start": resident,
        "redis": latchkey.redis_version(),
    }))
}

fn run(target: &Target<'_>, duration: Duration, cpu: impl Fn() -> Option<Duration>) -> Result<Run, String> {
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

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of some thousands")]
fn half(peak: f64) -> u64 {
    ((peak / 2.0) as u64).max(1)
}

/// That the echo answers as much as Latchkey does. Otherwise the two are not comparable.
async fn same_size(latchkey: &Latchkey, tokens: &std::path::Path, row: &Row) -> Result<(), String> {
    let tokens = std::fs::read_to_string(tokens).map_err(|error| error.to_string())?;
    let token = tokens.lines().next().ok_or("there is no token")?;
    let request = ValidateRequest { token: token.to_owned(), ..Default::default() };
    let answer = latchkey.client.auth.clone().validate(request).await.map_err(|status| status.to_string())?;
    let ValidateResponse { verdict: Some(Verdict::Session(ours)), .. } = answer.into_inner() else {
        return Err(format!("{}: a fresh token is no session", row.name));
    };
    let theirs = crate::echo::session();
    if ours.encoded_len().abs_diff(theirs.encoded_len()) > SAME_SIZE {
        return Err(format!("the echo is of another size than {ours:?}"));
    }
    Ok(())
}
