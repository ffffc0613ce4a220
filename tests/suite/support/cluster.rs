//! A Redis cluster.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::Cmd;

use super::{
    proxy::ProxyMode,
    redis::{Flavour, Role},
    redis_node::{Node, NodeOptions, Ports, Reach, data_arguments, is_in_sync, port_arguments, until},
};

const SLOTS: u16 = 16_384;

/// How many keys one `MIGRATE` moves.
const MIGRATE_KEYS: usize = 16;

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    pub masters: u8,
    pub replicas_per_master: u8,
    /// After this long without an answer a server takes another for down.
    pub node_timeout: Duration,
    pub nodes: NodeOptions,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            masters: 3,
            replicas_per_master: 1,
            node_timeout: Duration::from_millis(700),
            nodes: NodeOptions::default(),
        }
    }
}

pub struct RedisCluster {
    /// The first servers are the masters at start, in the order of their slots.
    pub nodes: Vec<Node>,
    /// The id of each server in the cluster.
    ids: Vec<String>,
    options: ClusterOptions,
}

impl RedisCluster {
    /// Starts everything and waits until all servers agree and all replicas are in sync. Returns `None` and reports
    /// the skipped test if the program is not installed.
    pub async fn start(flavour: Flavour, options: ClusterOptions) -> Option<Self> {
        if !flavour.is_installed() {
            return None;
        }
        let count = options.masters * (1 + options.replicas_per_master);
        let nodes = join_all((0..count).map(|number| {
            let options = &options;
            let arguments = |ports: &Ports| (None, arguments(ports, options));
            Node::start(flavour, number, &options.nodes, true, arguments)
        }));
        let nodes = nodes.await;
        let mut ids = Vec::new();
        for node in &nodes {
            ids.push(node.ask(redis::cmd("CLUSTER").arg("MYID")).await.unwrap());
        }
        let cluster = Self { nodes, ids, options };
        cluster.join().await;
        cluster.until_stable().await;
        Some(cluster)
    }

    /// The address for Latchkey.
    pub fn url(&self) -> String {
        let scheme = if self.options.nodes.tls.is_some() { "rediss+cluster" } else { "redis+cluster" };
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("{scheme}://{}", hosts.join(","))
    }

    pub fn node(&self, port: u16) -> &Node {
        self.nodes.iter().find(|node| node.port == port).unwrap()
    }

