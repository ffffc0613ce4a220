//! Follows the event log of a cluster.
//!
//! A cluster allows no XREAD over several hash slots. So a commit announces its events on a sharded channel with the
//! name of their stream, and each node has a connection that subscribes to the channels of its buckets. An announcement
//! is only a hint: the stream that it names is then read by `tail.lua`, from the position of the reader, which misses
//! nothing. A stream is also read whenever its channel is subscribed to anew.
//!
//! That no announcement is under way is proven by a PING on the same connection: a server answers in order. So each
//! call ends with a PING to every node, and the tail is complete only if all have answered.
//!
//! A Redis user that may not publish announces nothing, and its events are found by a full pass once a second. So the
//! log counts as quiet only while this server, which has the same user as the others, may publish.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::{Pipeline, PushInfo, PushKind, Value};
use tokio::{
    sync::{Mutex, Notify},
    time::timeout,
};

use super::{
    NAME,
    connect::PushHandler,
    connection::{Access, State, SupervisedConnection},
    cursor::StreamCursor,
    event_streams::{EventStreams, Runner},
    follow::{QUIET_INTERVAL, Wait},
    layout::Layout,
    topology::{Node, Topology},
};
use crate::{
    domain::ports::{Cursor, StoreError},
    store::backend::EncodedTail,
};

/// The longest time without a PING, unless the caller wants to know how current its position is.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// Follows the log for the one reader of this process.
pub(super) struct AnnouncedLog {
    announced: Arc<Announced>,
    /// A second reader waits for the first.
    subscriptions: Mutex<Subscriptions>,
    layout: Arc<Layout>,
}

/// The buckets whose streams may have events that were not read.
#[derive(Default)]
struct Announced {
    buckets: StdMutex<BTreeSet<u16>>,
    arrived: Notify,
}

/// The channels that each node was subscribed to, and the connection that this holds for.
#[derive(Default)]
struct Subscriptions {
    by_node: HashMap<usize, Subscribed>,
    /// All nodes have answered a PING at this time.
    last_answer: Option<Instant>,
    last_full_pass: Option<Instant>,
}

struct Subscribed {
    node: Arc<Node>,
    /// The connection that was subscribed.
    state: Arc<State>,
    buckets: BTreeSet<u16>,
    /// Whether the latest attempt to publish has succeeded.
    may_publish: bool,
}

impl Announced {
    fn add(&self, buckets: impl IntoIterator<Item = u16>) {
        self.lock().extend(buckets);
        self.arrived.notify_one();
    }

    fn take(&self) -> BTreeSet<u16> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AnnouncedLog {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self { announced: Arc::default(), subscriptions: Mutex::default(), layout }
    }

