//! Finds the primaries of a cluster: a majority of its masters has to name the primary of a hash slot (see
//! `agreement`).
//!
//! The masters are found through the nodes in the URL, and then through each other.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{
    agreement::{Agreement, Ballot, LEASE, NodeNumber},
    settings::{Peer, RedisSettings},
    topology::{Node, Nodes, Route, Routes},
    url::Endpoint,
    voters::{Answer, Question, Report, Voter},
};

/// How often the votes are counted if nothing has changed.
const TICK: Duration = Duration::from_millis(100);

/// How long a node is still asked after it has lost its last hash slot.
const KEEP_ASKING: Duration = Duration::from_secs(5);

/// Keeps the primaries of the hash slots.
pub(super) struct ClusterWatch {
    settings: Arc<RedisSettings>,
    seeds: Vec<Endpoint>,
    question: SlotsQuestion,
    routes: Arc<Routes>,
    nodes: Arc<Nodes>,
    refresh: Arc<Notify>,
}

/// Asks a node for the primaries of hash slots.
#[derive(Clone)]
struct SlotsQuestion {
    /// The hash slot of each bucket.
    hash_slots: Arc<[u16]>,
}

/// A master with hash slots. A node that restarts at another address is another master.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Master {
    id: String,
    endpoint: Endpoint,
}

/// A node says this about the cluster.
#[derive(Debug, PartialEq, Eq)]
struct View {
    /// The id of the node.
    id: String,
    masters: Vec<Master>,
    /// The index of the master of each bucket.
    by_bucket: Vec<Option<usize>>,
}

impl Question for SlotsQuestion {
    type Vote = View;
    const PEER: Peer = Peer::DataNode;

    async fn greet(&self, _: &mut MultiplexedConnection) -> Result<(), RedisError> {
        Ok(())
    }

    async fn ask(&self, voter: &Endpoint, connection: &mut MultiplexedConnection) -> Result<View, String> {
        View::ask(voter, connection, &self.hash_slots).await
    }
}

/// Asks a node for the primaries of the cluster, and for how many of these hash slots there is none.
pub(super) async fn primaries(
    node: &Endpoint,
    connection: &mut MultiplexedConnection,
    hash_slots: &[u16],
) -> Result<(Vec<Endpoint>, usize), String> {
    let view = View::ask(node, connection, hash_slots).await?;
    let uncovered = view.by_bucket.iter().filter(|primary| primary.is_none()).count();
    Ok((view.masters.into_iter().map(|master| master.endpoint).collect(), uncovered))
}

impl View {
    async fn ask(
        voter: &Endpoint,
        connection: &mut MultiplexedConnection,
        hash_slots: &[u16],
    ) -> Result<Self, String> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("CLUSTER").arg("MYID").cmd("CLUSTER").arg("SLOTS");
        let (id, ranges): (String, Vec<Value>) =
            pipeline.query_async(connection).await.map_err(|error| error.to_string())?;
        Self::parse(voter, id, ranges, hash_slots)
            .ok_or_else(|| "unexpected response to CLUSTER SLOTS".to_owned())
    }

    /// Parses the response to `CLUSTER SLOTS`: ranges of hash slots, each with its primary first.
    fn parse(voter: &Endpoint, id: String, ranges: Vec<Value>, hash_slots: &[u16]) -> Option<Self> {
        let mut view = Self { id, masters: Vec::new(), by_bucket: vec![None; hash_slots.len()] };
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let mut parts = range.into_iter();
            let first: u16 = redis::from_redis_value(parts.next()?).ok()?;
            let last: u16 = redis::from_redis_value(parts.next()?).ok()?;
            let Some(Value::Array(node)) = parts.next() else { return None };
            let mut node = node.into_iter();
            let host: Option<String> = redis::from_redis_value(node.next()?).ok()?;
            let port = redis::from_redis_value(node.next()?).ok()?;
            let endpoint = voter.with_host(host.as_deref().unwrap_or_default(), port);
            let master = Master { id: redis::from_redis_value(node.next()?).ok()?, endpoint };
            let index = view.masters.iter().position(|known| *known == master).unwrap_or_else(|| {
                view.masters.push(master);
                view.masters.len() - 1
            });
            for (bucket, hash_slot) in hash_slots.iter().enumerate() {
                if (first..=last).contains(hash_slot) {
                    view.by_bucket[bucket] = Some(index);
                }
            }
        }
        Some(view)
    }
}

