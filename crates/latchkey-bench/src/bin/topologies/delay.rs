//! The time from the begin of a commit until a follower in another process has its event.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::domain::ports::EventLog as _;
use latchkey_bench::{Result, seed, statistics::round};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::{followers::Events, installation::Installation};

/// The time between two events. It varies, so that they fall on all moments of a periodic follower.
const PAUSES_MS: [u64; 3] = [7, 13, 19];
/// The page size, patience and pause of `SessionEvents`.
const PAGE: usize = 256;
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn measure(installation: &Installation, events: &Arc<Events>, count: u32) -> Result<Value> {
    let log = seed::redis_with_buckets(installation.redis.url(), installation.setup.buckets).await?;
    let mut cursor = log.tail(None, 1).await?.next;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let following = tokio::spawn(async move {
        loop {
            match log.follow(&cursor, PAGE, PATIENCE).await {
                Ok(tail) => {
                    let now = Instant::now();
                    for _ in &tail.events {
                        if arrived.send(now).is_err() {
                            return;
                        }
                    }
                    cursor = tail.next;
                }
                // As a server does.
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    });
    // The follower subscribes, and has read what was there.
    tokio::time::sleep(PATIENCE * 2).await;
    while arrivals.try_recv().is_ok() {}
    let mut delays = Vec::new();
    for pause in PAUSES_MS.iter().cycle().take(usize::try_from(count)?) {
        let begin = Instant::now();
        events.commit_one().await?;
        let arrival = timeout(PATIENCE * 5, arrivals.recv()).await.map_err(|_| "an event did not arrive")?;
        delays.push(arrival.ok_or("the follower has ended")?.duration_since(begin).as_secs_f64() * 1e6);
        tokio::time::sleep(Duration::from_millis(*pause)).await;
    }
    following.abort();
    delays.sort_unstable_by(f64::total_cmp);
    let quantile = |part: usize| round(delays[(delays.len() - 1) * part / 100], 0);
    Ok(json!({ "p50": quantile(50), "p90": quantile(90), "p99": quantile(99), "max": quantile(100) }))
}