    pub fn node_mut(&mut self, port: u16) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.port == port).unwrap()
    }

    /// Returns the ports of the servers that are masters now.
    pub async fn masters(&self) -> Vec<u16> {
        self.with_role(Role::Master).await
    }

    /// Returns the ports of the servers that replicate this master now.
    pub async fn replicas_of(&self, master: u16) -> Vec<u16> {
        let mut replicas = Vec::new();
        for node in &self.nodes {
            if let Ok(info) = node.server.info("replication").await
                && info.contains(&format!("\r\nmaster_port:{master}\r\n"))
            {
                replicas.push(node.port);
            }
        }
        replicas
    }

    pub async fn slot_of(&self, key: &str) -> u16 {
        let command = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).to_owned();
        until("a server answers", async || self.first_answer(&command).await).await
    }

    /// Returns the port of the master that owns a slot, as most masters that answer say.
    pub async fn node_of_slot(&self, slot: u16) -> u16 {
        until("most masters agree on the slot", async || self.owner(slot).await).await
    }

    /// Waits until most masters name another owner of the slot, which takes writes. Returns its port and the instant
    /// at which it first said so itself.
    pub async fn wait_for_owner_other_than(&self, slot: u16, port: u16) -> (u16, Instant) {
        let owner = until("another master owns the slot", async || {
            let others = self.nodes.iter().filter(|node| node.port != port);
            let views = join_all(others.map(async |node| {
                (self.owner_seen_by(node, slot).await? == node.port).then(|| (node.port, Instant::now()))
            }));
            views.await.into_iter().flatten().next()
        })
        .await;
        until("most masters know the new owner", async || (self.owner(slot).await? == owner.0).then_some(()))
            .await;
        owner
    }

    /// Promotes this replica, as an operator does.
    pub async fn failover(&self, replica: u16) {
        let () = self.node(replica).ask(redis::cmd("CLUSTER").arg("FAILOVER")).await.unwrap();
    }

    /// Separates a server from all others and from clients but those in `reach`.
    pub fn partition(&self, port: u16, reach: Reach) {
        self.node(port).isolate(Some(reach), self.others(port));
    }

    /// Ends a partition, and every other mode of the proxies in front of this server.
    pub fn heal(&self, port: u16) {
        self.node(port).isolate(None, self.others(port));
    }

    /// Sets what happens to the connections of clients with all servers.
    pub fn set_for_clients(&self, mode: ProxyMode) {
        self.nodes.iter().for_each(|node| node.set_for_clients(mode));
    }

    /// Moves a slot with its keys to another master.
    pub async fn move_slot(&self, slot: u16, to: u16) {
        self.begin_to_move(slot, to).await;
        while self.move_keys(slot, to).await {}
        self.finish_to_move(slot, to).await;
    }

    /// Marks a slot as migrating: its owner answers `ASK` for keys that are not there any more.
    pub async fn begin_to_move(&self, slot: u16, to: u16) {
        let from = self.node_of_slot(slot).await;
        let state = |state: &str, id: &str| set_slot(slot, state, id);
        let () = self.node(to).ask(&state("IMPORTING", self.id(from))).await.unwrap();
        let () = self.node(from).ask(&state("MIGRATING", self.id(to))).await.unwrap();
    }

    /// Moves some keys of a slot that is migrating. Returns whether there were any.
    pub async fn move_keys(&self, slot: u16, to: u16) -> bool {
        let from = self.node(self.node_of_slot(slot).await);
        let keys = redis::cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(MIGRATE_KEYS).to_owned();
        let keys: Vec<Vec<u8>> = from.ask(&keys).await.unwrap();
        if keys.is_empty() {
            return false;
        }
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.node(to).direct_port).arg("").arg(0).arg(1000);
        if let Some(password) = &self.options.nodes.password {
            migrate.arg("AUTH").arg(password);
        }
        let _: String = from.ask(migrate.arg("KEYS").arg(keys)).await.unwrap();
        true
    }

    /// Gives the slot to its new owner and waits until most masters know that.
    pub async fn finish_to_move(&self, slot: u16, to: u16) {
        let from = self.node_of_slot(slot).await;
        let owner = set_slot(slot, "NODE", self.id(to));
        let () = self.node(to).ask(&owner).await.unwrap();
        let () = self.node(from).ask(&owner).await.unwrap();
        for master in self.masters().await {
            let () = self.node(master).ask(&owner).await.unwrap();
        }
        until("most masters know the new owner", async || (self.owner(slot).await? == to).then_some(()))
            .await;
    }

    /// Waits until all servers are up and agree on the owners of all slots, and all replicas are in sync.
    pub async fn until_stable(&self) {
        until("all servers agree", async || {
            let views = join_all(self.nodes.iter().map(|node| healthy_view(node, self.nodes.len()))).await;
            let views = views.into_iter().collect::<Option<Vec<_>>>()?;
            views.windows(2).all(|views| views[0] == views[1]).then_some(())
        })
        .await;
        until("the replicas are in sync", async || {
            let mut replicas = 0;
            for master in self.masters().await {
                for replica in self.replicas_of(master).await {
                    is_in_sync(self.node(replica), self.node(master)).await.then_some(())?;
                    replicas += 1;
                }
            }
            let expected = self.options.masters * self.options.replicas_per_master;
            (replicas == expected).then_some(())
        })
        .await;
    }

    /// Makes one cluster of the servers.
    async fn join(&self) {
        let masters = u16::from(self.options.masters);
        let (leaders, replicas) = self.nodes.split_at(masters.into());
        for (master, number) in leaders.iter().zip(0..) {
            let first = SLOTS / masters * number;
            let last = if number + 1 == masters { SLOTS - 1 } else { first + SLOTS / masters - 1 };
            let epoch = redis::cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(number + 1).to_owned();
            let () = master.ask(&epoch).await.unwrap();
            let slots = redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last).to_owned();
            let () = master.ask(&slots).await.unwrap();
        }
        for (node, number) in self.nodes.iter().zip(0..) {
            for other in &self.nodes[number + 1..] {
                let mut meet = redis::cmd("CLUSTER");
                meet.arg("MEET").arg("127.0.0.1").arg(other.port).arg(other.bus_port);
                let () = node.ask(&meet).await.unwrap();
            }
        }
        for (replica, number) in replicas.iter().zip(0..) {
            let master = &self.ids[number % usize::from(masters)];
            until("the replica knows its master", async || {
                replica.ask::<()>(redis::cmd("CLUSTER").arg("REPLICATE").arg(master)).await.ok()
            })
            .await;
        }
    }

    fn id(&self, port: u16) -> &str {
        let position = self.nodes.iter().position(|node| node.port == port).unwrap();
        &self.ids[position]
    }

    async fn owner(&self, slot: u16) -> Option<u16> {
        let masters = self.masters().await;
        let mut votes: HashMap<u16, usize> = HashMap::new();
        for master in &masters {
            if let Some(owner) = self.owner_seen_by(self.node(*master), slot).await {
                *votes.entry(owner).or_default() += 1;
            }
        }
        votes.into_iter().find(|(_, votes)| votes * 2 > masters.len()).map(|(owner, _)| owner)
    }

    async fn owner_seen_by(&self, node: &Node, slot: u16) -> Option<u16> {
        let lines = view(node).await?;
        let owner = lines.iter().find(|line| line.slots.iter().any(|slots| slots.contains(&slot)))?;
        let position = self.ids.iter().position(|id| *id == owner.id)?;
        Some(self.nodes[position].port)
    }

    async fn with_role(&self, role: Role) -> Vec<u16> {
        let roles = join_all(self.nodes.iter().map(|node| node.server.role())).await;
        let with_role = self.nodes.iter().zip(roles).filter(|(_, of)| matches!(of, Ok(of) if *of == role));
        with_role.map(|(node, _)| node.port).collect()
    }

    async fn first_answer<T: redis::FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        for node in &self.nodes {
            if let Ok(answer) = node.ask(command).await {
                return Some(answer);
            }
        }
        None
    }

    fn others(&self, port: u16) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.port != port)
    }
}

