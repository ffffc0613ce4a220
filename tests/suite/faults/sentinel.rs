//! Failures of a primary with two replicas and three Sentinels.

use std::time::Duration;

use super::{
    LOGIN_LIMIT, Scenario, WRITE_ERROR_LIMIT,
    lab::{Lab, Options},
    report::Outcome,
    scenario,
};
use crate::support::{
    proxy::ProxyMode,
    redis::Flavour,
    redis_node::{NodeOptions, Reach},
    sentinel::{SentinelGroup, SentinelOptions},
};

/// How long a failure lasts that causes no election.
const LASTING: Duration = Duration::from_millis(2500);
/// How long the old primary is watched after it is back.
const AFTERMATH: Duration = Duration::from_secs(2);

const BY_ELECTION: &str = "by itself, once the Sentinels have elected a replica";

pub(super) const SCENARIOS: [Scenario; 13] = [
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario("sentinel_master_killed", "Sentinel: the primary is killed (`kill -9`)", || {
            Box::pin(master_killed())
        })
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario("sentinel_master_hangs", "Sentinel: the primary hangs (`SIGSTOP`) and comes back", || {
            Box::pin(master_hangs())
        })
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario("sentinel_master_unreachable", "Sentinel: nobody reaches the primary any more", || {
            Box::pin(master_partitioned(|_| Reach::Nobody))
        })
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario(
            "sentinel_master_partitioned",
            "Sentinel: only Latchkey still reaches the primary, which goes on answering",
            || Box::pin(master_partitioned(|_| Reach::Clients)),
        )
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: BY_ELECTION,
        ..scenario(
            "sentinel_split",
            "Sentinel: one of two Latchkey servers is alone with the primary, which goes on answering",
            || Box::pin(master_partitioned(|lab| Reach::Process(lab.processes[0].pid()))),
        )
    },
    Scenario {
        login_limit: LOGIN_LIMIT,
        recovery: "by itself",
        ..scenario("sentinel_failover", "Sentinel: a failover by hand (`SENTINEL FAILOVER`)", || {
            Box::pin(failover())
        })
    },
    Scenario {
        recovery: "needs none",
        ..scenario("sentinel_replica_killed", "Sentinel: a replica is killed and restarted", || {
            Box::pin(replica_killed())
        })
    },
    Scenario {
        recovery: "needs none",
        ..scenario("sentinel_replica_hangs", "Sentinel: a replica hangs for 2.5 s (`SIGSTOP`)", || {
            Box::pin(replica_hangs())
        })
    },
    Scenario {
        error_limit: WRITE_ERROR_LIMIT,
        recovery: "by itself, when a replica is back",
        ..scenario(
            "sentinel_replicas_killed",
            "Sentinel: with `durability = \"replicas:1\"` all replicas are down for 2.5 s",
            || Box::pin(replicas_killed()),
        )
    },
    Scenario {
        recovery: "needs none",
        ..scenario("sentinel_one_killed", "Sentinel: one of three Sentinels is killed", || {
            Box::pin(sentinels_killed(1))
        })
    },
    Scenario {
        recovery: "needs none, but nobody can elect another primary until two Sentinels run",
        ..scenario("sentinel_two_killed", "Sentinel: two of three Sentinels are killed", || {
            Box::pin(sentinels_killed(2))
        })
    },
    Scenario {
        recovery: "by itself, when two Sentinels answer: until then another primary may have been elected",
        ..scenario("sentinel_two_hang", "Sentinel: two of three Sentinels hang for 2.5 s (`SIGSTOP`)", || {
            Box::pin(sentinels_hang())
        })
    },
    Scenario {
        recovery: "by itself, once they run; with `appendonly yes` they have all sessions",
        ..scenario("sentinel_all_killed", "Sentinel: all servers are killed at once and restarted", || {
            Box::pin(all_killed())
        })
    },
];

async fn group(arguments: &[&str]) -> SentinelGroup {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let nodes = NodeOptions { proxied: true, arguments, ..NodeOptions::default() };
    let options = SentinelOptions { nodes, ..SentinelOptions::default() };
    SentinelGroup::start(Flavour::Redis, options).await.unwrap()
}

