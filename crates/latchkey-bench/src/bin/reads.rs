//! Measures what it is worth that concurrent loads share round trips to Redis: loads a second with
//! gathering, and with a GET each over the same kind of connection, in turn, as a ratio.
//!
//! Starts a Redis server of its own, which needs `redis-server` on the PATH, or its path in
//! `LATCHKEY_TEST_REDIS_SERVER`. What is measured is the time on this side, so give each side a processor:
//! `taskset -c 0 cargo run --release --example reads -- --server-cpu 1`.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "made of what the tests are made of")]

#[path = "../../../../tests/suite/support/memory.rs"]
#[expect(dead_code, reason = "its measurement is another's")]
mod memory;
#[path = "bench/numbers.rs"]
#[expect(dead_code, reason = "`make bench` needs more of it")]
mod numbers;
#[path = "../../../../tests/suite/support/redis.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod redis;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use latchkey::{
    domain::{ports::Registers, sessions::UserSessions, types::UserId},
    store::{
        batching::BatchingSessions,
        codec_store::CodecStore,
        redis::{RedisRegisters, RedisSettings},
    },
};
use tokio::task::JoinSet;

use numbers::median;
use redis::RedisServer;

/// Users that are read in turn, with one session each.
const USERS: u32 = 1000;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What gathering loads is worth.
#[derive(Parser)]
struct Arguments {
    /// Pairs of measurements; the median is printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one measurement takes, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Loads at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,32,256")]
    concurrency: Vec<usize>,
    /// The processor that the Redis server is to stay on.
    #[arg(long)]
    server_cpu: Option<u32>,
}

/// Loads a second, from so many tasks.
async fn measure(
    sessions: &Arc<dyn Registers<UserSessions>>,
    tasks: usize,
    users: &Arc<Vec<UserId>>,
    time: Duration,
) -> f64 {
    let begun = Instant::now();
    let mut loading = JoinSet::new();
    for task in 0..tasks {
        let (sessions, users) = (Arc::clone(sessions), Arc::clone(users));
        loading.spawn(async move {
            let mut loads = 0_u32;
            for user in users.iter().cycle().skip(task * 7) {
                if begun.elapsed() >= time {
                    break;
                }
                assert_eq!(sessions.load(user).await.unwrap().state.sessions.len(), 1);
                loads += 1;
            }
            loads
        });
    }
    let loads: u32 = loading.join_all().await.iter().sum();
    f64::from(loads) / begun.elapsed().as_secs_f64()
}

fn stay_on(cpu: u32, server: &RedisServer) {
    let info: String = server.query(::redis::cmd("INFO").arg("server"));
    let process = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
    let moved = Command::new("taskset").args(["-a", "-c", "-p", &cpu.to_string(), process]).output();
    assert!(moved.unwrap().status.success(), "taskset cannot move the server");
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the result")]
async fn main() {
    let arguments = Arguments::parse();
    let server = RedisServer::start();
    if let Some(cpu) = arguments.server_cpu {
        stay_on(cpu, &server);
    }
    let settings = RedisSettings {
        url: server.url(),
        password: None,
        password_file: None,
        connect_timeout: RESPONSE_TIMEOUT,
        response_timeout: RESPONSE_TIMEOUT,
    };
    let store = Arc::new(CodecStore::new(RedisRegisters::start(&settings, "lk").unwrap()));
    while Registers::<UserSessions>::load(&*store, &UserId::random()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut users = Vec::new();
    for number in 0..USERS {
        users.push(memory::log_in(&store, number).await);
    }
    let users = Arc::new(users);
    let gathered: Arc<dyn Registers<_>> = Arc::new(BatchingSessions::new(store.clone()));
    let each: Arc<dyn Registers<_>> = store;

    let time = Duration::from_millis(arguments.millis);
    println!("{:<12}{:>14}{:>14}{:>8}", "loads at once", "a GET each/s", "gathered/s", "ratio");
    for tasks in arguments.concurrency {
        let (mut before, mut after, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            before.push(measure(&each, tasks, &users, time).await);
            after.push(measure(&gathered, tasks, &users, time).await);
            ratios.push(after[after.len() - 1] / before[before.len() - 1]);
        }
        let (before, after) = (median(before.into_iter()), median(after.into_iter()));
        println!("{tasks:<13}{before:>14.0}{after:>14.0}{:>8.2}", median(ratios.into_iter()));
    }
}
