//! Follows the event log of one primary, on a connection of its own, because a blocked connection serves nobody else.
//!
//! One `XREAD BLOCK` waits on the streams of all buckets. Its response is only a hint: the streams that it names are
//! then read by `tail.lua`, which detects gaps. XREAD does not report that a stream was lost, because it simply waits
//! for an entry beyond the end of the new stream; so a full pass reads all streams once per `patience`.
//!
//! A blocked XREAD says nothing until it returns. Where the caller wants to know how current its position is, another
//! XREAD asks at short intervals whether there are events, without waiting and on the connection for requests. A shorter
//! BLOCK would not do: an idle Redis notices the end of one only at its next timer, up to 100 ms later.
//!
//! A cluster allows no XREAD over several hash slots; see `announcements`.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{Cmd, Pipeline, Value, streams::StreamReadReply};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    connection::{Failure, SupervisedConnection},
    corrupt,
    cursor::StreamCursor,
    event_streams::{EventStreams, Runner},
    layout::Layout,
    script_call::ScriptCall,
    topology::{Node, Topology},
};
use crate::{
    domain::ports::{Cursor, Quiet, StoreError},
    store::backend::EncodedTail,
};

/// The longest wait of one XREAD. The health checks of the supervisor queue behind it on the same connection.
pub(super) const MAX_BLOCK: Duration = Duration::from_millis(500);

/// An XREAD costs Redis about a quarter of a microsecond for each stream, and a busy log would cause one for each event.
/// So one follows another only after this time for each stream, and reads what has come meanwhile. 64 streams need no
/// pause; with 4096 an event waits for up to 16 ms.
const PACE_PER_STREAM: Duration = Duration::from_micros(4);

/// How often a caller learns that there is no event.
pub(super) const QUIET_INTERVAL: Duration = Duration::from_millis(100);

/// Shorter pauses are not worth a timer.
const MIN_PACE: Duration = Duration::from_millis(1);

/// Returns the shortest time from one XREAD to the next.
pub(super) fn pace(streams: u16) -> Duration {
    let pace = PACE_PER_STREAM * u32::from(streams);
    if pace < MIN_PACE { Duration::ZERO } else { pace }
}

/// Follows the log for the one reader of this process.
#[derive(Default)]
pub(super) struct Follower {
    /// A second reader waits for the first, as it would behind it on the connection.
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// The primary that was read from.
    node: Option<Arc<Node>>,
    /// The start of the last full pass; `None` if one is due.
    last_full_pass: Option<Instant>,
    /// The end of the last XREAD that found events.
    last_events: Option<Instant>,
    /// The start of the last request that asked whether there are events.
    last_check: Option<Instant>,
}

/// How a caller waits for events.
#[derive(Clone, Copy)]
pub(super) struct Wait<'a> {
    /// The number of events that are enough, approximately.
    pub(super) limit: usize,
    pub(super) patience: Duration,
    /// See `EventLog::follow_closely`.
    pub(super) quiet: Option<&'a Quiet<'a>>,
}

impl Wait<'_> {
    pub(super) fn report_quiet(self, at: Instant) {
        if let Some(quiet) = self.quiet {
            quiet(at);
        }
    }
}

/// Reads over the connection for events.
struct Blocking<'a> {
    topology: &'a Topology,
    node: &'a Node,
    connection: &'a SupervisedConnection,
}

impl Runner for Blocking<'_> {
    async fn run(&self, _: u16, call: &ScriptCall<'_>) -> Result<Value, StoreError> {
        // The lease of the primary may have ended meanwhile.
        self.topology.primary(0)?;
        let response = self.connection.run_script(call, false, |_| true).await;
        response.map_err(|failure| failure.into_store_error(&self.node.endpoint))
    }
}

impl Follower {
    /// See `EventLog::follow`. If it is cancelled, the server may stay blocked for up to [`MAX_BLOCK`], and the next
    /// call waits behind it; an event wakes both.
    pub(super) async fn follow(
        &self,
        topology: &Topology,
        streams: &EventStreams,
        layout: &Layout,
        after: &Cursor,
        wait: Wait<'_>,
    ) -> Result<EncodedTail, StoreError> {
        let start = Instant::now();
        let mut progress = self.progress.lock().await;
        let node = topology.primary(0)?;
        if !progress.node.as_ref().is_some_and(|known| Arc::ptr_eq(known, &node)) {
            *progress = Progress { node: Some(Arc::clone(&node)), ..Progress::default() };
        }
        let connection = topology.events(&node, || None);
        // A reader that waits for events can wait for a new connection as well. If there is none after `patience`,
        // the first command fails.
        let _ = timeout(wait.patience, connection.first_attempt()).await;
        let reader = Blocking { topology, node: &node, connection };
        let tail = reader.follow(&mut progress, streams, layout, after, wait, start).await;
        if tail.is_err() {
            // The next connection may lead to another server, with another log.
            progress.last_full_pass = None;
        }
        tail
    }
}

