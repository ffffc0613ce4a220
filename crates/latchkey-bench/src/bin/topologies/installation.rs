//! Redis in a topology, with Latchkey servers that share it.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    processes::{
        CHEAP_PASSWORDS, ServerProcess, built_binary, cpu_time, redis_info, serve_command, variables,
    },
    seed,
    support::{
        client::Client,
        cluster::{ClusterOptions, RedisCluster},
        redis::{Flavour, RedisServer},
        sentinel::{SentinelGroup, SentinelOptions},
    },
};
use tempfile::TempDir;
use tokio::{runtime::Handle, task::block_in_place};

/// So long that nothing fails over because the machine is busy.
const DOWN_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopologyKind {
    /// One Redis server.
    Single,
    /// A master with one replica, and three Sentinels.
    Sentinel,
    /// Three masters.
    Cluster,
}

/// Servers of Redis and of Latchkey.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) topology: TopologyKind,
    pub(crate) buckets: u16,
    /// Number of Latchkey servers.
    pub(crate) servers: usize,
}

impl Setup {
    /// Name in the tables and in the JSON.
    pub(crate) fn name(self) -> String {
        let topology = match self.topology {
            TopologyKind::Single => "one Redis server",
            TopologyKind::Sentinel => "Sentinel",
            TopologyKind::Cluster => "cluster of 3 masters",
        };
        let plural = if self.servers == 1 { "" } else { "s" };
        format!("{topology}, {} buckets, {} Latchkey server{plural}", self.buckets, self.servers)
    }
}

pub(crate) enum Redis {
    Single(RedisServer),
    Sentinel(SentinelGroup),
    Cluster(RedisCluster),
}

impl Redis {
    /// Starts the servers on the core of the servers.
    pub(crate) fn start(pinning: &CorePinning, topology: TopologyKind) -> Self {
        let start = async {
            match topology {
                TopologyKind::Single => Self::Single(RedisServer::start()),
                TopologyKind::Sentinel => {
                    let options =
                        SentinelOptions { replicas: 1, down_after: DOWN_AFTER, ..Default::default() };
                    Self::Sentinel(SentinelGroup::start(Flavour::Redis, options).await.unwrap())
                }
                TopologyKind::Cluster => {
                    let options = ClusterOptions {
                        replicas_per_master: 0,
                        node_timeout: DOWN_AFTER,
                        ..Default::default()
                    };
                    Self::Cluster(RedisCluster::start(Flavour::Redis, options).await.unwrap())
                }
            }
        };
        block_in_place(|| pinning.on_server_core(|| Handle::current().block_on(start)))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Single(server) => server.url(),
            Self::Sentinel(group) => group.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// The servers that take writes.
    pub(crate) fn primaries(&self) -> Vec<&RedisServer> {
        match self {
            Self::Single(server) => vec![server],
            Self::Sentinel(group) => vec![&group.nodes[0].server],
            Self::Cluster(cluster) => cluster.nodes.iter().map(|node| &node.server).collect(),
        }
    }
}

/// A Redis topology with Latchkey servers.
pub(crate) struct Installation {
    pub(crate) setup: Setup,
    pub(crate) servers: Vec<ServerProcess>,
    pub(crate) clients: Vec<Client>,
    pub(crate) redis: Redis,
    primary_pids: Vec<u32>,
    pub(crate) data: TempDir,
}

/// Processor seconds since the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTimes {
    /// The CPU time of all Latchkey servers.
    pub(crate) latchkey: f64,
    /// The CPU time of the last Latchkey server, which gets no requests if there are several.
    pub(crate) last_server: f64,
    /// The CPU time of all primaries.
    pub(crate) redis: f64,
}

impl CpuTimes {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            latchkey: self.latchkey - before.latchkey,
            last_server: self.last_server - before.last_server,
            redis: self.redis - before.redis,
        }
    }
}

