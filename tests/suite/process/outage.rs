//! Promise P5 during an outage of Redis: fail closed, fast and distinctly, and recover without a restart.

use std::time::{Duration, Instant};

use latchkey::grpc::pb::{self, RejectionReason, validate_response::Verdict};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
use tonic_types::StatusExt as _;

use crate::support::{
    client::{Client, login_request},
    cluster::{ClusterOptions, RedisCluster},
    process::Process,
    proxy::{Proxy, ProxyMode},
    redis::{Flavour, RedisServer},
    redis_node::NodeOptions,
    sentinel::{MASTER_NAME, SentinelGroup, SentinelOptions},
};

/// How long an answer may take during an outage of the store.
const FAST: Duration = Duration::from_secs(1);
/// How long the health status may take to follow.
const NOTICED: Duration = Duration::from_millis(1500);
/// How long the recovery may take after the store is back.
const RECOVERED: Duration = Duration::from_secs(2);

/// Checks that a call fails fast. Returns its message.
async fn fails_fast<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Status>>) -> String {
    let begun = Instant::now();
    let status = call.await.unwrap_err();
    assert!(begun.elapsed() < FAST, "took {:?}", begun.elapsed());
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("STORE_UNAVAILABLE", "latchkey"));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    status.message().to_owned()
}

/// Checks that calls that need sessions fail fast and all others go on.
async fn nothing_is_taken_for_a_verdict(client: &Client, token: &str) {
    let message = fails_fast(client.try_validate(token)).await;
    assert!(message.ends_with("store is unavailable: try again"), "{message}");
    let login = fails_fast(client.try_login(login_request("alice", "phone"))).await;
    let logout =
        fails_fast(client.auth.clone().logout(pb::LogoutRequest { token: token.into(), scope: 0 })).await;
    // Only of a change is the outcome unknown.
    for message in [login, logout] {
        assert!(message.contains("whether the change was made is unknown"), "{message}");
    }
    // Signatures and public keys need no store.
    assert_eq!(client.rejection("not a token").await.reason(), RejectionReason::Malformed);
    let jwks = client.auth.clone().get_jwks(pb::GetJwksRequest {}).await.unwrap().into_inner().jwks;
    assert!(jwks.contains("Ed25519"), "{jwks}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_an_outage_of_redis_calls_fail_fast_and_recover_without_a_restart() {
    let mut redis = RedisServer::start();
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSIONS__URL", &redis.url())]);
    let client = process.serving_client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    client.session(&token).await;
    assert_eq!(process.get("/readyz").await.0, 200);

    redis.kill();
    nothing_is_taken_for_a_verdict(&client, &token).await;
    client.until(NotServing, NOTICED).await;
    assert_eq!(client.serving("latchkey.v1.AuthService").await, NotServing);
    assert_eq!(process.get("/readyz").await.0, 503);
    assert_eq!(process.get("/livez").await.0, 200);
    assert_eq!(process.get("/.well-known/jwks.json").await.0, 200);
    nothing_is_taken_for_a_verdict(&client, &token).await;

    redis.restart();
    let begun = Instant::now();
    client.until(Serving, RECOVERED).await;
    // This Redis has no persistence; the server has made its commits again.
    client.session(&token).await;
    let new = client.login("alice", "phone").await.token;
    client.session(&new).await;
    assert!(begun.elapsed() < RECOVERED, "took {:?}", begun.elapsed());
    assert_eq!(process.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_a_crash_of_a_redis_that_keeps_them_on_disk() {
    let mut redis = RedisServer::with(Flavour::Redis, &["--appendonly", "yes", "--appendfsync", "always"]);
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSIONS__URL", &redis.url())]);
    let client = process.serving_client().await;
    client.user("alice").await;
    let old = client.login("alice", "tablet").await.token;
    let token = client.login("alice", "phone").await.token;

    redis.kill();
    client.until(NotServing, NOTICED).await;
    redis.restart();
    client.until(Serving, RECOVERED).await;
    assert_eq!(client.session(&token).await.device, "phone");
    assert_eq!(client.rejection(&old).await.reason(), RejectionReason::Replaced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_in_time_while_redis_stalls() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(redis.port).await;
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSIONS__URL", &format!("redis://{}", proxy.address))]);
    let client = process.serving_client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;

    proxy.set(ProxyMode::Stall);
    nothing_is_taken_for_a_verdict(&client, &token).await;
    client.until(NotServing, NOTICED).await;

    proxy.set(ProxyMode::Forward);
    let begun = Instant::now();
    while client.try_validate(&token).await.is_err() {
        assert!(begun.elapsed() < RECOVERED, "nothing works after {RECOVERED:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.until(Serving, RECOVERED).await;
    assert_eq!(client.session(&token).await.device, "phone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_node_of_a_cluster_holds_up_only_its_users() {
    let nodes = NodeOptions {
        arguments: vec!["--cluster-require-full-coverage".to_owned(), "no".to_owned()],
        ..NodeOptions::default()
    };
    let options = ClusterOptions { replicas_per_master: 0, nodes, ..ClusterOptions::default() };
    let Some(mut cluster) = RedisCluster::start(Flavour::Redis, options).await else { return };
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSIONS__URL", &cluster.url())]);
    let client = process.serving_client().await;
    let mut tokens = Vec::new();
    for number in 0..40 {
        let name = format!("user{number}");
        client.user(&name).await;
        tokens.push(client.login(&name, "phone").await.token);
    }
    let lost = cluster.masters().await[0];
    cluster.node_mut(lost).server.kill();
    // Long enough for the leases of the epoch and of the primaries to end.
    let begun = Instant::now();
    let mut served = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(client.serving("").await, Serving, "health reports the loss of one node");
        served = 0;
        for token in &tokens {
            match client.try_validate(token).await {
                Ok(verdict) => {
                    assert!(matches!(verdict, Verdict::Session(_)), "{verdict:?}");
                    served += 1;
                }
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
            }
        }
    }
    assert!((10..40).contains(&served), "{served} of 40 users are served with two of three nodes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsafe_settings_of_redis_are_logged() {
    let options = SentinelOptions { replicas: 1, ..SentinelOptions::default() };
    let Some(group) = SentinelGroup::start(Flavour::Redis, options).await else { return };
    let data = tempfile::tempdir().unwrap();
    let url = format!("redis+sentinel://127.0.0.1:{}/{MASTER_NAME}", group.sentinels[0].port);
    let settings = [("SESSIONS__URL", url.as_str()), ("SESSIONS__DURABILITY", "replicas:2")];
    let process = Process::start(data.path(), &settings);
    process.output_until("list all of them");
    process.output_until("set min-replicas-to-write to 2");
    process.output_until("sessions.durability asks for 2 replicas, and fewer are connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_may_start_before_redis() {
    let mut redis = RedisServer::start();
    redis.kill();
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSIONS__URL", &redis.url())]);
    let client = process.client().await;
    assert_eq!(client.serving("").await, NotServing);
    assert_eq!(process.get("/readyz").await.0, 503);
    fails_fast(client.try_login(login_request("alice", "phone"))).await;

    redis.restart();
    client.until(Serving, RECOVERED).await;
    assert_eq!(process.get("/readyz").await.0, 200);
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    client.session(&token).await;
}
