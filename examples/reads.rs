//! Measures what it is worth that concurrent loads share round trips to Redis: loads a second with
//! gathering, and with a GET each over the same kind of connection, in turn, as a ratio.
//!
//! Starts a Redis server of its own, which needs `redis-server` on the PATH, or its path in
//! `LATCHKEY_TEST_REDIS_SERVER`. What is measured is the time on this side, so give each side a processor:
//! `taskset -c 0 cargo run --release --example reads -- --server-cpu 1`.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "made of what the tests are made of")]

#[path = "../tests/suite/support/redis.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod redis;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use ::redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use bytes::Bytes;
use clap::Parser;
use latchkey::{
    domain::types::Timestamp,
    store::{
        raw::{RawChange, RawRegisters as _, RawValue},
        redis::{LinkSettings, RedisRegisters},
    },
};
use tokio::task::JoinSet;

use redis::RedisServer;

/// Registers that are read in turn, each about as large as a user with one session.
const REGISTERS: usize = 1000;
const BYTES: usize = 120;
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

/// How to load.
#[derive(Clone)]
enum Way {
    Gathered(Arc<RedisRegisters>),
    /// As the client library does it: commands of several tasks on one connection, each for itself.
    Each(MultiplexedConnection),
}

impl Way {
    async fn load(&self, number: usize, keys: &[String]) {
        let read = match self {
            Self::Gathered(store) => store.load(&name(number)).await.unwrap().unwrap().bytes.len(),
            Self::Each(connection) => {
                let mut get = ::redis::cmd("GET");
                get.arg(&keys[number]);
                let read: Vec<u8> = get.query_async(&mut connection.clone()).await.unwrap();
                read.len() - 8
            }
        };
        assert_eq!(read, BYTES);
    }
}

fn name(number: usize) -> String {
    format!("user{number:022}")
}

/// Loads a second, from so many tasks.
async fn measure(way: &Way, tasks: usize, keys: &Arc<Vec<String>>, time: Duration) -> f64 {
    let begun = Instant::now();
    let mut loading = JoinSet::new();
    for task in 0..tasks {
        let (way, keys) = (way.clone(), Arc::clone(keys));
        loading.spawn(async move {
            let mut loads = 0_u32;
            let mut number = task * 7 % REGISTERS;
            while begun.elapsed() < time {
                way.load(number, &keys).await;
                number = (number + 1) % REGISTERS;
                loads += 1;
            }
            loads
        });
    }
    let loads: u32 = loading.join_all().await.iter().sum();
    f64::from(loads) / begun.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
    let settings = LinkSettings {
        url: server.url(),
        password: None,
        connect_timeout: RESPONSE_TIMEOUT,
        response_timeout: RESPONSE_TIMEOUT,
    };
    let store = Arc::new(RedisRegisters::start(&settings, "lk").unwrap());
    while store.ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for number in 0..REGISTERS {
        let value = RawValue { revision: 1, bytes: Bytes::from(vec![1; BYTES]) };
        let keep_until = Timestamp::from_secs(1 << 33);
        let change = RawChange { expected: 0, value, keep_until, events: Vec::new() };
        store.commit(&name(number), change).await.unwrap();
    }
    let mut keys: Vec<String> = server.query(::redis::cmd("KEYS").arg("lk:*:s:*"));
    keys.sort_by(|one, other| one.rsplit(':').next().cmp(&other.rsplit(':').next()));
    let keys = Arc::new(keys);
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT));
    let connection =
        Client::open(server.url()).unwrap().get_multiplexed_async_connection_with_config(&config).await;
    let (gathered, each) = (Way::Gathered(store), Way::Each(connection.unwrap()));

    let time = Duration::from_millis(arguments.millis);
    println!("{:<12}{:>14}{:>14}{:>8}", "loads at once", "a GET each/s", "gathered/s", "ratio");
    for tasks in arguments.concurrency {
        let (mut before, mut after, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            before.push(measure(&each, tasks, &keys, time).await);
            after.push(measure(&gathered, tasks, &keys, time).await);
            ratios.push(after[after.len() - 1] / before[before.len() - 1]);
        }
        let (before, after) = (median(before), median(after));
        println!("{tasks:<13}{before:>14.0}{after:>14.0}{:>8.2}", median(ratios));
    }
}
