//! Failures of a cluster with three primaries, each with one replica.

use std::time::Duration;

use super::{
    LOGIN_LIMIT, Scenario,
    lab::{Lab, Options},
    report::Outcome,
    scenario,
};
use crate::support::{
    cluster::{ClusterOptions, RedisCluster},
    redis::Flavour,
    redis_node::{NodeOptions, Reach},
};

/// How long a failure lasts that causes no election.
const LASTING: Duration = Duration::from_millis(2500);
/// How long the old primary is watched after it is back.
const AFTERMATH: Duration = Duration::from_secs(2);
/// The number of users, so that every node has some.
const USERS: usize = 12;

const BY_ELECTION: &str = "by itself, once its replica was elected";

pub(super) const SCENARIOS: [Scenario; 9] = [
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario("cluster_master_killed", "Cluster: a primary is killed (`kill -9`)", || {
            Box::pin(master_killed())
        })
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario("cluster_master_hangs", "Cluster: a primary hangs (`SIGSTOP`) and comes back", || {
            Box::pin(master_hangs())
        })
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario("cluster_master_unreachable", "Cluster: nobody reaches a primary any more", || {
            Box::pin(master_partitioned(Reach::Nobody))
        })
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario("cluster_master_partitioned", "Cluster: only Latchkey still reaches a primary", || {
            Box::pin(master_partitioned(Reach::Clients))
        })
    },
    Scenario {
        recovery: "needs none",
        ..scenario("cluster_replica_killed", "Cluster: a replica is killed and restarted", || {
            Box::pin(replica_killed())
        })
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: "by itself",
        ..scenario("cluster_failover", "Cluster: a failover by hand (`CLUSTER FAILOVER`)", || {
            Box::pin(failover())
        })
    },
    Scenario {
        recovery: "by itself",
        ..scenario(
            "cluster_resharding",
            "Cluster: hash slots with sessions are moved to another node",
            || Box::pin(resharded()),
        )
    },
    Scenario {
        recovery: "by itself, once it runs",
        ..scenario(
            "cluster_master_without_replica",
            "Cluster: a primary without a replica is killed and restarted 2.5 s later",
            || Box::pin(master_without_replica()),
        )
    },
    Scenario {
        recovery: "by itself, once they run; with `appendonly yes` they have all sessions",
        ..scenario("cluster_all_killed", "Cluster: all servers are killed at once and restarted", || {
            Box::pin(all_killed())
        })
    },
];

async fn started(replicas_per_master: u8, arguments: &[&str]) -> (RedisCluster, Lab) {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let nodes = NodeOptions { proxied: true, arguments, ..NodeOptions::default() };
    let options = ClusterOptions { replicas_per_master, nodes, ..ClusterOptions::default() };
    let cluster = RedisCluster::start(Flavour::Redis, options).await.unwrap();
    let url = cluster.url();
    let lab = Lab::start(Options { users: USERS, ..Options::on(&url) }).await;
    (cluster, lab)
}

/// Returns the keys of a primary that fit a pattern.
async fn keys(cluster: &RedisCluster, master: u16, pattern: &str) -> Vec<String> {
    cluster.node(master).ask(redis::cmd("KEYS").arg(pattern)).await.unwrap()
}

/// Returns a primary with sessions, and one of its hash slots.
async fn master(cluster: &RedisCluster) -> (u16, u16) {
    for master in cluster.masters().await {
        if let Some(key) = keys(cluster, master, "*:s:*").await.first() {
            return (master, cluster.slot_of(key).await);
        }
    }
    panic!("no primary has sessions");
}

/// Waits until another primary is elected and all users log in there.
async fn until_replaced(cluster: &RedisCluster, lab: &mut Lab, slot: u16, old: u16) {
    let (_, elected) = cluster.wait_for_owner_other_than(slot, old).await;
    lab.elected(elected);
    lab.until_recovered().await;
}

async fn master_killed() -> Outcome {
    let (mut cluster, mut lab) = started(1, &[]).await;
    let (old, slot) = master(&cluster).await;
    lab.fail();
    cluster.node_mut(old).server.kill();
    until_replaced(&cluster, &mut lab, slot, old).await;
    cluster.node_mut(old).server.restart();
    lab.go_on(AFTERMATH).await;
    lab.finish().await
}

async fn master_hangs() -> Outcome {
    let (cluster, mut lab) = started(1, &[]).await;
    let (old, slot) = master(&cluster).await;
    lab.fail();
    cluster.node(old).server.pause();
    until_replaced(&cluster, &mut lab, slot, old).await;
    cluster.node(old).server.resume();
    lab.go_on(AFTERMATH).await;
    lab.finish().await
}

async fn master_partitioned(reach: Reach) -> Outcome {
    let (cluster, mut lab) = started(1, &[]).await;
    let (old, slot) = master(&cluster).await;
    lab.fail();
    cluster.partition(old, reach);
    until_replaced(&cluster, &mut lab, slot, old).await;
    cluster.heal(old);
    lab.go_on(AFTERMATH).await;
    lab.finish().await
}

async fn replica_killed() -> Outcome {
    let (mut cluster, mut lab) = started(1, &[]).await;
    let (master, _) = master(&cluster).await;
    let replica = cluster.replicas_of(master).await[0];
    lab.fail();
    cluster.node_mut(replica).server.kill();
    lab.go_on(LASTING).await;
    cluster.node_mut(replica).server.restart();
    lab.finish().await
}

async fn failover() -> Outcome {
    let (cluster, mut lab) = started(1, &[]).await;
    let (old, slot) = master(&cluster).await;
    let replica = cluster.replicas_of(old).await[0];
    lab.fail();
    cluster.failover(replica).await;
    until_replaced(&cluster, &mut lab, slot, old).await;
    lab.finish().await
}

async fn resharded() -> Outcome {
    let (cluster, mut lab) = started(1, &[]).await;
    let (from, _) = master(&cluster).await;
    let to = cluster.masters().await.into_iter().find(|port| *port != from).unwrap();
    let mut slots = Vec::new();
    for key in keys(&cluster, from, "*:s:*").await {
        let slot = cluster.slot_of(&key).await;
        if !slots.contains(&slot) && slots.len() < 4 {
            slots.push(slot);
        }
    }
    lab.fail();
    for target in [to, from] {
        for slot in &slots {
            cluster.move_slot(*slot, target).await;
        }
        lab.until_recovered().await;
    }
    lab.finish().await
}

async fn master_without_replica() -> Outcome {
    let (mut cluster, mut lab) = started(0, &["--appendonly", "yes"]).await;
    let (old, _) = master(&cluster).await;
    lab.fail();
    cluster.node_mut(old).server.kill();
    lab.go_on(LASTING).await;
    cluster.node_mut(old).server.restart();
    lab.finish().await
}

async fn all_killed() -> Outcome {
    let (mut cluster, mut lab) = started(1, &["--appendonly", "yes"]).await;
    lab.fail();
    for node in &mut cluster.nodes {
        node.server.kill();
    }
    lab.go_on(Duration::from_secs(1)).await;
    for node in &mut cluster.nodes {
        node.server.restart();
    }
    lab.finish().await
}
