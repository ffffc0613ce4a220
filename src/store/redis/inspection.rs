//! Asks the servers of a topology about themselves, for `latchkey doctor`. Only reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use redis::{
    ErrorKind, FromRedisValue, ProtocolVersion, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};

use super::{
    cluster, connect,
    layout::Layout,
    sentinel,
    settings::{Peer, RedisSettings},
    url::{Endpoint, Servers},
};
use crate::{
    domain::{ports::Clock as _, types::Timestamp},
    store::clock::SystemClock,
};

const CONFIGURATION: [&str; 2] = ["save", "appendfsync"];

/// What the servers of a store say.
pub struct Inspection {
    /// The primaries, each with its address.
    pub primaries: Vec<(String, Result<ServerFacts, InspectionError>)>,
    /// Sentinels or nodes of a cluster that do not answer, and contradictions between them.
    pub problems: Vec<String>,
    /// Whether Sentinels or a cluster promote a replica if a primary fails.
    pub has_failover: bool,
}

/// What a server says about itself. A fact is `None` if the user may not ask for it.
pub struct ServerFacts {
    /// The fields of `INFO`.
    pub info: Option<BTreeMap<String, String>>,
    /// The settings `save` and `appendfsync`.
    pub configuration: Option<BTreeMap<String, String>>,
    /// The number of buckets that the store was made with; 0 without a record.
    pub buckets: Option<u16>,
    /// The clock of the server, and that of this machine at about the same time.
    pub clocks: Option<(Timestamp, Timestamp)>,
}

/// Why a server could not be examined.
pub struct InspectionError {
    cause: String,
    /// Whether it did not answer, so that trying again later can help.
    pub is_outage: bool,
}

impl fmt::Display for InspectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl From<RedisError> for InspectionError {
    fn from(error: RedisError) -> Self {
        let is_loading = error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading);
        Self { cause: error.to_string(), is_outage: is_loading || error.is_io_error() || error.is_timeout() }
    }
}

impl From<String> for InspectionError {
    fn from(cause: String) -> Self {
        Self { cause, is_outage: false }
    }
}

/// Asks all primaries of these settings.
pub async fn inspect(settings: &RedisSettings, prefix: &str) -> Result<Inspection, String> {
    settings.check()?;
    let layout = Layout::new(prefix, settings.buckets);
    let mut problems = Vec::new();
    let servers = settings.parse_url()?.servers;
    let is_cluster = matches!(servers, Servers::Cluster { .. });
    let has_failover = !matches!(servers, Servers::Single(_));
    let endpoints = match servers {
        Servers::Single(endpoint) => vec![endpoint],
        Servers::Sentinel { sentinels, master } => {
            named_by_sentinels(settings, &sentinels, &master, &mut problems).await.into_iter().collect()
        }
        Servers::Cluster { seeds } => {
            named_by_cluster(settings, &seeds, &layout.hash_slots(), &mut problems).await
        }
    };
    let mut primaries = Vec::new();
    for endpoint in endpoints {
        let facts = facts(settings, &endpoint, &layout.buckets_key()).await;
        // In a cluster only one primary has the record, and the others redirect.
        let facts = facts.map(|facts| match facts.buckets {
            Some(0) if is_cluster => ServerFacts { buckets: None, ..facts },
            _ => facts,
        });
        primaries.push((endpoint.to_string(), facts));
    }
    Ok(Inspection { primaries, problems, has_failover })
}

async fn named_by_sentinels(
    settings: &RedisSettings,
    sentinels: &[Endpoint],
    master: &str,
    problems: &mut Vec<String>,
) -> Option<Endpoint> {
    let mut named = BTreeSet::new();
    let mut answers = 0;
    for sentinel in sentinels {
        let asked = async {
            let mut connection = open(settings, sentinel, Peer::Sentinel).await?;
            let primary = sentinel::primary(sentinel, master, &mut connection).await?;
            Ok::<_, InspectionError>((primary, sentinel::known_sentinels(master, &mut connection).await))
        };
        match asked.await {
            Ok((primary, known)) => {
                answers += 1;
                named.insert(primary);
                if known > sentinels.len() {
                    problems.push(format!(
                        "the Sentinel {sentinel} knows of {known} Sentinels, and sessions.url lists {}",
                        sentinels.len()
                    ));
                }
            }
            Err(error) => problems.push(format!("the Sentinel {sentinel} names no primary: {error}")),
        }
    }
    if answers * 2 <= sentinels.len() {
        problems.push(format!(
            "only {answers} of {} Sentinels name a primary, which is no majority",
            sentinels.len()
        ));
    }
    if named.len() > 1 {
        let named: Vec<_> = named.iter().map(ToString::to_string).collect();
        problems.push(format!("the Sentinels name different primaries: {}", named.join(", ")));
    }
    named.pop_first()
}

async fn named_by_cluster(
    settings: &RedisSettings,
    seeds: &[Endpoint],
    hash_slots: &[u16],
    problems: &mut Vec<String>,
) -> Vec<Endpoint> {
    for seed in seeds {
        let asked = async {
            let mut connection = open(settings, seed, Peer::DataNode).await?;
            Ok::<_, InspectionError>(cluster::primaries(seed, &mut connection, hash_slots).await?)
        };
        match asked.await {
            Ok((primaries, uncovered)) => {
                if uncovered > 0 {
                    problems.push(format!("{uncovered} of {} buckets have no primary", hash_slots.len()));
                }
                return primaries;
            }
            Err(error) => problems.push(format!("the cluster node {seed} names no primaries: {error}")),
        }
    }
    Vec::new()
}

async fn facts(
    settings: &RedisSettings,
    endpoint: &Endpoint,
    buckets_key: &str,
) -> Result<ServerFacts, InspectionError> {
    let mut connection = open(settings, endpoint, Peer::DataNode).await?;
    connect::RoleCheck::detect(&mut connection).await?;
    // A server that is still loading its data answers nothing else.
    let _: Value = redis::cmd("PING").query_async(&mut connection).await?;
    let info: Option<String> = ask(&mut connection, &redis::cmd("INFO")).await?;
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg(&CONFIGURATION[..]);
    let configuration = ask(&mut connection, &get).await?;
    let mut record = redis::cmd("GET");
    let buckets: Option<Option<u16>> = ask(&mut connection, record.arg(buckets_key)).await?;
    let asked = Instant::now();
    let before = SystemClock.now();
    let time: Option<(u64, u64)> = ask(&mut connection, &redis::cmd("TIME")).await?;
    let local = before.after(asked.elapsed() / 2);
    let clocks = time.map(|(seconds, micros)| {
        (Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros)), local)
    });
    let info = info.map(|text| {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    });
    Ok(ServerFacts { info, configuration, buckets: buckets.map(Option::unwrap_or_default), clocks })
}

/// Returns `None` if the user may not send the command, or the service has renamed or removed it.
async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
) -> Result<Option<T>, InspectionError> {
    match command.query_async(connection).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_io_error() || error.is_timeout() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

async fn open(
    settings: &RedisSettings,
    endpoint: &Endpoint,
    peer: Peer,
) -> Result<MultiplexedConnection, InspectionError> {
    let client = settings.client(endpoint, peer, ProtocolVersion::RESP2)?;
    let response_timeout = settings.response_timeout.max(Duration::from_secs(1));
    Ok(connect::open(&client, settings.connect_timeout, response_timeout, None).await?)
}
