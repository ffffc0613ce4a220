//! A master, its replicas and their Sentinels.

use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::{
    proxy::ProxyMode,
    redis::{Flavour, Role},
    redis_node::{Node, NodeOptions, Ports, Reach, data_arguments, is_in_sync, port_arguments, until},
};

/// The name of the master in the configuration of the Sentinels.
pub const MASTER_NAME: &str = "mymaster";

#[derive(Debug, Clone)]
pub struct SentinelOptions {
    pub replicas: u8,
    pub sentinels: u8,
    pub quorum: u8,
    /// After this long without an answer a Sentinel takes a server for down.
    pub down_after: Duration,
    pub failover_timeout: Duration,
    /// The password of the Sentinels themselves.
    pub sentinel_password: Option<String>,
    pub nodes: NodeOptions,
}

impl Default for SentinelOptions {
    fn default() -> Self {
        Self {
            replicas: 2,
            sentinels: 3,
            quorum: 2,
            down_after: Duration::from_millis(700),
            failover_timeout: Duration::from_secs(2),
            sentinel_password: None,
            nodes: NodeOptions::default(),
        }
    }
}

pub struct SentinelGroup {
    /// The servers with data; the first is the master at start.
    pub nodes: Vec<Node>,
    pub sentinels: Vec<Node>,
    options: SentinelOptions,
}