async fn started() -> (SentinelGroup, Lab) {
    let group = group(&[]).await;
    let lab = Lab::start(Options::on(&group.url())).await;
    group.until_ready().await;
    (group, lab)
}

/// Waits until another primary is elected and all users log in there.
async fn until_replaced(group: &SentinelGroup, lab: &mut Lab, old: u16) {
    let (_, elected) = group.wait_for_master_other_than(old).await;
    lab.elected(elected);
    lab.until_recovered().await;
}

async fn master_killed() -> Outcome {
    let (mut group, mut lab) = started().await;
    let old = group.master().await;
    lab.fail();
    group.node_mut(old).server.kill();
    until_replaced(&group, &mut lab, old).await;
    // It comes back as a primary without data, until a Sentinel makes it a replica.
    group.node_mut(old).server.restart();
    lab.go_on(AFTERMATH).await;
    lab.finish().await
}

async fn master_hangs() -> Outcome {
    let (group, mut lab) = started().await;
    let old = group.master().await;
    lab.fail();
    group.node(old).server.pause();
    until_replaced(&group, &mut lab, old).await;
    group.node(old).server.resume();
    lab.go_on(AFTERMATH).await;
    lab.finish().await
}

async fn master_partitioned(reach: fn(&Lab) -> Reach) -> Outcome {
    let (group, mut lab) = started().await;
    let reach = reach(&lab);
    lab.fail();
    let old = group.partition_master(reach).await;
    until_replaced(&group, &mut lab, old).await;
    group.heal(old);
    lab.go_on(AFTERMATH).await;
    lab.finish().await
}

async fn failover() -> Outcome {
    let (group, mut lab) = started().await;
    lab.fail();
    let old = group.failover().await;
    until_replaced(&group, &mut lab, old).await;
    lab.finish().await
}

async fn replica_killed() -> Outcome {
    let (mut group, mut lab) = started().await;
    let replica = group.replicas().await[0];
    lab.fail();
    group.node_mut(replica).server.kill();
    lab.go_on(LASTING).await;
    group.node_mut(replica).server.restart();
    lab.go_on(AFTERMATH).await;
    lab.finish().await
}

async fn replica_hangs() -> Outcome {
    let (group, mut lab) = started().await;
    let replica = group.replicas().await[0];
    lab.fail();
    group.node(replica).server.pause();
    lab.go_on(LASTING).await;
    group.node(replica).server.resume();
    lab.finish().await
}

async fn replicas_killed() -> Outcome {
    let mut group = group(&[]).await;
    let url = group.url();
    let durable = [("SESSIONS__DURABILITY", "replicas:1")];
    let mut lab = Lab::start(Options { settings: &durable, ..Options::on(&url) }).await;
    let (master, replicas) = (group.master().await, group.replicas().await);
    lab.fail();
    for replica in &replicas {
        group.node_mut(*replica).server.kill();
    }
    lab.go_on(LASTING).await;
    for replica in replicas {
        group.node_mut(replica).server.restart();
        let () = group.node(replica).ask(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master)).await.unwrap();
    }
    lab.finish().await
}

async fn sentinels_killed(count: usize) -> Outcome {
    let (mut group, mut lab) = started().await;
    lab.fail();
    for sentinel in &mut group.sentinels[..count] {
        sentinel.server.kill();
        // A host that is up refuses connections.
        let proxy = sentinel.proxy();
        proxy.set(ProxyMode::Refuse);
        proxy.settled().await;
    }
    lab.go_on(LASTING).await;
    lab.finish().await
}

async fn sentinels_hang() -> Outcome {
    let (group, mut lab) = started().await;
    lab.fail();
    for sentinel in &group.sentinels[..2] {
        sentinel.server.pause();
    }
    lab.go_on(LASTING).await;
    for sentinel in &group.sentinels[..2] {
        sentinel.server.resume();
    }
    lab.finish().await
}

async fn all_killed() -> Outcome {
    let mut group = group(&["--appendonly", "yes"]).await;
    let mut lab = Lab::start(Options::on(&group.url())).await;
    lab.fail();
    let mut all: Vec<_> = group.nodes.iter_mut().chain(&mut group.sentinels).collect();
    for node in &mut all {
        node.server.kill();
    }
    lab.go_on(Duration::from_secs(1)).await;
    for node in &mut all {
        node.server.restart();
    }
    lab.finish().await
}