fn arguments(ports: &Ports, options: &ClusterOptions) -> Vec<String> {
    let mut arguments = port_arguments(ports, &options.nodes);
    let mut add = |name: &str, value: &str| arguments.extend([format!("--{name}"), value.to_owned()]);
    add("cluster-enabled", "yes");
    add("cluster-node-timeout", &options.node_timeout.as_millis().to_string());
    add("cluster-port", &ports.bus.to_string());
    add("cluster-announce-ip", "127.0.0.1");
    add("cluster-announce-bus-port", &ports.announced_bus.to_string());
    if ports.tls.is_some() {
        add("tls-cluster", "yes");
        add("cluster-announce-tls-port", &ports.announced.to_string());
    } else {
        add("cluster-announce-port", &ports.announced.to_string());
    }
    // A replica must not become the replica of another master by itself.
    add("cluster-allow-replica-migration", "no");
    arguments.extend(data_arguments(&options.nodes));
    arguments
}

fn set_slot(slot: u16, state: &str, id: &str) -> Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SETSLOT").arg(slot).arg(state).arg(id);
    command
}

/// A server of the cluster, as one of them sees it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    id: String,
    flags: Vec<String>,
    /// The id of the master, or `-`.
    master: String,
    slots: Vec<RangeInclusive<u16>>,
}

/// Returns the servers as this one sees them, unless it is down.
async fn view(node: &Node) -> Option<Vec<Line>> {
    let lines: String = node.ask(redis::cmd("CLUSTER").arg("NODES")).await.ok()?;
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let flags = words[2].split(',').filter(|flag| *flag != "myself").map(str::to_owned);
        let slots = words[8..].iter().filter(|word| !word.starts_with('[')).map(|word| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            first.parse().unwrap()..=last.parse().unwrap()
        });
        Line {
            id: words[0].to_owned(),
            flags: flags.collect(),
            master: words[3].to_owned(),
            slots: slots.collect(),
        }
    };
    let mut lines: Vec<_> = lines.lines().map(line).collect();
    lines.sort_by(|one, other| one.id.cmp(&other.id));
    Some(lines)
}

/// Returns what a server sees if it is up and takes no other for down.
async fn healthy_view(node: &Node, servers: usize) -> Option<Vec<Line>> {
    let info: String = node.ask(redis::cmd("CLUSTER").arg("INFO")).await.ok()?;
    let lines = view(node).await?;
    let is_healthy = |line: &Line| matches!(&line.flags[..], [role] if role == "master" || role == "slave");
    let is_complete = info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384");
    (is_complete && lines.len() == servers && lines.iter().all(is_healthy)).then_some(lines)
}