impl SentinelGroup {
    /// Starts everything and waits until the replicas are in sync and the Sentinels can fail over. Returns `None` and
    /// reports the skipped test if the program is not installed.
    pub async fn start(flavour: Flavour, options: SentinelOptions) -> Option<Self> {
        if !flavour.is_installed() {
            return None;
        }
        let nodes = join_all((0..=options.replicas).map(|number| {
            let nodes = &options.nodes;
            Node::start(flavour, number, nodes, false, |ports| (None, data_node(ports, nodes)))
        }));
        let nodes = nodes.await;
        let (master, replicas) = nodes.split_first().unwrap();
        for replica in replicas {
            let () = replica.ask(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port)).await.unwrap();
        }
        let mut group = Self { nodes, sentinels: Vec::new(), options };
        // A Sentinel asks a new master for its replicas at once, and again only after ten seconds.
        group.until_in_sync().await;
        group.start_sentinels(flavour).await;
        group.until_ready().await;
        Some(group)
    }

    /// The address for Latchkey.
    pub fn url(&self) -> String {
        let scheme = if self.options.nodes.tls.is_some() { "rediss+sentinel" } else { "redis+sentinel" };
        let hosts: Vec<_> = self.sentinels.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("{scheme}://{}/{MASTER_NAME}", hosts.join(","))
    }

    pub fn node(&self, port: u16) -> &Node {
        self.nodes.iter().find(|node| node.port == port).unwrap()
    }

    pub fn node_mut(&mut self, port: u16) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.port == port).unwrap()
    }

    /// Returns the port of the master, as a quorum of the Sentinels says.
    pub async fn master(&self) -> u16 {
        until("a quorum of Sentinels names a master", async || self.named_by_quorum().await).await
    }

    /// Returns the ports of all servers with data but the master, also of those that are down.
    pub async fn replicas(&self) -> Vec<u16> {
        let master = self.master().await;
        self.nodes.iter().map(|node| node.port).filter(|port| *port != master).collect()
    }

    /// Ends the master at once, and returns its port.
    pub async fn kill_master(&mut self) -> u16 {
        let master = self.master().await;
        self.node_mut(master).server.kill();
        master
    }

    /// Stops the process of the master, and returns its port.
    pub async fn pause_master(&self) -> u16 {
        let master = self.master().await;
        self.node(master).server.pause();
        master
    }

    /// Separates the master from replicas, Sentinels and clients but those in `reach`, and returns its port. Clients
    /// and Sentinels still reach each other.
    pub async fn partition_master(&self, reach: Reach) -> u16 {
        let master = self.master().await;
        self.node(master).isolate(Some(reach), self.others(master));
        master
    }

    /// Ends a partition, and every other mode of the proxy in front of this server.
    pub fn heal(&self, port: u16) {
        self.node(port).isolate(None, self.others(port));
    }

    /// Sets what happens to the connections of clients with all servers of the group, Sentinels included.
    pub fn set_for_clients(&self, mode: ProxyMode) {
        self.nodes.iter().chain(&self.sentinels).for_each(|node| node.set_for_clients(mode));
    }

    /// Orders a failover, as an operator does, and returns the port of the master until then.
    pub async fn failover(&self) -> u16 {
        let master = self.master().await;
        until("a Sentinel begins a failover", async || {
            let command = redis::cmd("SENTINEL").arg("FAILOVER").arg(MASTER_NAME).to_owned();
            self.sentinels[0].ask::<()>(&command).await.ok()
        })
        .await;
        master
    }

    /// Waits until a quorum of Sentinels names a master other than that of this port, which also has the role. Returns
    /// its port and the instant at which the first Sentinel named it.
    pub async fn wait_for_master_other_than(&self, port: u16) -> (u16, Instant) {
        let elected = until("another master is elected", async || {
            let answers = join_all(self.sentinels.iter().map(master_of)).await;
            let other = answers.into_iter().flatten().find(|master| *master != port)?;
            Some((other, Instant::now()))
        })
        .await;
        until("a quorum of Sentinels names the new master, which has its role", async || {
            (self.named_by_quorum().await? == elected.0).then_some(())?;
            (self.node(elected.0).server.role().await.ok()? == Role::Master).then_some(())
        })
        .await;
        elected
    }

    /// Waits until every server with data but the master is its replica and has all that the master wrote.
    pub async fn until_in_sync(&self) {
        until("the replicas are in sync", async || {
            let at_start = self.sentinels.is_empty().then_some(self.nodes[0].port);
            let master =
                self.node(if let Some(port) = at_start { port } else { self.named_by_quorum().await? });
            let replicas = self.nodes.iter().filter(|node| node.port != master.port);
            let in_sync = join_all(replicas.map(|replica| is_in_sync(replica, master))).await;
            in_sync.into_iter().all(|is| is).then_some(())
        })
        .await;
    }

    /// Waits until every Sentinel knows all others and all replicas, so that it can fail over.
    pub async fn until_ready(&self) {
        let ready = async |sentinel: &Node| {
            let ask = |what: &str| redis::cmd("SENTINEL").arg(what).arg(MASTER_NAME).to_owned();
            let _: String = sentinel.ask(&ask("CKQUORUM")).await.ok()?;
            let replicas: Vec<HashMap<String, String>> = sentinel.ask(&ask("REPLICAS")).await.ok()?;
            let up = replicas.iter().filter(|replica| {
                let field = |name: &str| replica.get(name).map(String::as_str);
                field("flags") == Some("slave") && field("master-link-status") == Some("ok")
            });
            (up.count() + 1 == self.nodes.len()).then_some(())
        };
        until("the Sentinels know all", async || {
            let all = join_all(self.sentinels.iter().map(&ready)).await;
            all.into_iter().collect::<Option<()>>()
        })
        .await;
    }

    async fn named_by_quorum(&self) -> Option<u16> {
        let mut votes: HashMap<u16, u8> = HashMap::new();
        for port in join_all(self.sentinels.iter().map(master_of)).await.into_iter().flatten() {
            *votes.entry(port).or_default() += 1;
        }
        votes.into_iter().find(|(_, votes)| *votes >= self.options.quorum).map(|(port, _)| port)
    }

    async fn start_sentinels(&mut self, flavour: Flavour) {
        let ids: Vec<_> =
            (0..self.options.sentinels).map(|_| format!("{:040x}", rand::random::<u128>())).collect();
        let (options, group) = (&self.options, &*self);
        let started = join_all(ids.iter().zip(self.nodes.len()..).map(|(id, number)| {
            let file =
                move |ports: &Ports| (Some(group.sentinel_file(id, ports)), sentinel_node(ports, options));
            Node::start(flavour, u8::try_from(number).unwrap(), &options.nodes, false, file)
        }));
        self.sentinels = started.await;
        // They would hear of each other through the master, but only every two seconds.
        let master = self.nodes[0].port;
        for (id, other) in ids.iter().zip(&self.sentinels) {
            let hello = format!("127.0.0.1,{},{id},0,{MASTER_NAME},127.0.0.1,{master},0", other.port);
            let hello = redis::cmd("PUBLISH").arg("__sentinel__:hello").arg(hello).to_owned();
            for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.port != other.port) {
                let _: u64 = sentinel.ask(&hello).await.unwrap();
            }
        }
    }

    fn sentinel_file(&self, id: &str, ports: &Ports) -> String {
        let master = self.nodes[0].port;
        let mut file = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(file, "sentinel {text}").unwrap();
        line(format_args!("myid {id}"));
        line(format_args!("announce-ip 127.0.0.1"));
        line(format_args!("announce-port {}", ports.announced));
        line(format_args!("monitor {MASTER_NAME} 127.0.0.1 {master} {}", self.options.quorum));
        line(format_args!("down-after-milliseconds {MASTER_NAME} {}", self.options.down_after.as_millis()));
        line(format_args!("failover-timeout {MASTER_NAME} {}", self.options.failover_timeout.as_millis()));
        line(format_args!("parallel-syncs {MASTER_NAME} 10"));
        for replica in &self.nodes[1..] {
            line(format_args!("known-replica {MASTER_NAME} 127.0.0.1 {}", replica.port));
        }
        if let Some(password) = &self.options.nodes.password {
            line(format_args!("auth-pass {MASTER_NAME} {password}"));
        }
        if let Some(password) = &self.options.sentinel_password {
            line(format_args!("sentinel-pass {password}"));
        }
        file
    }

    /// All servers but the one with data of this port.
    fn others(&self, port: u16) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.port != port).chain(&self.sentinels)
    }
}

fn data_node(ports: &Ports, options: &NodeOptions) -> Vec<String> {
    let mut arguments = port_arguments(ports, options);
    for (name, value) in [
        ("replica-announce-ip", "127.0.0.1".to_owned()),
        ("replica-announce-port", ports.announced.to_string()),
    ] {
        arguments.extend([format!("--{name}"), value]);
    }
    arguments.extend(data_arguments(options));
    arguments
}

fn sentinel_node(ports: &Ports, options: &SentinelOptions) -> Vec<String> {
    let mut arguments = vec!["--sentinel".to_owned()];
    arguments.extend(port_arguments(ports, &options.nodes));
    if let Some(password) = &options.sentinel_password {
        arguments.extend(["--requirepass".to_owned(), password.clone()]);
    }
    arguments
}

/// Returns the port of the master that a Sentinel names, unless it is down.
async fn master_of(sentinel: &Node) -> Option<u16> {
    let command = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(MASTER_NAME).to_owned();
    let (_, port): (String, u16) = sentinel.ask(&command).await.ok()?;
    Some(port)
}
