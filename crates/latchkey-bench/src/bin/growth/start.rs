//! The embedded store: its size, how long the server takes to start on it, and Validate over it.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    Plan, fill,
    numbers::{median, round},
    place::Place,
    server::Latchkey,
    speed::{Tokens, compare},
};

pub async fn embedded(plan: &Plan, place: &Place) -> Result<Value, String> {
    let empty = tempfile::tempdir().map_err(|error| error.to_string())?;
    // The first start makes keys and the database.
    let empty = Latchkey::on(empty, None, place, &[]).await?;
    let (_, on_nothing) = starts(plan, place, empty).await?;

    let data = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (registers, database) = fill::embedded(data.path()).await?;
    let signer = fill::signer(data.path())?;
    let all = fill::sessions(&registers, &signer, plan.sessions, "Firefox on Linux", &[]).await?;
    let tokens = Tokens::write(data.path(), &all)?;
    drop(all);
    drop(registers);
    database.close().await;
    let file = std::fs::metadata(data.path().join("latchkey.db")).map_err(|error| error.to_string())?;
    let latchkey = Latchkey::on(data, None, place, &[]).await?;
    let (latchkey, on_all) = starts(plan, place, latchkey).await?;
    let speed = compare(plan, &latchkey, &tokens)?;
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    let each = file.len() as f64 / plan.sessions as f64;
    Ok(json!({
        "file_bytes_per_session": round(each, 1),
        "start_ms": round(on_all, 1),
        "start_ms_on_an_empty_store": round(on_nothing, 1),
        "validate": speed,
    }))
}

/// From the start of the process to the first answer that it serves, in milliseconds.
async fn starts(plan: &Plan, place: &Place, mut latchkey: Latchkey) -> Result<(Latchkey, f64), String> {
    let mut all = Vec::new();
    for _ in 0..plan.turns {
        let begun = Instant::now();
        latchkey = latchkey.again(place, &[]).await?;
        all.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok((latchkey, median(all.into_iter())))
}
