//! The load: workers that send requests until the time is over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::timeout_at};

use super::{
    connection::{CallError, Connection, Endpoint},
    counts::{Counts, SharedCounts},
    progress::Progress,
    query::Query,
    schedule::Schedule,
};
use crate::cli::{CommandError, client::CALL_TIMEOUT, output::Output};

/// The delay before a reconnect, so that a restarted server is not flooded.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// The options of a load.
pub(super) struct Load {
    pub(super) endpoint: Endpoint,
    pub(super) queries: Vec<Query>,
    /// The number of streams on each connection; `None` for unary calls.
    pub(super) streams: Option<u16>,
    /// The number of requests in flight on each connection or stream.
    pub(super) concurrency: usize,
    pub(super) duration: Duration,
    /// Requests per second; `None` if each request follows the answer to the one before.
    pub(super) rate: Option<u32>,
}

pub(super) struct LoadResult {
    pub(super) counts: Counts,
    /// The time until the last answer.
    pub(super) elapsed: Duration,
    /// Requests that were due and never sent, because the server did not keep up.
    pub(super) unsent: u64,
}

/// A load in progress.
pub(super) struct LoadRun {
    pub(super) load: Arc<Load>,
    pub(super) until: Instant,
    pub(super) schedule: Option<Schedule>,
    /// The number of the next query.
    pub(super) next: AtomicUsize,
}

pub(super) async fn run(
    load: &Arc<Load>,
    connections: u16,
    output: &Output,
) -> Result<LoadResult, CommandError> {
    let start_error =
        |error: &dyn std::fmt::Display| CommandError::Unavailable(format!("cannot start the load: {error}"));
    let mut handles = Vec::new();
    let mut counts_of_connections = Vec::new();
    for _ in 0..connections {
        handles.push(load.endpoint.connect().await.map_err(|error| start_error(&error))?);
        counts_of_connections.push(Arc::new(SharedCounts::new().map_err(|error| start_error(&error))?));
    }
    let max_in_flight = load.concurrency * usize::from(load.streams.unwrap_or(1));
    let max_in_flight = u32::try_from(max_in_flight).unwrap_or(u32::MAX);
    let begin = Instant::now();
    let run = Arc::new(LoadRun {
        load: Arc::clone(load),
        until: begin + load.duration,
        schedule: load.rate.map(|rate| Schedule::new(begin, rate, connections, max_in_flight)),
        next: AtomicUsize::new(0),
    });
    if run.schedule.is_some() {
        let run = Arc::clone(&run);
        std::thread::spawn(move || run.schedule.as_ref().map(|schedule| schedule.run(run.load.duration)));
    }
    let mut tasks = JoinSet::new();
    for (number, (connection, counts)) in handles.into_iter().zip(&counts_of_connections).enumerate() {
        tasks.spawn(Arc::clone(&run).connection_worker(number, connection, Arc::clone(counts)));
    }
    let progress =
        tokio::spawn(Progress::new(output, load.duration).run(begin, counts_of_connections.clone()));
    while tasks.join_next().await.is_some() {}
    let elapsed = begin.elapsed();
    // A panic of the progress bar does not matter.
    let _ = progress.await;

    let mut counts = Counts::new().map_err(|error| start_error(&error))?;
    for of_connection in &counts_of_connections {
        counts.add(&of_connection.lock());
    }
    let planned = run.schedule.as_ref().map_or(0, |schedule| schedule.count(load.duration));
    let unsent = planned.saturating_sub(counts.latencies.len() + counts.wrong);
    Ok(LoadResult { counts, elapsed, unsent })
}

impl LoadRun {
    /// Keeps a connection busy, and reconnects if it ends before the time is over.
    async fn connection_worker(
        self: Arc<Self>,
        number: usize,
        mut connection: Connection,
        counts: Arc<SharedCounts>,
    ) {
        loop {
            let mut workers = JoinSet::new();
            if let Some(streams) = self.load.streams {
                for _ in 0..streams {
                    workers.spawn(Arc::clone(&self).stream_worker(
                        number,
                        connection.clone(),
                        Arc::clone(&counts),
                    ));
                }
            } else {
                for _ in 0..self.load.concurrency {
                    workers.spawn(Arc::clone(&self).unary_worker(
                        number,
                        connection.clone(),
                        Arc::clone(&counts),
                    ));
                }
            }
            let all = async { while workers.join_next().await.is_some() {} };
            if timeout_at((self.until + CALL_TIMEOUT).into(), all).await.is_err() {
                // Each worker waits for at least one answer.
                counts.wrongs(workers.len() as u64, format!("no answer within {CALL_TIMEOUT:?}"));
                return;
            }
            connection = loop {
                if Instant::now() + RECONNECT_DELAY >= self.until {
                    return;
                }
                tokio::time::sleep(RECONNECT_DELAY).await;
                match self.load.endpoint.connect().await {
                    Ok(connection) => break connection,
                    Err(error) => counts.wrong(format!("cannot reconnect: {error}")),
                }
            };
        }
    }

    /// Makes one call after the other.
    async fn unary_worker(
        self: Arc<Self>,
        number: usize,
        mut connection: Connection,
        counts: Arc<SharedCounts>,
    ) {
        while let Some(begun) = self.next_due(number).await {
            let query = self.next.fetch_add(1, Ordering::Relaxed) % self.load.queries.len();
            let query = &self.load.queries[query];
            match connection.call(&query.message).await {
                Ok(answer) => {
                    let latency = begun.elapsed();
                    match query.check(&answer) {
                        Ok(()) => counts.right(latency),
                        Err(reason) => counts.wrong(reason),
                    }
                }
                Err(CallError::Failed(reason)) => counts.wrong(reason),
                Err(CallError::ConnectionLost(reason)) => return counts.wrong(reason),
                Err(CallError::NotProcessed) => return,
            }
        }
    }

    /// Waits until a request is to be sent, and returns the time from which its latency counts.
    async fn next_due(&self, connection: usize) -> Option<Instant> {
        let now = Instant::now();
        if now >= self.until {
            return None;
        }
        match &self.schedule {
            None => Some(now),
            Some(schedule) => schedule.next(connection).await,
        }
    }
}
