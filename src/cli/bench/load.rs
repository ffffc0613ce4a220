//! The load: lines that ask and ask again, until the time is over.

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
    progress::Progress,
    query::Query,
    schedule::Schedule,
    tally::{Counts, Tally},
};
use crate::cli::{Failure, client::TIMEOUT, output::Output};

/// Before a connection is made again, so that a server that is gone is not run over when it comes back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What to do.
pub(super) struct Load {
    pub(super) way: Endpoint,
    pub(super) asks: Vec<Query>,
    /// Streams on one connection; without them, every request is a call of its own.
    pub(super) streams: Option<u16>,
    /// Requests at a time, on one connection or, where there are streams, on one of these.
    pub(super) concurrency: usize,
    pub(super) duration: Duration,
    /// Calls a second; without it, a call follows the answer to the one before.
    pub(super) rate: Option<u32>,
}

/// How it went.
pub(super) struct Outcome {
    pub(super) counts: Counts,
    /// Until the last answer.
    pub(super) elapsed: Duration,
    /// Calls that were due by then and never begun, because the server did not keep up.
    pub(super) unsent: u64,
}

/// A run in progress.
pub(super) struct Run {
    pub(super) load: Arc<Load>,
    pub(super) until: Instant,
    pub(super) pace: Option<Schedule>,
    pub(super) next: AtomicUsize,
}

pub(super) async fn run(load: &Arc<Load>, connections: u16, output: &Output) -> Result<Outcome, Failure> {
    let cannot = |error: &dyn std::fmt::Display| Failure::Unavailable(format!("cannot begin: {error}"));
    let mut lines = Vec::new();
    let mut tallies = Vec::new();
    for _ in 0..connections {
        lines.push(load.way.connect().await.map_err(|error| cannot(&error))?);
        tallies.push(Arc::new(Tally::new().map_err(|error| cannot(&error))?));
    }
    let most = load.concurrency * usize::from(load.streams.unwrap_or(1));
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    let begin = Instant::now();
    let run = Arc::new(Run {
        load: Arc::clone(load),
        until: begin + load.duration,
        pace: load.rate.map(|rate| Schedule::new(begin, rate, connections, most)),
        next: AtomicUsize::new(0),
    });
    if run.pace.is_some() {
        let run = Arc::clone(&run);
        std::thread::spawn(move || run.pace.as_ref().map(|pace| pace.keep(run.load.duration)));
    }
    let mut under_way = JoinSet::new();
    for (number, (line, tally)) in lines.into_iter().zip(&tallies).enumerate() {
        under_way.spawn(Arc::clone(&run).connection(number, line, Arc::clone(tally)));
    }
    let watching = tokio::spawn(Progress::new(output, load.duration).follow(begin, tallies.clone()));
    while under_way.join_next().await.is_some() {}
    let elapsed = begin.elapsed();
    // It clears what it has drawn, or has panicked, which is nothing to the result.
    let _ = watching.await;

    let mut counts = Counts::new().map_err(|error| cannot(&error))?;
    for tally in &tallies {
        counts.add(&tally.counts());
    }
    let planned = run.pace.as_ref().map_or(0, |pace| pace.count(load.duration));
    let unsent = planned.saturating_sub(counts.latencies.len() + counts.wrong);
    Ok(Outcome { counts, elapsed, unsent })
}

impl Run {
    /// Keeps a connection busy, and makes it again where it ends before the time is over.
    async fn connection(self: Arc<Self>, number: usize, mut line: Connection, tally: Arc<Tally>) {
        loop {
            let mut lines = JoinSet::new();
            if let Some(streams) = self.load.streams {
                for _ in 0..streams {
                    lines.spawn(Arc::clone(&self).converse(number, line.clone(), Arc::clone(&tally)));
                }
            } else {
                for _ in 0..self.load.concurrency {
                    lines.spawn(Arc::clone(&self).ask(number, line.clone(), Arc::clone(&tally)));
                }
            }
            let all = async { while lines.join_next().await.is_some() {} };
            if timeout_at((self.until + TIMEOUT).into(), all).await.is_err() {
                // Each waits for one answer, or for more.
                tally.wrongs(lines.len() as u64, format!("no answer within {TIMEOUT:?}"));
                return;
            }
            line = loop {
                if Instant::now() + RECONNECT_PAUSE >= self.until {
                    return;
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
                match self.load.way.connect().await {
                    Ok(line) => break line,
                    Err(error) => tally.wrong(format!("cannot connect again: {error}")),
                }
            };
        }
    }

    /// One call after the other.
    async fn ask(self: Arc<Self>, connection: usize, mut line: Connection, tally: Arc<Tally>) {
        while let Some(begun) = self.turn(connection).await {
            let number = self.next.fetch_add(1, Ordering::Relaxed) % self.load.asks.len();
            let ask = &self.load.asks[number];
            match line.call(&ask.message).await {
                Ok(answer) => {
                    let latency = begun.elapsed();
                    match ask.check(&answer) {
                        Ok(()) => tally.right(latency),
                        Err(complaint) => tally.wrong(complaint),
                    }
                }
                Err(CallError::Refused(complaint)) => tally.wrong(complaint),
                Err(CallError::Broken(complaint)) => return tally.wrong(complaint),
                Err(CallError::Retired) => return,
            }
        }
    }

    /// Waits until a call is to be made: from when its latency counts.
    async fn turn(&self, connection: usize) -> Option<Instant> {
        let now = Instant::now();
        if now >= self.until {
            return None;
        }
        match &self.pace {
            None => Some(now),
            Some(pace) => pace.turn(connection).await,
        }
    }
}