impl Installation {
    /// Starts everything on the core of the servers, and waits until it serves.
    pub(crate) async fn start(pinning: &CorePinning, setup: Setup) -> Result<Self> {
        let redis = Redis::start(pinning, setup.topology);
        let data = tempfile::tempdir()?;
        let primary_pids = redis
            .primaries()
            .into_iter()
            .filter_map(|server| redis_info(server, "server", "process_id")?.parse().ok());
        let primary_pids = primary_pids.collect();
        let mut this = Self { setup, servers: Vec::new(), clients: Vec::new(), redis, primary_pids, data };
        for _ in 0..setup.servers {
            let server = this.start_server(pinning)?;
            let admin_key = std::fs::read_to_string(this.data.path().join("admin.key"))?;
            // The first server makes the keys, so the others start after it.
            let client = Client::connect(server.grpc, &admin_key).await;
            client.until_serving().await;
            this.servers.push(server);
            this.clients.push(client);
        }
        Ok(this)
    }

    fn start_server(&self, pinning: &CorePinning) -> Result<ServerProcess> {
        let mut command = serve_command(built_binary("latchkey")?);
        command.env("LATCHKEY_DATA_DIR", self.data.path());
        command.env("LATCHKEY_SESSIONS__URL", self.redis.url());
        command.env("LATCHKEY_SESSIONS__BUCKETS", self.setup.buckets.to_string());
        command.env("LATCHKEY_SESSION__KICK_WAR_CHANGES", "0");
        command.envs(variables(&CHEAP_PASSWORDS));
        ServerProcess::start(command, |command: &mut Command| pinning.on_server_core(|| command.spawn()))
    }

    /// Opens a session for each of this many users, and writes their tokens to a file.
    pub(crate) async fn write_tokens(&self, path: &Path, users: usize) -> Result<()> {
        let registers = seed::redis_with_buckets(self.redis.url(), self.setup.buckets).await?;
        let signer = seed::signer(self.data.path())?;
        let tokens = seed::open_sessions(&registers, &signer, users, "bench", &[]).await?;
        seed::write_tokens(path, tokens.iter())
    }

    pub(crate) fn cpu_times(&self) -> Result<CpuTimes> {
        let seconds = |time: Option<Duration>| {
            time.map(|time| time.as_secs_f64()).ok_or_else(|| "this system reports no processor times".into())
        };
        let servers: Result<Vec<f64>> =
            self.servers.iter().map(|server| seconds(server.cpu_time())).collect();
        let servers = servers?;
        let redis: Result<Vec<f64>> = self.primary_pids.iter().map(|pid| seconds(cpu_time(*pid))).collect();
        Ok(CpuTimes {
            latchkey: servers.iter().sum(),
            last_server: servers.last().copied().unwrap_or_default(),
            redis: redis?.iter().sum(),
        })
    }

    /// The number of calls of each command, over all primaries.
    pub(crate) fn command_counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for server in self.redis.primaries() {
            let info: String = server.query(redis::cmd("INFO").arg("commandstats"));
            for line in info.lines() {
                if let Some((name, rest)) =
                    line.strip_prefix("cmdstat_").and_then(|line| line.split_once(":calls="))
                    && let Some(calls) = rest.split(',').next().and_then(|calls| calls.parse::<u64>().ok())
                {
                    *counts.entry(name.to_owned()).or_default() += calls;
                }
            }
        }
        counts
    }

    /// Connections of one Latchkey server to one primary.
    pub(crate) fn connections_of_a_server(&self) -> Option<f64> {
        let clients = self.redis.primaries().into_iter().map(|server| {
            let list: String = server.query(redis::cmd("CLIENT").arg("LIST"));
            // Without this connection and those of replicas, Sentinels and other servers.
            list.lines().filter(|line| !line.contains("cmd=client") && is_latchkey(line)).count()
        });
        let counts: Vec<usize> = clients.collect();
        let connections: usize = counts.iter().sum();
        let places = counts.len() * self.servers.len();
        (places > 0).then(|| {
            #[expect(clippy::cast_precision_loss, reason = "a few connections")]
            let mean = connections as f64 / places as f64;
            mean
        })
    }
}

/// Replicas have the flag S, and Sentinels name their connections.
fn is_latchkey(line: &str) -> bool {
    !line.contains(" flags=S") && !line.contains("name=sentinel-")
}
