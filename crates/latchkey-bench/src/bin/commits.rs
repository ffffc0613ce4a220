//! Measures what it is worth that concurrent commits to the embedded store share a transaction, and with it a sync of the
//! disk: commits a second, in turn, as a ratio to one at a time. Each creates a register, as a login of a new user does,
//! with an event in the log. The database is a new one in a directory below that for temporary files, or below `--directory`.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "there is nobody to tell but whoever runs it")]

#[path = "bench/numbers.rs"]
#[expect(dead_code, reason = "`make bench` needs more of it")]
mod numbers;

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
use tokio::task::JoinSet;

use numbers::median;

/// About as long as the state of a user with one session.
const BYTES: usize = 120;

/// What it is worth that commits share a transaction.
#[derive(Parser)]
struct Arguments {
    /// Measurements of each; the median is printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one measurement takes, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Commits at a time; the ratios are to the first.
    #[arg(long, value_delimiter = ',', default_value = "1,32,256")]
    concurrency: Vec<usize>,
    /// Where to put the database.
    #[arg(long)]
    directory: Option<PathBuf>,
}

/// Commits a second, from so many tasks.
async fn measure(
    registers: &Arc<EmbeddedRegisters>,
    next: &Arc<AtomicU64>,
    tasks: usize,
    time: Duration,
) -> f64 {
    let begun = Instant::now();
    let mut committing = JoinSet::new();
    for _ in 0..tasks {
        let (registers, next) = (Arc::clone(registers), Arc::clone(next));
        committing.spawn(async move {
            let mut commits = 0_u32;
            while begun.elapsed() < time {
                let change = EncodedChange {
                    expected: 0,
                    value: EncodedValue { revision: 1, bytes: Bytes::from(vec![7; BYTES]) },
                    keep_until: Timestamp::from_micros(u64::MAX),
                    events: vec![Bytes::from(vec![7; BYTES / 2])],
                };
                let key = format!("user{}", next.fetch_add(1, Ordering::Relaxed));
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
#[expect(clippy::print_stdout, reason = "the result")]
async fn main() {
    let arguments = Arguments::parse();
    let directory = match &arguments.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let directory = directory.unwrap();
    let database = Database::open(&directory.path().join("latchkey.db")).await.unwrap();
    let registers = Arc::new(EmbeddedRegisters::start(database, Arc::new(SystemClock)));
    let (next, time) = (Arc::default(), Duration::from_millis(arguments.millis));

    let mut found = vec![Vec::new(); arguments.concurrency.len()];
    for _ in 0..arguments.rounds {
        for (tasks, found) in arguments.concurrency.iter().zip(&mut found) {
            found.push(measure(&registers, &next, *tasks, time).await);
        }
    }
    println!("{:<16}{:>12}{:>8}", "commits at once", "commits/s", "ratio");
    for (tasks, each) in arguments.concurrency.iter().zip(&found) {
        let ratios = each.iter().zip(&found[0]).map(|(many, one)| many / one);
        println!("{tasks:<16}{:>12.0}{:>8.2}", median(each.iter().copied()), median(ratios));
    }
}