    /// See `EventLog::follow`.
    pub(super) async fn follow(
        &self,
        topology: &Topology,
        runner: &impl Runner,
        streams: &EventStreams,
        after: &Cursor,
        caller: Wait<'_>,
    ) -> Result<EncodedTail, StoreError> {
        let Wait { limit, patience, quiet } = caller;
        let pings = if quiet.is_some() { QUIET_INTERVAL } else { HEARTBEAT };
        let start = Instant::now();
        let layout = &*self.layout;
        let buckets = layout.buckets();
        let mut subscriptions = self.subscriptions.lock().await;
        let Some(mut cursor) = StreamCursor::parse(after, buckets) else {
            return streams.tail(runner, layout, Some(after), limit).await;
        };
        let limit = limit.max(usize::from(buckets));
        loop {
            // Waits before it asks the nodes, so that an event costs one round of PINGs.
            let heartbeat = subscriptions
                .last_answer
                .map_or(Duration::ZERO, |at| pings.saturating_sub(at.elapsed()))
                .min(patience.saturating_sub(start.elapsed()));
            if !heartbeat.is_zero() && self.announced.lock().is_empty() {
                let _ = timeout(heartbeat, self.announced.arrived.notified()).await;
            }
            let remaining = patience.saturating_sub(start.elapsed());
            // An event is announced in time unless the user may not publish, so a full pass finds the others.
            if subscriptions.last_full_pass.is_none_or(|at| at.elapsed() >= patience) {
                subscriptions.last_full_pass = Some(Instant::now());
                self.announced.add(0..buckets);
            }
            let asked_at = Instant::now();
            // If this is cancelled, what was announced is lost, and the next call makes a full pass.
            let last_full_pass = subscriptions.last_full_pass.take();
            let answered =
                self.subscribe_and_ping(&mut subscriptions, topology, buckets, quiet.is_some()).await;
            subscriptions.last_answer = answered.is_ok().then_some(asked_at);
            let announced = self.announced.take();
            let read = streams.read(runner, layout, &mut cursor, announced, limit).await;
            subscriptions.last_full_pass = last_full_pass;
            let failure = answered.err().or_else(|| read.failed.first().map(|(_, error)| error.clone()));
            self.announced
                .lock()
                .extend(read.unread.iter().chain(read.failed.iter().map(|(bucket, _)| bucket)));
            let complete = failure.is_none() && read.unread.is_empty();
            let may_publish = subscriptions.by_node.values().all(|subscribed| subscribed.may_publish);
            if failure.is_none() && may_publish && read.is_quiet() {
                caller.report_quiet(asked_at);
            }
            if read.gap || !read.events.is_empty() {
                return Ok(EncodedTail {
                    events: read.events,
                    next: cursor.encode(),
                    gap: read.gap,
                    complete,
                });
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            if remaining.is_zero() {
                return Ok(EncodedTail { events: Vec::new(), next: cursor.encode(), gap: false, complete });
            }
        }
    }

    /// Subscribes to the channels of all buckets at their primaries, and waits for everything that they have announced.
    async fn subscribe_and_ping(
        &self,
        subscriptions: &mut Subscriptions,
        topology: &Topology,
        buckets: u16,
        try_to_publish: bool,
    ) -> Result<(), StoreError> {
        let nodes = topology.buckets_by_node(buckets);
        let routed: usize = nodes.iter().map(|(_, buckets)| buckets.len()).sum();
        let addresses: BTreeSet<usize> = nodes.iter().map(|(node, _)| address(node)).collect();
        subscriptions.by_node.retain(|node, _| addresses.contains(node));
        let mut known: HashMap<_, _> = std::mem::take(&mut subscriptions.by_node);
        let pings = nodes.into_iter().map(|(node, buckets)| {
            let subscribed = known.remove(&address(&node));
            self.subscribe_and_ping_node(topology, node, buckets, subscribed, try_to_publish)
        });
        let mut result = Ok(());
        for (subscribed, answered) in join_all(pings.collect::<Vec<_>>()).await {
            subscriptions.by_node.insert(address(&subscribed.node), subscribed);
            result = result.and(answered);
        }
        if routed < usize::from(buckets) {
            // The error says why there is no primary.
            result = result.and((0..buckets).try_for_each(|bucket| topology.primary(bucket).map(drop)));
        }
        result
    }

    async fn subscribe_and_ping_node(
        &self,
        topology: &Topology,
        node: Arc<Node>,
        buckets: Vec<u16>,
        subscribed: Option<Subscribed>,
        try_to_publish: bool,
    ) -> (Subscribed, Result<(), StoreError>) {
        let connection = topology.events(&node, || Some(self.push_handler()));
        // The first attempt has an end, because connecting has a time limit.
        connection.first_attempt().await;
        let state = connection.state();
        let mut subscribed = subscribed
            .filter(|subscribed| Arc::ptr_eq(&subscribed.state, &state))
            .unwrap_or_else(|| Subscribed {
                node: Arc::clone(&node),
                state: Arc::clone(&state),
                buckets: BTreeSet::new(),
                may_publish: false,
            });
        // The server has unsubscribed from buckets that have moved away.
        subscribed.buckets.retain(|bucket| buckets.binary_search(bucket).is_ok());
        let missing: Vec<u16> =
            buckets.into_iter().filter(|bucket| !subscribed.buckets.contains(bucket)).collect();
        let probe = subscribed.buckets.iter().chain(&missing).next().copied().filter(|_| try_to_publish);
        let answered = async {
            if !missing.is_empty() {
                self.subscribe(connection, &missing).await?;
                subscribed.buckets.extend(&missing);
                // Earlier announcements were missed.
                self.announced.add(missing);
            }
            if let Some(bucket) = probe {
                let mut command = redis::cmd("SPUBLISH");
                command.arg(self.layout.probe_channel(bucket)).arg("");
                subscribed.may_publish = connection.read(&command, |_| true).await.is_ok();
            }
            let ping = connection.verify_in_sync(&state, Access::Read).await;
            ping.map_err(|failure| failure.into_store_error(&node.endpoint))
        };
        let answered = answered.await;
        (subscribed, answered)
    }

    async fn subscribe(&self, connection: &SupervisedConnection, buckets: &[u16]) -> Result<(), StoreError> {
        let mut pipeline = Pipeline::with_capacity(buckets.len());
        for bucket in buckets {
            // One command for each, because the channels have different hash slots.
            pipeline.cmd("SSUBSCRIBE").arg(self.layout.stream_key(*bucket));
        }
        let endpoint = &connection.0.endpoint;
        let responses = connection.read_many(pipeline, false, |_| true).await;
        for response in responses.map_err(|failure| failure.into_store_error(endpoint))? {
            if !matches!(response, Ok(Value::Push { kind: PushKind::SSubscribe, .. })) {
                let cause = match response {
                    Err(failure) => failure.into_store_error(endpoint).to_string(),
                    Ok(_) => "unexpected response to SSUBSCRIBE".to_owned(),
                };
                return Err(StoreError::Unavailable { store: NAME, cause });
            }
        }
        Ok(())
    }

    fn push_handler(&self) -> PushHandler {
        let (announced, layout) = (Arc::clone(&self.announced), Arc::clone(&self.layout));
        Arc::new(move |push: PushInfo| {
            if push.kind == PushKind::SMessage
                && let Some(Value::BulkString(channel)) = push.data.first()
                && let Some(bucket) =
                    std::str::from_utf8(channel).ok().and_then(|channel| layout.bucket_of_stream(channel))
            {
                announced.add([bucket]);
            }
        })
    }
}

fn address(node: &Arc<Node>) -> usize {
    Arc::as_ptr(node).addr()
}