/// This is known of the cluster.
struct Known {
    voters: HashMap<Endpoint, (Voter, Instant)>,
    /// The latest view of each node that was asked.
    views: HashMap<Endpoint, (View, Instant)>,
    errors: HashMap<Endpoint, String>,
    /// All masters so far; their positions are the numbers in the agreement.
    masters: Vec<Master>,
    agreement: Agreement,
    /// The nodes that have buckets.
    nodes: HashMap<NodeNumber, Arc<Node>>,
}

impl Known {
    /// Takes note of a report. Returns whether it says something new.
    fn note(&mut self, report: Report<View>) -> bool {
        match report.answer {
            Answer::Vote(view) => {
                self.errors.remove(&report.voter);
                let previous = self.views.insert(report.voter.clone(), (view, report.asked_at));
                previous.is_none_or(|(previous, _)| previous != self.views[&report.voter].0)
            }
            Answer::NotRunning => {
                self.errors.insert(report.voter, "connection refused".to_owned());
                false
            }
            Answer::Failed(cause) => {
                self.errors.insert(report.voter, cause);
                false
            }
        }
    }

    fn count(&mut self, now: Instant) {
        self.views.retain(|_, (_, asked_at)| *asked_at + LEASE > now);
        // Two endpoints may be the same node.
        let mut views: Vec<_> = self.views.values().collect();
        views.sort_unstable_by_key(|(_, asked_at)| *asked_at);
        let by_id: HashMap<&str, &(View, Instant)> =
            views.into_iter().map(|view| (view.0.id.as_str(), view)).collect();
        let electorate: BTreeSet<&str> = by_id
            .values()
            .flat_map(|(view, _)| view.masters.iter().map(|master| master.id.as_str()))
            .collect();
        let needed = electorate.len() / 2 + 1;
        let masters = &mut self.masters;
        let mut ballots = Vec::with_capacity(by_id.len());
        for (view, asked_at) in by_id.values() {
            let numbers: Vec<_> = view.masters.iter().map(|master| number(masters, master)).collect();
            let primaries = view.by_bucket.iter().map(|index| index.map(|index| numbers[index])).collect();
            let counts = electorate.contains(view.id.as_str());
            ballots.push((view.id.as_str(), Ballot { voter: None, counts, asked_at: *asked_at, primaries }));
        }
        // All masters have a number now.
        let ballots: Vec<_> = ballots
            .into_iter()
            .map(|(id, ballot)| {
                let voter = masters.iter().rposition(|master| master.id == id);
                Ballot { voter: voter.and_then(|position| NodeNumber::try_from(position).ok()), ..ballot }
            })
            .collect();
        self.agreement.count(&ballots, needed, now);
    }
}

/// Returns the number of a master, which is its position.
fn number(masters: &mut Vec<Master>, master: &Master) -> NodeNumber {
    let position = masters.iter().position(|known| known == master).unwrap_or_else(|| {
        masters.push(master.clone());
        masters.len() - 1
    });
    NodeNumber::try_from(position).unwrap_or(NodeNumber::MAX)
}

impl ClusterWatch {
    pub(super) fn new(
        settings: Arc<RedisSettings>,
        seeds: Vec<Endpoint>,
        hash_slots: Vec<u16>,
        routes: Arc<Routes>,
        nodes: Arc<Nodes>,
        refresh: Arc<Notify>,
    ) -> Self {
        let question = SlotsQuestion { hash_slots: hash_slots.into() };
        Self { settings, seeds, question, routes, nodes, refresh }
    }

