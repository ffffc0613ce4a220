//! Login attempts of a server that is killed.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::{client::login_request, process::Process, redis::RedisServer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_during_password_checks_locks_no_user_out() {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let url = redis.url();
    let settings = [
        ("SESSIONS__URL", url.as_str()),
        ("PASSWORD__THREADS", "1"),
        ("PASSWORD__MEMORY_KIB", "19456"),
        ("PASSWORD__ITERATIONS", "60"),
    ];
    let mut process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    client.user("alice").await;
    let mut logins = JoinSet::new();
    for _ in 0..6 {
        let client = client.clone();
        logins.spawn(async move { client.try_login(login_request("alice", "")).await });
    }
    let attempts = || -> Vec<String> { redis.query(redis::cmd("KEYS").arg("*throttle*")) };
    let begun = Instant::now();
    while attempts().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no attempt is recorded");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    process.kill();
    for login in logins.join_all().await {
        login.unwrap_err();
    }
    assert_eq!(attempts().len(), 1, "no attempt is left behind");

    let process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    let begun = Instant::now();
    while let Err(status) = client.try_login(login_request("alice", "")).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("logged in {:?} after the start", begun.elapsed());
}
