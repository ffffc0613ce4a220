//! Measures the gain of batching concurrent loads from Redis: loads per second with batching, and with a GET each over the
//! same kind of connection, in turns, as a ratio.
//!
//! Starts a Redis server of its own. What is measured is the time on this side, so give each side a core:
//! `taskset -c 0 make reads ARGS="--server-cpu 1"`.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use latchkey::{
    domain::{ports::Registers, sessions::UserSessions, types::UserId},
    store::batching::BatchingSessions,
};
use latchkey_bench::{
    processes::redis_info,
    seed,
    statistics::median,
    support::{memory, redis::RedisServer},
};
use tokio::task::JoinSet;

/// Number of users with one session each, whose registers are read in turn.
const USERS: u32 = 1000;

/// Measures the gain of batching concurrent loads from Redis.
#[derive(Parser)]
struct Arguments {
    /// Number of pairs of measurements; the median is printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Duration of a measurement, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Number of loads at a time; several are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,32,256")]
    concurrency: Vec<usize>,
    /// The core to pin the Redis server to. By default it is not pinned.
    #[arg(long)]
    server_cpu: Option<u32>,
}

/// Loads registers from this many tasks for this long.
async fn loads_per_second(
    sessions: &Arc<dyn Registers<UserSessions>>,
    tasks: usize,
    users: &Arc<Vec<UserId>>,
    duration: Duration,
) -> f64 {
    let begun = Instant::now();
    let mut loading = JoinSet::new();
    for task in 0..tasks {
        let (sessions, users) = (Arc::clone(sessions), Arc::clone(users));
        loading.spawn(async move {
            let mut loads = 0_u32;
            for user in users.iter().cycle().skip(task * 7) {
                if begun.elapsed() >= duration {
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

fn pin_server(cpu: u32, server: &RedisServer) {
    let pid = redis_info(server, "server", "process_id").unwrap();
    let taskset = Command::new("taskset").args(["-a", "-c", "-p", &cpu.to_string(), &pid]).output();
    assert!(taskset.unwrap().status.success(), "taskset cannot pin the Redis server");
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "prints the result")]
async fn main() {
    let arguments = Arguments::parse();
    let server = RedisServer::start();
    if let Some(cpu) = arguments.server_cpu {
        pin_server(cpu, &server);
    }
    let store = Arc::new(seed::redis(server.url()).await.unwrap());
    let mut users = Vec::new();
    for number in 0..USERS {
        users.push(memory::log_in(&store, number).await);
    }
    let users = Arc::new(users);
    let batching: Arc<dyn Registers<_>> = Arc::new(BatchingSessions::new(store.clone()));
    let one_by_one: Arc<dyn Registers<_>> = store;

    let duration = Duration::from_millis(arguments.millis);
    println!("{:<12}{:>14}{:>14}{:>8}", "loads at once", "a GET each/s", "batched/s", "ratio");
    for tasks in arguments.concurrency {
        let (mut before, mut after, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            before.push(loads_per_second(&one_by_one, tasks, &users, duration).await);
            after.push(loads_per_second(&batching, tasks, &users, duration).await);
            ratios.push(after[after.len() - 1] / before[before.len() - 1]);
        }
        let (before, after) = (median(before.into_iter()), median(after.into_iter()));
        println!("{tasks:<13}{before:>14.0}{after:>14.0}{:>8.2}", median(ratios.into_iter()));
    }
}
