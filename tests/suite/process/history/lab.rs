//! Two servers on each topology of Redis, and what fails in them while they are used.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::support::{
    client::Client,
    cluster::{ClusterOptions, RedisCluster},
    process::Process,
    proxy::{Peer, Proxy, ProxyMode},
    redis::{Flavour, RedisServer},
    redis_node::{Node, NodeOptions, Reach},
    sentinel::{SentinelGroup, SentinelOptions},
};

/// How long two servers stay that both take themselves for the primary, or a failure lasts that has no end of its own.
const SPELL: Duration = Duration::from_millis(1500);
/// How many hash slots with buckets are moved.
const MOVED_BUCKETS: u16 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Single,
    Sentinel,
    Cluster,
}

/// Something that fails, and is mended again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connections of the clients and of one server stall, lose responses and end.
    Links,
    /// The primary ends at once (`kill -9`), and returns as a replica.
    Kill,
    /// The process of the primary is stopped, and goes on when another has been the primary for some time.
    Pause,
    /// The primary and the second server reach each other, but nobody else.
    Partition,
    /// Another primary is chosen by hand.
    Promote,
    /// Hash slots move to another primary.
    MoveSlots,
    /// Every command reaches Redis twice.
    Duplicate,
}

pub enum Store {
    /// The first server is connected directly, the second through a proxy.
    Single { server: RedisServer, proxy: Proxy },
    /// One primary and one replica.
    Sentinel(SentinelGroup),
    /// Three primaries with one replica each.
    Cluster(RedisCluster),
}

pub struct Lab {
    pub store: Store,
    pub processes: [Process; 2],
    /// In front of the servers, for clients.
    pub entrances: [Proxy; 2],
    _data: TempDir,
}

impl Lab {
    /// Starts everything. Returns `None` if the program is not installed.
    pub async fn start(flavour: Flavour, shape: Shape, settings: &[(&str, &str)]) -> Option<Self> {
        let nodes = NodeOptions { proxied: true, ..NodeOptions::default() };
        let store = match shape {
            Shape::Single => {
                flavour.is_installed().then_some(())?;
                let server = RedisServer::with(flavour, &[]);
                let proxy = Proxy::to(server.port).await;
                Store::Single { server, proxy }
            }
            Shape::Sentinel => {
                let options = SentinelOptions { replicas: 1, nodes, ..SentinelOptions::default() };
                Store::Sentinel(SentinelGroup::start(flavour, options).await?)
            }
            Shape::Cluster => {
                let options = ClusterOptions { nodes, ..ClusterOptions::default() };
                Store::Cluster(RedisCluster::start(flavour, options).await?)
            }
        };
        let urls = match &store {
            Store::Single { server, proxy } => [server.url(), format!("redis://{}", proxy.address)],
            Store::Sentinel(group) => [group.url(), group.url()],
            Store::Cluster(cluster) => [cluster.url(), cluster.url()],
        };
        let data = tempfile::tempdir().unwrap();
        // An interrupted login counts as failed, and the tests interrupt many.
        let mut all = vec![("THROTTLE__FREE_ATTEMPTS", "100"), ("THROTTLE__ADDRESS_FAILURES", "0")];
        if shape == Shape::Single {
            // A busy machine must not look like an outage.
            all.extend([("SESSIONS__RESPONSE_TIMEOUT", "60s"), ("SERVER__REQUEST_TIMEOUT", "60s")]);
        }
        all.extend_from_slice(settings);
        // The first process makes the keys, so the second starts after it.
        let processes = urls.map(|url| {
            let mut all = all.clone();
            all.push(("SESSIONS__URL", &url));
            Process::start(data.path(), &all)
        });
        for process in &processes {
            process.serving_client().await;
        }
        let [first, second] = &processes;
        let entrances = [Proxy::to(first.grpc.port()).await, Proxy::to(second.grpc.port()).await];
        Some(Self { store, processes, entrances, _data: data })
    }

    /// Connects to both servers directly.
    pub async fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for process in &self.processes {
            clients.push(process.client().await);
        }
        clients
    }

    /// Connects to both servers through the proxies in front of them.
    pub async fn clients_through_proxies(&self) -> Vec<Client> {
        let mut clients = self.clients().await;
        for (client, entrance) in clients.iter_mut().zip(&self.entrances) {
            *client = Client::connect(entrance.address, &client.admin_key).await;
        }
        clients
    }

    /// Lets something fail, and returns when it is mended.
    pub async fn inject(&mut self, fault: Fault, random: &mut StdRng) {
        let second = self.processes[1].pid();
        match (&mut self.store, fault) {
            (Store::Single { proxy, .. }, Fault::Links) => {
                disturb(&[proxy, &self.entrances[0], &self.entrances[1]], random).await;
            }
            (Store::Single { proxy, .. }, Fault::Duplicate) => {
                proxy.set(ProxyMode::Duplicate);
                sleep(SPELL).await;
                proxy.set(ProxyMode::Forward);
            }
            (Store::Single { server, .. }, Fault::Pause) => {
                server.pause();
                sleep(SPELL / 2).await;
                server.resume();
            }
            (Store::Sentinel(group), Fault::Duplicate) => duplicate(&group.nodes).await,
            (Store::Cluster(cluster), Fault::Duplicate) => duplicate(&cluster.nodes).await,
            (Store::Sentinel(group), fault) => change_primary(group, fault, second).await,
            (Store::Cluster(cluster), Fault::MoveSlots) => move_slots(cluster, random).await,
            (Store::Cluster(cluster), fault) => change_owner(cluster, fault, second, random).await,
            (Store::Single { .. }, fault) => panic!("a single server knows no {fault:?}"),
        }
    }

    pub fn sentinel(&mut self) -> &mut SentinelGroup {
        let Store::Sentinel(group) = &mut self.store else { panic!("no Sentinels") };
        group
    }
}

