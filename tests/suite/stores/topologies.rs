//! The topologies and the proxy that other tests rely on.

use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, Cmd, RedisError, RedisResult, aio::MultiplexedConnection};

use crate::support::{
    cluster::{ClusterOptions, RedisCluster},
    proxy::{Proxy, ProxyMode},
    redis::{Flavour, RedisServer, Role},
    redis_node::{NodeOptions, Reach},
    sentinel::{SentinelGroup, SentinelOptions},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe() {
    for flavour in [Flavour::Redis, Flavour::Valkey] {
        let begun = Instant::now();
        let Some(mut group) = SentinelGroup::start(flavour, SentinelOptions::default()).await else { return };
        eprintln!("{flavour:?} sentinel start {:?}", begun.elapsed());
        let begun = Instant::now();
        let old = group.kill_master().await;
        let (_, at) = group.wait_for_master_other_than(old).await;
        eprintln!("{flavour:?} sentinel failover {:?}", at - begun);
        drop(group);
        let begun = Instant::now();
        let Some(mut cluster) = RedisCluster::start(flavour, ClusterOptions::default()).await else { return };
        eprintln!("{flavour:?} cluster start {:?}", begun.elapsed());
        let begun = Instant::now();
        let owner = cluster.node_of_slot(0).await;
        cluster.node_mut(owner).server.kill();
        let (_, at) = cluster.wait_for_owner_other_than(0, owner).await;
        eprintln!("{flavour:?} cluster failover {:?}", at - begun);
    }
}
