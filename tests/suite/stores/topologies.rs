//! The topologies and the proxy that tests of failures rely on.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rcgen::ExtendedKeyUsagePurpose;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult, aio::MultiplexedConnection};
use rstest::rstest;

use crate::support::{
    cluster::{ClusterOptions, RedisCluster},
    proxy::{Peer, Proxy, ProxyMode},
    redis::{Flavour, RedisServer, Role},
    redis_node::{NodeOptions, Reach, TlsFiles},
    sentinel::{SentinelGroup, SentinelOptions},
    tls::{Authority, server_params},
};

/// Longer than anything takes that must happen, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a test waits for something that must not happen.
const SILENCE: Duration = Duration::from_millis(200);

type Connection = MultiplexedConnection;

fn proxied() -> NodeOptions {
    NodeOptions { proxied: true, ..NodeOptions::default() }
}

/// Connects as Latchkey does, through whatever is in front of the port.
async fn connect(port: u16) -> RedisResult<Connection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(Duration::from_secs(2)));
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await
}

async fn call<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> RedisResult<T> {
    redis::cmd(words[0]).arg(&words[1..]).query_async(connection).await
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_elect_another_master_after_a_crash(
    #[values(Flavour::Redis, Flavour::Valkey)] flavour: Flavour,
) {
    let options = SentinelOptions {
        sentinel_password: Some("of-sentinels".to_owned()),
        nodes: NodeOptions { password: Some("of-data".to_owned()), ..NodeOptions::default() },
        ..SentinelOptions::default()
    };
    let Some(mut group) = SentinelGroup::start(flavour, options).await else { return };
    let old = group.kill_master().await;
    let (new, _) = group.wait_for_master_other_than(old).await;
    assert!(group.replicas().await.contains(&old) && new != old);
    group.node_mut(old).server.restart();
    // The Sentinels take some seconds to notice that it is back.
    until("the old master becomes a replica", async || {
        group.node(old).server.role().await.is_ok_and(|role| role == Role::Replica)
    })
    .await;
    group.until_in_sync().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_master_goes_on_and_the_sentinels_elect_another() {
    let options = SentinelOptions { nodes: proxied(), ..SentinelOptions::default() };
    let group = SentinelGroup::start(Flavour::Redis, options).await.unwrap();
    let old = group.partition_master(Reach::Process(std::process::id())).await;
    let mut client = connect(old).await.unwrap();
    let (new, _) = group.wait_for_master_other_than(old).await;
    let () = call(&mut client, &["SET", "written to", "the old master"]).await.unwrap();
    let lost: Option<String> = call(&mut connect(new).await.unwrap(), &["GET", "written to"]).await.unwrap();
    assert_eq!(lost, None);
    group.heal(old);
    until("the Sentinels see the old master again", async || {
        let replicas = redis::cmd("SENTINEL").arg("REPLICAS").arg("mymaster").to_owned();
        let replicas: Vec<HashMap<String, String>> = group.sentinels[0].ask(&replicas).await.unwrap();
        replicas
            .iter()
            .any(|replica| replica["port"] == old.to_string() && !replica["flags"].contains("down"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_cut_from_a_master_that_sentinels_replace_by_order() {
    let options = SentinelOptions { nodes: proxied(), ..SentinelOptions::default() };
    let group = SentinelGroup::start(Flavour::Redis, options).await.unwrap();
    let old = group.master().await;
    group.node(old).set_for_clients(ProxyMode::Disconnect);
    assert!(connect(old).await.is_err());
    group.until_ready().await;
    group.until_in_sync().await;
    assert_eq!(group.failover().await, old);
    group.wait_for_master_other_than(old).await;

    group.set_for_clients(ProxyMode::Disconnect);
    for node in group.nodes.iter().chain(&group.sentinels) {
        assert!(connect(node.port).await.is_err());
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_replaces_a_master_after_a_crash_and_by_order(
    #[values(Flavour::Redis, Flavour::Valkey)] flavour: Flavour,
) {
    let options = ClusterOptions {
        nodes: NodeOptions { password: Some("of-data".to_owned()), ..proxied() },
        ..ClusterOptions::default()
    };
    let Some(mut cluster) = RedisCluster::start(flavour, options).await else { return };
    let old = cluster.node_of_slot(0).await;
    assert_eq!((cluster.masters().await.len(), cluster.replicas_of(old).await.len()), (3, 1));
    cluster.node_mut(old).server.kill();
    let (new, _) = cluster.wait_for_owner_other_than(0, old).await;

    cluster.node_mut(old).server.restart();
    cluster.until_stable().await;
    assert_eq!(cluster.replicas_of(new).await, [old]);
    cluster.failover(old).await;
    assert_eq!(cluster.wait_for_owner_other_than(0, new).await.0, old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_master_of_a_cluster_loses_its_slots() {
    let options = ClusterOptions { nodes: proxied(), ..ClusterOptions::default() };
    let cluster = RedisCluster::start(Flavour::Redis, options).await.unwrap();
    let old = cluster.node_of_slot(0).await;
    cluster.partition(old, Reach::Clients);
    let (new, _) = cluster.wait_for_owner_other_than(0, old).await;
    let mut client = connect(old).await.unwrap();
    // It still answers, and notices by itself that it is alone.
    let slot_0 = "{la2}";
    assert_eq!(cluster.slot_of(slot_0).await, 0);
    until("the old master stops writing", async || {
        let written: RedisResult<()> = call(&mut client, &["SET", slot_0, "x"]).await;
        written.is_err_and(|error| error.code() == Some("CLUSTERDOWN"))
    })
    .await;
    cluster.heal(old);
    cluster.until_stable().await;
    assert_eq!(cluster.replicas_of(new).await, [old]);

    assert!(cluster.url().contains(&format!("127.0.0.1:{old},")));
    cluster.set_for_clients(ProxyMode::Disconnect);
    assert!(connect(new).await.is_err());
    cluster.partition(new, Reach::Nobody);
    cluster.wait_for_owner_other_than(0, new).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_with_its_keys(#[values(Flavour::Redis, Flavour::Valkey)] flavour: Flavour) {
    let options = ClusterOptions { replicas_per_master: 0, nodes: proxied(), ..ClusterOptions::default() };
    let Some(cluster) = RedisCluster::start(flavour, options).await else { return };
    let slot = cluster.slot_of("{a}").await;
    let from = cluster.node_of_slot(slot).await;
    let to = cluster.masters().await.into_iter().find(|port| *port != from).unwrap();
    let (mut source, mut target) = (connect(from).await.unwrap(), connect(to).await.unwrap());
    for number in 0..40 {
        let () = call(&mut source, &["SET", &format!("{{a}}{number}"), "x"]).await.unwrap();
    }
    let code = |answer: RedisResult<()>| answer.unwrap_err().code().map(str::to_owned);

    cluster.begin_to_move(slot, to).await;
    assert!(cluster.move_keys(slot, to).await);
    assert_eq!(cluster.node_of_slot(slot).await, from);
    assert_eq!(code(call(&mut source, &["GET", "{a}new"]).await).as_deref(), Some("ASK"));
    while cluster.move_keys(slot, to).await {}
    cluster.finish_to_move(slot, to).await;

    assert_eq!(cluster.node_of_slot(slot).await, to);
    let error = call::<()>(&mut source, &["GET", "{a}0"]).await.unwrap_err();
    assert_eq!(error.redirect_node(), Some((format!("127.0.0.1:{to}").as_str(), slot)));
    let keys: Vec<String> = call(&mut target, &["KEYS", "{a}*"]).await.unwrap();
    assert_eq!(keys.len(), 40);
    cluster.move_slot(slot, from).await;
    let () = call(&mut source, &["GET", "{a}0"]).await.map(|_: String| ()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topologies_serve_tls() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("Redis CA");
    // On the cluster bus a server also presents its certificate as a client.
    let mut params = server_params();
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    let (certificate, key) = authority.sign(&params).write(dir.path(), "server");
    let tls = TlsFiles { certificate, key, ca: authority.write(dir.path()), verifies_clients: false };
    let nodes = NodeOptions { tls: Some(tls), ..proxied() };
    let options = SentinelOptions { replicas: 1, nodes: nodes.clone(), ..SentinelOptions::default() };
    let group = SentinelGroup::start(Flavour::Redis, options).await.unwrap();
    assert!(group.url().starts_with("rediss+sentinel://"));
    let old = group.pause_master().await;
    group.wait_for_master_other_than(old).await;

    let cluster = ClusterOptions { nodes, ..ClusterOptions::default() };
    let cluster = RedisCluster::start(Flavour::Redis, cluster).await.unwrap();
    let (slot, from) = (0, cluster.node_of_slot(0).await);
    let to = cluster.masters().await.into_iter().find(|port| *port != from).unwrap();
    cluster.move_slot(slot, to).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_pauses_replicates_and_is_promoted() {
    let (mut master, replica) = (RedisServer::start(), RedisServer::start());
    replica.replicate(&master);
    assert_eq!(replica.role().await.unwrap(), Role::Replica);
    replica.promote();
    assert_eq!(replica.role().await.unwrap(), Role::Master);
    master.pause();
    assert!(master.role().await.is_err() && master.is_running());
    master.resume();
    assert_eq!(master.role().await.unwrap(), Role::Master);
    master.kill();
    assert!(!master.is_running() && master.role().await.is_err());
}

/// A server that counts in `INCR`, and a proxy in front of it.
async fn counter() -> (RedisServer, Proxy) {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port).await;
    (server, proxy)
}

async fn incr(connection: &mut Connection) -> RedisResult<u64> {
    call(connection, &["INCR", "counter"]).await
}

fn counted(server: &RedisServer) -> u64 {
    server.query::<Option<u64>>(redis::cmd("GET").arg("counter")).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicated_commands_are_executed_twice_and_answered_once() {
    let (server, proxy) = counter().await;
    proxy.set(ProxyMode::Duplicate);
    let connection = connect(proxy.port()).await.unwrap();
    // Many requests share the connection, and each has the response to its own first execution.
    let calls = (0..200).map(|_| {
        let mut connection = connection.clone();
        async move { incr(&mut connection).await.unwrap() }
    });
    let mut answers = futures_util::future::join_all(calls).await;
    answers.sort_unstable();
    assert_eq!(answers, (0..200).map(|number| 2 * number + 1).collect::<Vec<u64>>());
    assert_eq!(counted(&server), 400);

    // A large value comes in many chunks.
    let large = "x".repeat(100_000);
    let mut connection = connection;
    let () = call(&mut connection, &["SET", "large", &large]).await.unwrap();
    assert_eq!(call::<String>(&mut connection, &["GET", "large"]).await.unwrap(), large);
    proxy.set(ProxyMode::Forward);
    assert_eq!(incr(&mut connection).await.unwrap(), 401);
    assert_eq!(incr(&mut connection).await.unwrap(), 402);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_and_messages_pass_while_commands_are_duplicated() {
    let (server, proxy) = counter().await;
    proxy.set(ProxyMode::Duplicate);
    let mut connection = connect(proxy.port()).await.unwrap();
    let mut transaction = redis::pipe();
    transaction.atomic().cmd("INCR").arg("counter").cmd("INCR").arg("counter");
    let answers: Vec<u64> = transaction.query_async(&mut connection).await.unwrap();
    assert_eq!((answers, counted(&server)), (vec![1, 2], 2));

    let client = redis::Client::open(format!("redis://{}", proxy.address)).unwrap();
    let mut messages = client.get_async_pubsub().await.unwrap();
    messages.subscribe("news").await.unwrap();
    let _: u64 = server.query(redis::cmd("PUBLISH").arg("news").arg("hello"));
    let message = futures_util::StreamExt::next(&mut messages.on_message()).await.unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delays_and_drips_slow_a_connection_down() {
    let (_server, proxy) = counter().await;
    let mut connection = connect(proxy.port()).await.unwrap();
    let time = async |connection: &mut Connection, mode: ProxyMode| {
        proxy.set(mode);
        let begun = Instant::now();
        incr(connection).await.unwrap();
        begun.elapsed()
    };
    let delay = Duration::from_millis(50);
    assert!(time(&mut connection, ProxyMode::Delay(delay)).await >= 2 * delay);
    // The request and the response have more than 20 bytes.
    let pause = Duration::from_millis(5);
    assert!(time(&mut connection, ProxyMode::Drip(pause)).await >= 20 * pause);
    time(&mut connection, ProxyMode::Forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_swallows_and_its_connections_stay_half_open() {
    let (server, proxy) = counter().await;
    let mut before = connect(proxy.port()).await.unwrap();
    proxy.set(ProxyMode::BlackHole);
    let swallowed = |connection: &mut Connection| {
        let mut connection = connection.clone();
        async move { tokio::time::timeout(SILENCE, incr(&mut connection)).await.is_err() }
    };
    assert!(swallowed(&mut before).await);
    let during = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    proxy.set(ProxyMode::Forward);
    assert!(swallowed(&mut before).await);
    let read = during.readable();
    assert!(tokio::time::timeout(SILENCE, read).await.is_err(), "neither closed nor answered");
    assert_eq!(counted(&server), 0);
    assert_eq!(incr(&mut connect(proxy.port()).await.unwrap()).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_garbled_or_cut_after_the_command_was_executed() {
    let (server, proxy) = counter().await;
    for (mode, count) in [(ProxyMode::CutMidResponse, 1), (ProxyMode::Garbage(1), 2)] {
        proxy.set(ProxyMode::Forward);
        let mut connection = connect(proxy.port()).await.unwrap();
        proxy.set(mode);
        let answer = incr(&mut connection).await;
        assert!(answer.is_err(), "{mode:?}: {answer:?}");
        until("it was executed", async || counted(&server) == count).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_refused_until_the_proxy_listens_again() {
    let (_server, proxy) = counter().await;
    let mut before = connect(proxy.port()).await.unwrap();
    for _ in 0..3 {
        proxy.set(ProxyMode::Refuse);
        proxy.settled().await;
        let error = tokio::net::TcpStream::connect(proxy.address).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(incr(&mut before).await.is_err());
        proxy.set(ProxyMode::Forward);
        proxy.settled().await;
        before = connect(proxy.port()).await.unwrap();
        incr(&mut before).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mode_counts_for_one_process_only() {
    let (_server, proxy) = counter().await;
    proxy.set_for(Peer::Process(1), ProxyMode::Disconnect);
    proxy.set_for(Peer::Nodes, ProxyMode::Disconnect);
    let mut connection = connect(proxy.port()).await.unwrap();
    incr(&mut connection).await.unwrap();
    proxy.set_for(Peer::Process(std::process::id()), ProxyMode::Disconnect);
    assert!(incr(&mut connection).await.is_err());
    proxy.set(ProxyMode::Disconnect);
    proxy.set_for(Peer::Process(std::process::id()), ProxyMode::Forward);
    incr(&mut connect(proxy.port()).await.unwrap()).await.unwrap();
}
