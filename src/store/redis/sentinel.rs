//! Finds the primary through Sentinels: a majority of them has to name it (see `agreement`).
//!
//! A Sentinel that does not run takes part in no failover. If so few run that no failover is possible, the primary
//! stays the one that is known for as long as those that do run confirm it. A Sentinel that does not answer, or cannot
//! be reached, may take part: then a majority of the others is needed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{
    agreement::{Agreement, Ballot, NodeNumber},
    settings::{Peer, RedisSettings},
    topology::{Nodes, Route, Routes},
    url::Endpoint,
    voters::{Answer, Question, Report, Voter},
};

/// How often the votes are counted.
const TICK: Duration = Duration::from_millis(100);

/// Keeps the primary that Sentinels name.
pub(super) struct SentinelWatch {
    settings: Arc<RedisSettings>,
    sentinels: Vec<Endpoint>,
    question: MasterQuestion,
    routes: Arc<Routes>,
    nodes: Arc<Nodes>,
    refresh: Arc<Notify>,
}

/// Asks a Sentinel for the address of the primary.
#[derive(Clone)]
struct MasterQuestion {
    /// The name of the monitored primary.
    name: Arc<str>,
    /// The number of Sentinels in the URL.
    listed: usize,
    has_warned: Arc<AtomicBool>,
}

impl Question for MasterQuestion {
    type Vote = Endpoint;
    const PEER: Peer = Peer::Sentinel;

    async fn greet(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        // Its messages only cause a question, so that a failover is noticed at once.
        connection.subscribe("+switch-master").await?;
        let known = known_sentinels(&self.name, connection).await;
        if known > self.listed && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                sentinels.known = known,
                sentinels.listed = self.listed,
                "Sentinels know of others that sessions.url does not list: list all of them, because a majority of \
                 those listed is believed"
            );
        }
        Ok(())
    }

    async fn ask(
        &self,
        voter: &Endpoint,
        connection: &mut MultiplexedConnection,
    ) -> Result<Endpoint, String> {
        primary(voter, &self.name, connection).await
    }
}

/// Asks a Sentinel for the address of the primary.
pub(super) async fn primary(
    sentinel: &Endpoint,
    name: &str,
    connection: &mut MultiplexedConnection,
) -> Result<Endpoint, String> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let address: Option<(String, u16)> =
        command.query_async(connection).await.map_err(|error| error.to_string())?;
    let (host, port) = address.ok_or_else(|| format!("it monitors no master with the name {name:?}"))?;
    Ok(sentinel.with_host(&host, port))
}

/// Asks a Sentinel how many Sentinels it knows, itself included. Returns 0 if it does not tell.
pub(super) async fn known_sentinels(name: &str, connection: &mut MultiplexedConnection) -> usize {
    let mut command = redis::cmd("SENTINEL");
    let others: Result<Vec<Value>, RedisError> =
        command.arg("SENTINELS").arg(name).query_async(connection).await;
    others.map_or(0, |others| others.len() + 1)
}

/// What one Sentinel has said.
#[derive(Default)]
struct Said {
    /// The latest vote and when it was asked for.
    vote: Option<(Endpoint, Instant)>,
    /// When the connection was refused, if that came after the latest vote.
    not_running: Option<Instant>,
    error: Option<String>,
}

impl SentinelWatch {
    pub(super) fn new(
        settings: Arc<RedisSettings>,
        sentinels: Vec<Endpoint>,
        master: String,
        routes: Arc<Routes>,
        nodes: Arc<Nodes>,
        refresh: Arc<Notify>,
    ) -> Self {
        let question =
            MasterQuestion { name: master.into(), listed: sentinels.len(), has_warned: Arc::default() };
        Self { settings, sentinels, question, routes, nodes, refresh }
    }

