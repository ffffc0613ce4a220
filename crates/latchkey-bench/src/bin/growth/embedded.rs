//! The embedded store: its size, the start of the server on it, and Validate over it.

use std::time::Instant;

use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    processes::LatchkeyServer,
    seed,
    statistics::{median, round},
};
use serde_json::{Value, json};

use crate::{
    Plan,
    working_set::{LARGE_CACHE_MIB, SMALL_CACHE_MIB, Tokens, compare},
};

pub(crate) async fn measure(plan: &Plan, pinning: &CorePinning) -> Result<Value> {
    // The first start creates the keys and the database.
    let empty = LatchkeyServer::start(pinning, false, &[]).await?;
    let (_, start_on_empty) = measure_starts(plan, pinning, empty).await?;

    let data = tempfile::tempdir()?;
    let (registers, database) = seed::embedded(data.path()).await?;
    let signer = seed::signer(data.path())?;
    let tokens = seed::open_sessions(&registers, &signer, plan.sessions, "Firefox on Linux", &[]).await?;
    let tokens = Tokens::new(data.path(), tokens);
    drop(registers);
    database.close().await;
    let database_bytes = std::fs::metadata(data.path().join("latchkey.db"))?.len();
    let latchkey = LatchkeyServer::start_on(data, None, pinning, &[]).await?;
    let (mut latchkey, start) = measure_starts(plan, pinning, latchkey).await?;
    latchkey = latchkey.restart(pinning, &[("VALIDATE__CACHE_MIB", SMALL_CACHE_MIB)]).await?;
    let small_cache = compare(plan, &latchkey, &tokens, Some(SMALL_CACHE_MIB))?;
    latchkey = latchkey.restart(pinning, &[("VALIDATE__CACHE_MIB", LARGE_CACHE_MIB)]).await?;
    let large_cache = compare(plan, &latchkey, &tokens, Some(LARGE_CACHE_MIB))?;
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    let bytes_per_session = database_bytes as f64 / plan.sessions as f64;
    Ok(json!({
        "file_bytes_per_session": round(bytes_per_session, 1),
        "start_ms": round(start, 1),
        "start_ms_on_an_empty_store": round(start_on_empty, 1),
        "small_cache": small_cache,
        "large_cache": large_cache,
    }))
}

/// The median time from the start of the process until it serves, in milliseconds.
async fn measure_starts(
    plan: &Plan,
    pinning: &CorePinning,
    mut latchkey: LatchkeyServer,
) -> Result<(LatchkeyServer, f64)> {
    let mut times = Vec::new();
    for _ in 0..plan.turns {
        let begun = Instant::now();
        latchkey = latchkey.restart(pinning, &[]).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok((latchkey, median(times.into_iter())))
}