impl Blocking<'_> {
    async fn follow(
        &self,
        progress: &mut Progress,
        streams: &EventStreams,
        layout: &Layout,
        after: &Cursor,
        caller: Wait<'_>,
        start: Instant,
    ) -> Result<EncodedTail, StoreError> {
        let Wait { limit, patience, .. } = caller;
        let Some(mut cursor) = StreamCursor::parse(after, layout.buckets()) else {
            return streams.tail(self, layout, Some(after), limit).await;
        };
        // The limit allows at least one event per stream, so that a full pass reaches every stream.
        let limit = limit.max(usize::from(layout.buckets()));
        loop {
            let remaining = patience.saturating_sub(start.elapsed());
            let until_full_pass =
                progress.last_full_pass.map_or(Duration::ZERO, |at| patience.saturating_sub(at.elapsed()));
            let wait = remaining.min(until_full_pass).min(MAX_BLOCK);
            let read = if wait.is_zero() {
                let now = Instant::now();
                let read = streams.read(self, layout, &mut cursor, 0..layout.buckets(), limit).await;
                progress.last_full_pass = Some(now);
                if read.is_quiet() {
                    caller.report_quiet(now);
                }
                read
            } else {
                if let Some(last_events) = progress.last_events.take() {
                    sleep(pace(layout.buckets()).saturating_sub(last_events.elapsed())).await;
                }
                let waiting = self.wait_for_events(layout, &cursor, wait);
                let buckets = if caller.quiet.is_none() {
                    waiting.await?
                } else {
                    tokio::select! {
                        buckets = waiting => buckets?,
                        never = self.check_quiet(&mut progress.last_check, layout, &cursor, caller) => match never {},
                    }
                };
                progress.last_events = (!buckets.is_empty()).then(Instant::now);
                streams.read(self, layout, &mut cursor, buckets, limit).await
            };
            if let Some((_, error)) = read.failed.into_iter().next() {
                return Err(error);
            }
            if read.gap || !read.events.is_empty() || remaining.is_zero() {
                return Ok(EncodedTail {
                    events: read.events,
                    next: cursor.encode(),
                    gap: read.gap,
                    complete: read.unread.is_empty(),
                });
            }
        }
    }

    /// Waits until a stream has entries after the cursor or the time is over. Returns the buckets of these streams.
    async fn wait_for_events(
        &self,
        layout: &Layout,
        cursor: &StreamCursor,
        wait: Duration,
    ) -> Result<Vec<u16>, StoreError> {
        self.topology.primary(0)?;
        // Rounded up, because BLOCK 0 waits for ever.
        let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let command = xread(layout, cursor, Some(millis));
        let response = self.connection.read(&command, |_| true).await;
        let response = response.map_err(|failure| failure.into_store_error(&self.node.endpoint))?;
        let response: Option<StreamReadReply> =
            redis::from_redis_value(response).map_err(|error| corrupt(&error.to_string()))?;
        let ready = response.map_or_else(Vec::new, |response| response.keys);
        Ok(ready.iter().filter_map(|stream| layout.bucket_of_stream(&stream.key)).collect())
    }

    /// Reports at intervals that no stream has entries after the cursor. Never returns.
    async fn check_quiet(
        &self,
        last_check: &mut Option<Instant>,
        layout: &Layout,
        cursor: &StreamCursor,
        caller: Wait<'_>,
    ) -> Infallible {
        let pause = |last_check: Option<Instant>| {
            sleep(last_check.map_or(Duration::ZERO, |at| QUIET_INTERVAL.saturating_sub(at.elapsed())))
        };
        pause(*last_check).await;
        let command = xread(layout, cursor, None);
        loop {
            let asked_at = Instant::now();
            *last_check = Some(asked_at);
            // After an error the caller's knowledge ages, and `follow` reports what is wrong.
            if self.is_quiet(&command).await.unwrap_or(false) {
                caller.report_quiet(asked_at);
            }
            pause(*last_check).await;
        }
    }

    /// Whether this XREAD finds no entries on a server that is the primary.
    async fn is_quiet(&self, command: &Cmd) -> Result<bool, Failure> {
        self.topology.primary(0)?;
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(command.clone());
        // Nil could be the response to another command, so the connection is verified after it.
        let responses = self.node.requests.read_many(pipeline, true, |_| false).await?;
        Ok(matches!(responses[..], [Ok(Value::Nil)]))
    }
}

/// An XREAD for entries after the cursor, which waits for this long or not at all.
fn xread(layout: &Layout, cursor: &StreamCursor, block_millis: Option<u64>) -> Cmd {
    let mut command = redis::cmd("XREAD");
    if let Some(millis) = block_millis {
        command.arg("BLOCK").arg(millis);
    }
    command.arg("COUNT").arg(1).arg("STREAMS").arg(layout.stream_keys()).arg(cursor.ids());
    command
}