    /// Never returns.
    pub(super) async fn run(&self) {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let start = |sentinel: &Endpoint| {
            let settings = Arc::clone(&self.settings);
            Voter::start(sentinel.clone(), self.question.clone(), settings, sender.clone())
        };
        let voters: Vec<_> = self.sentinels.iter().map(start).collect();
        let mut said: HashMap<Endpoint, Said> =
            self.sentinels.iter().map(|sentinel| (sentinel.clone(), Said::default())).collect();
        let mut primaries = Vec::new();
        let mut agreement = Agreement::new(1);
        loop {
            tokio::select! {
                report = timeout(TICK, reports.recv()) => {
                    if let Ok(Some(report)) = report {
                        note(&mut said, report);
                    }
                }
                () = self.refresh.notified() => voters.iter().for_each(Voter::wake),
            }
            while let Ok(report) = reports.try_recv() {
                note(&mut said, report);
            }
            count(&said, &mut primaries, &mut agreement);
            self.publish(&said, &primaries, &agreement);
        }
    }

    fn publish(&self, said: &HashMap<Endpoint, Said>, primaries: &[Endpoint], agreement: &Agreement) {
        let now = Instant::now();
        let agreed = agreement.shards()[0];
        let endpoint = agreed.and_then(|agreed| primaries.get(agreed.node as usize));
        let table = self.routes.table();
        let previous = table.first().and_then(|route| route.node.as_ref());
        let node = match (endpoint, previous) {
            (Some(endpoint), Some(node)) if node.endpoint == *endpoint => Some(Arc::clone(node)),
            (Some(endpoint), _) => {
                tracing::info!(redis.address = %endpoint, "the Sentinels name this primary");
                Some(self.nodes.node(endpoint))
            }
            (None, _) => None,
        };
        if !agreed.is_some_and(|agreed| agreed.is_usable(now)) {
            self.routes.set_problem(&problem(said, &self.question.name));
        }
        self.routes.set(vec![Route { node, agreed, index: 0 }]);
    }
}

/// Counts the latest votes.
fn count(said: &HashMap<Endpoint, Said>, primaries: &mut Vec<Endpoint>, agreement: &mut Agreement) {
    let majority = said.len() / 2 + 1;
    let running = said.values().filter(|said| said.not_running.is_none()).count();
    let known = agreement.shards()[0].map(|agreed| agreed.node);
    let mut number = |endpoint: &Endpoint| -> NodeNumber {
        let position = primaries.iter().position(|known| known == endpoint).unwrap_or_else(|| {
            primaries.push(endpoint.clone());
            primaries.len() - 1
        });
        NodeNumber::try_from(position).unwrap_or(NodeNumber::MAX)
    };
    let ballot = |primary, asked_at| Ballot { voter: None, counts: true, asked_at, primaries: vec![primary] };
    let votes = said.values().filter_map(|said| match said.not_running {
        None => said.vote.as_ref().map(|(primary, asked_at)| ballot(Some(number(primary)), *asked_at)),
        Some(asked_at) if running < majority => Some(ballot(known, asked_at)),
        Some(_) => None,
    });
    let ballots: Vec<_> = votes.collect();
    // If no failover is possible, those that run have to confirm what is known, all of them.
    let needed = if running < majority { said.len() } else { majority };
    agreement.count(&ballots, needed, Instant::now());
}

fn note(said: &mut HashMap<Endpoint, Said>, report: Report<Endpoint>) {
    let said = said.entry(report.voter).or_default();
    match report.answer {
        Answer::Vote(primary) => {
            *said = Said { vote: Some((primary, report.asked_at)), not_running: None, error: None };
        }
        Answer::NotRunning => {
            said.not_running = Some(report.asked_at);
            said.error = Some("connection refused".to_owned());
        }
        Answer::Failed(cause) => {
            said.not_running = None;
            said.error = Some(cause);
        }
    }
}

/// Says why there is no primary that may be used.
fn problem(said: &HashMap<Endpoint, Said>, name: &str) -> String {
    let errors =
        said.iter().filter_map(|(sentinel, said)| Some(format!("{sentinel}: {}", said.error.as_ref()?)));
    let mut errors: Vec<_> = errors.collect();
    errors.sort_unstable();
    if errors.is_empty() {
        format!("the {} Sentinels have not agreed on {name} for long enough", said.len())
    } else {
        let running = said.len() - errors.len();
        format!("{running} of {} Sentinels answer ({})", said.len(), errors.join(", "))
    }
}