/// Makes the former primary a replica of the new one, which Sentinels do only after eight seconds.
pub async fn rejoin(group: &SentinelGroup, old: u16, new: u16) {
    let () = group.node(old).ask(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(new)).await.unwrap();
    group.until_in_sync().await;
}

async fn change_primary(group: &mut SentinelGroup, fault: Fault, second: u32) {
    // Sentinels may take ten seconds to find the replica that the last failure left.
    group.until_ready().await;
    match fault {
        Fault::Kill => {
            let old = group.kill_master().await;
            let (new, _) = group.wait_for_master_other_than(old).await;
            group.node_mut(old).server.restart();
            rejoin(group, old, new).await;
        }
        Fault::Pause => {
            let old = group.pause_master().await;
            let (new, _) = group.wait_for_master_other_than(old).await;
            sleep(SPELL).await;
            group.node(old).server.resume();
            // Two servers take themselves for the primary.
            sleep(SPELL).await;
            rejoin(group, old, new).await;
        }
        Fault::Partition => {
            let old = group.partition_master(Reach::Process(second)).await;
            let majority = group.nodes.iter().chain(&group.sentinels).filter(|node| node.port != old);
            let set = |mode| {
                let majority = majority.clone();
                majority.for_each(|node| node.proxy().set_for(Peer::Process(second), mode));
            };
            set(ProxyMode::Stall);
            let (new, _) = group.wait_for_master_other_than(old).await;
            sleep(SPELL).await;
            set(ProxyMode::Forward);
            group.heal(old);
            rejoin(group, old, new).await;
        }
        Fault::Promote => {
            let old = group.failover().await;
            let (new, _) = group.wait_for_master_other_than(old).await;
            sleep(SPELL).await;
            rejoin(group, old, new).await;
        }
        fault => panic!("Sentinels know no {fault:?}"),
    }
    sleep(SPELL).await;
}

async fn change_owner(cluster: &mut RedisCluster, fault: Fault, second: u32, random: &mut StdRng) {
    let slot = slot_of_bucket(cluster, random.random_range(0..64)).await;
    let old = cluster.node_of_slot(slot).await;
    match fault {
        Fault::Kill => {
            cluster.node_mut(old).server.kill();
            cluster.wait_for_owner_other_than(slot, old).await;
            cluster.node_mut(old).server.restart();
        }
        Fault::Pause => {
            cluster.node(old).server.pause();
            cluster.wait_for_owner_other_than(slot, old).await;
            sleep(SPELL).await;
            cluster.node(old).server.resume();
        }
        Fault::Partition => {
            cluster.partition(old, Reach::Process(second));
            let set = |mode| {
                let majority = cluster.nodes.iter().filter(|node| node.port != old);
                majority.for_each(|node| node.proxy().set_for(Peer::Process(second), mode));
            };
            set(ProxyMode::Stall);
            cluster.wait_for_owner_other_than(slot, old).await;
            sleep(SPELL).await;
            set(ProxyMode::Forward);
            cluster.heal(old);
        }
        Fault::Promote => {
            let replica = cluster.replicas_of(old).await[0];
            cluster.failover(replica).await;
            cluster.wait_for_owner_other_than(slot, old).await;
        }
        fault => panic!("a cluster knows no {fault:?}"),
    }
    cluster.until_stable().await;
    sleep(SPELL).await;
}

async fn slot_of_bucket(cluster: &RedisCluster, bucket: u16) -> u16 {
    cluster.slot_of(&format!("{{{bucket}}}")).await
}

async fn move_slots(cluster: &RedisCluster, random: &mut StdRng) {
    let first = random.random_range(0..64 - MOVED_BUCKETS);
    for bucket in first..first + MOVED_BUCKETS {
        let slot = slot_of_bucket(cluster, bucket).await;
        let from = cluster.node_of_slot(slot).await;
        let others: Vec<_> = cluster.masters().await.into_iter().filter(|port| *port != from).collect();
        cluster.move_slot(slot, others[random.random_range(0..others.len())]).await;
    }
    cluster.until_stable().await;
}

async fn duplicate(nodes: &[Node]) {
    for node in nodes {
        node.set_for_clients(ProxyMode::Duplicate);
    }
    sleep(SPELL).await;
    for node in nodes {
        node.set_for_clients(ProxyMode::Forward);
    }
    sleep(SPELL / 2).await;
}

/// Disturbs one of these proxies at a time.
async fn disturb(proxies: &[&Proxy], random: &mut StdRng) {
    for _ in 0..25 {
        let proxy = proxies[random.random_range(0..proxies.len())];
        match random.random_range(0..4) {
            0 => {
                // The call takes effect and its answer is lost.
                proxy.set(ProxyMode::DropResponses);
                sleep(Duration::from_millis(random.random_range(5..40))).await;
                proxy.set(ProxyMode::Disconnect);
            }
            1 => proxy.set(ProxyMode::Disconnect),
            _ => proxy.set(ProxyMode::Stall),
        }
        sleep(Duration::from_millis(random.random_range(1..40))).await;
        proxy.set(ProxyMode::Forward);
        sleep(Duration::from_millis(random.random_range(50..250))).await;
    }
}