    /// Never returns.
    pub(super) async fn run(&self) {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let mut known = Known {
            voters: HashMap::new(),
            views: HashMap::new(),
            errors: HashMap::new(),
            masters: Vec::new(),
            agreement: Agreement::new(self.question.hash_slots.len()),
            nodes: HashMap::new(),
        };
        loop {
            self.choose_voters(&mut known, &sender);
            let tick = Instant::now() + TICK;
            loop {
                tokio::select! {
                    report = timeout(tick.saturating_duration_since(Instant::now()), reports.recv()) => match report {
                        Ok(Some(report)) => if known.note(report) { break },
                        Ok(None) | Err(_) => break,
                    },
                    () = self.refresh.notified() => known.voters.values().for_each(|(voter, _)| voter.wake()),
                }
            }
            while let Ok(report) = reports.try_recv() {
                known.note(report);
            }
            let now = Instant::now();
            known.count(now);
            self.publish(&mut known, now);
        }
    }

    /// Asks all masters, and the nodes in the URL while no masters are known.
    fn choose_voters(&self, known: &mut Known, reports: &mpsc::UnboundedSender<Report<View>>) {
        let now = Instant::now();
        let masters = known.views.values().flat_map(|(view, _)| &view.masters);
        let mut wanted: BTreeSet<Endpoint> = masters.map(|master| master.endpoint.clone()).collect();
        if known.agreement.has_forgotten_all(now) {
            wanted.extend(self.seeds.iter().cloned());
        }
        for endpoint in wanted {
            let voter = known.voters.entry(endpoint.clone()).or_insert_with(|| {
                let settings = Arc::clone(&self.settings);
                (Voter::start(endpoint, self.question.clone(), settings, reports.clone()), now)
            });
            voter.1 = now;
        }
        known.voters.retain(|_, (_, wanted_at)| now < *wanted_at + KEEP_ASKING);
        known.errors.retain(|endpoint, _| known.voters.contains_key(endpoint));
    }

    fn publish(&self, known: &mut Known, now: Instant) {
        let previous = self.routes.table();
        let mut indices: Vec<NodeNumber> = Vec::new();
        let mut table = Vec::with_capacity(known.agreement.shards().len());
        let mut usable = 0;
        for (bucket, agreed) in known.agreement.shards().iter().enumerate() {
            let Some(agreed) = *agreed else {
                table.push(Route::default());
                continue;
            };
            usable += usize::from(agreed.is_usable(now));
            let index = indices.iter().position(|known| *known == agreed.node).unwrap_or_else(|| {
                indices.push(agreed.node);
                indices.len() - 1
            });
            let endpoint = &known.masters[agreed.node as usize].endpoint;
            let is_new = !known.nodes.contains_key(&agreed.node);
            let node = known.nodes.entry(agreed.node).or_insert_with(|| {
                tracing::info!(redis.address = %endpoint, "the cluster has this primary");
                self.nodes.node(endpoint)
            });
            // A node that takes over a bucket without a word from the previous primary may lack commits, which are
            // looked for when channels are opened.
            let before = previous.get(bucket).and_then(|route| route.node.as_ref());
            if !is_new && agreed.from > now && before.is_some_and(|before| !Arc::ptr_eq(before, node)) {
                node.requests.replace_channels_soon();
            }
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            table.push(Route { node: Some(Arc::clone(node)), agreed: Some(agreed), index });
        }
        known.nodes.retain(|number, _| indices.contains(number));
        if usable < table.len() {
            let mut errors: Vec<_> =
                known.errors.iter().map(|(endpoint, error)| format!("{endpoint}: {error}")).collect();
            errors.sort_unstable();
            self.routes.set_problem(&format!(
                "the masters of the cluster agree on the primaries of {usable} of {} buckets ({})",
                table.len(),
                if errors.is_empty() { "no errors".to_owned() } else { errors.join(", ") }
            ));
        }
        self.routes.set(table);
    }
}
