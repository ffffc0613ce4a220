//! Measures the gain of batching concurrent commits to the embedded store into one transaction, and so one sync of the disk:
//! commits per second, as a ratio to one commit at a time. Each commit creates a register and appends an event, as the login
//! of a new user does.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use latchkey::{
    domain::types::Timestamp,
    store::{
        backend::{Backend as _, EncodedChange, EncodedCommit, EncodedValue},
        clock::SystemClock,
        embedded::{Database, EmbeddedRegisters},
    },
};
use latchkey_bench::statistics::median;
use tokio::task::JoinSet;

/// About the size of a user with one session.
const VALUE_BYTES: usize = 120;

/// Measures the gain of batching concurrent commits to the embedded store.
#[derive(Parser)]
struct Arguments {
    /// Number of measurements of each; the median is printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Duration of a measurement, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Number of commits at a time; the ratios are to the first.
    #[arg(long, value_delimiter = ',', default_value = "1,32,256")]
    concurrency: Vec<usize>,
    /// The directory to create the temporary database in. The default is that for temporary files.
    #[arg(long)]
    directory: Option<PathBuf>,
}

/// Commits from this many tasks for this long.
async fn commits_per_second(
    registers: &Arc<EmbeddedRegisters>,
    next_user: &Arc<AtomicU64>,
    tasks: usize,
    duration: Duration,
) -> f64 {
    let begun = Instant::now();
    let mut committing = JoinSet::new();
    for _ in 0..tasks {
        let (registers, next_user) = (Arc::clone(registers), Arc::clone(next_user));
        committing.spawn(async move {
            let mut commits = 0_u32;
            while begun.elapsed() < duration {
                let change = EncodedChange {
                    expected: 0,
                    value: EncodedValue { revision: 1, bytes: Bytes::from(vec![7; VALUE_BYTES]) },
                    keep_until: Timestamp::from_micros(u64::MAX),
                    events: vec![Bytes::from(vec![7; VALUE_BYTES / 2])],
                };
                let key = format!("user{}", next_user.fetch_add(1, Ordering::Relaxed));
                assert!(matches!(registers.commit(&key, change).await.unwrap(), EncodedCommit::Committed));
                commits += 1;
            }
            commits
        });
    }
    let commits: u32 = committing.join_all().await.iter().sum();
    f64::from(commits) / begun.elapsed().as_secs_f64()
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "prints the result")]
async fn main() {
    let arguments = Arguments::parse();
    let directory = match &arguments.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let directory = directory.unwrap();
    let database = Database::open(&directory.path().join("latchkey.db")).await.unwrap();
    let registers = Arc::new(EmbeddedRegisters::start(database, Arc::new(SystemClock)));
    let (next_user, duration) = (Arc::default(), Duration::from_millis(arguments.millis));

    let mut results = vec![Vec::new(); arguments.concurrency.len()];
    for _ in 0..arguments.rounds {
        for (tasks, results) in arguments.concurrency.iter().zip(&mut results) {
            results.push(commits_per_second(&registers, &next_user, *tasks, duration).await);
        }
    }
    println!("{:<16}{:>12}{:>8}", "commits at once", "commits/s", "ratio");
    for (tasks, each) in arguments.concurrency.iter().zip(&results) {
        let ratios = each.iter().zip(&results[0]).map(|(many, one)| many / one);
        println!("{tasks:<16}{:>12.0}{:>8.2}", median(each.iter().copied()), median(ratios));
    }
}
