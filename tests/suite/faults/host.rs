//! Failures of the host of Latchkey: its process, file descriptors, disk and clock.

use std::{fs, process::Command, time::Duration};

use latchkey::grpc::pb::RejectionReason;
use tokio::net::TcpStream;

use super::{
    Scenario, USUAL,
    lab::{Lab, Options},
    report::Outcome,
    scenario,
};
use crate::support::{
    preload::{ENOSPC, EROFS, Preload},
    process::Process,
    redis::RedisServer,
};

/// How long a failure lasts that ends by itself.
const LASTING: Duration = Duration::from_millis(2500);
/// How far a clock is wrong.
const STEP: i64 = 600;

/// The reasons that a wrong clock explains.
const OF_A_CLOCK: &[RejectionReason] = &[RejectionReason::NotYetValid, RejectionReason::IdleTimeout];

pub(super) const SCENARIOS: [Scenario; 8] = [
    Scenario {
        statuses: &[
            USUAL,
            "UNAVAILABLE (no connection)",
            "UNKNOWN (no connection)",
            "CANCELLED (no connection)",
        ],
        error_limit: None,
        recovery: "by the restart; nothing that was acknowledged is lost",
        ..scenario("latchkey_killed", "Embedded store: Latchkey is killed (`kill -9`) and restarted", || {
            Box::pin(latchkey_killed())
        })
    },
    Scenario {
        error_limit: None,
        recovery: "by itself",
        ..scenario("latchkey_hangs", "One of two Latchkey servers hangs for 2.5 s (`SIGSTOP`)", || {
            Box::pin(latchkey_hangs())
        })
    },
    Scenario {
        // The store of the accounts needs descriptors, too, and has a time limit of its own.
        error_limit: None,
        recovery: "by itself, when descriptors are free",
        ..scenario(
            "descriptors",
            "Latchkey runs out of file descriptors and loses its connection to Redis for 2.5 s",
            || Box::pin(descriptors()),
        )
    },
    Scenario {
        recovery: "by itself, when there is space",
        ..scenario("disk_full", "Embedded store: the disk is full for 2.5 s", || Box::pin(disk(ENOSPC)))
    },
    Scenario {
        recovery: "by itself, when the disk is writable",
        ..scenario("disk_read_only", "Embedded store: the disk is read-only for 2.5 s", || {
            Box::pin(disk(EROFS))
        })
    },
    Scenario {
        recovery: "needs none",
        ..scenario("clock_ahead", "The clock of all Latchkey servers jumps 10 minutes ahead", || {
            Box::pin(clock(0, STEP))
        })
    },
    Scenario {
        recovery: "tokens from before are accepted again once the clock has passed their `iat`; users may log in again",
        ..scenario("clock_back", "The clock of all Latchkey servers jumps 10 minutes back", || {
            Box::pin(clock(STEP, 0))
        })
    },
    Scenario {
        recovery: "when the clocks agree",
        ..scenario(
            "clocks_differ",
            "The clock of one of two Latchkey servers is 10 minutes ahead for 2.5 s",
            || Box::pin(clocks_differ()),
        )
    },
];

async fn latchkey_killed() -> Outcome {
    let options = || Options { processes: 1, ..Options::on("embedded:") };
    let mut lab = Lab::start(options()).await;
    lab.fail();
    lab.restart(0, &options()).await;
    lab.finish().await
}

async fn latchkey_hangs() -> Outcome {
    let redis = RedisServer::start();
    let mut lab = Lab::start(Options::on(&redis.url())).await;
    lab.fail();
    lab.processes[0].signal("STOP");
    lab.go_on(LASTING).await;
    lab.processes[0].signal("CONT");
    lab.finish().await
}

fn limit_descriptors(process: &Process, count: usize) {
    let limit = format!("--nofile={count}:");
    let set = Command::new("prlimit").args(["--pid", &process.pid().to_string(), &limit]).status();
    assert!(set.unwrap().success());
}

async fn descriptors() -> Outcome {
    let redis = RedisServer::start();
    let url = redis.url();
    let mut lab = Lab::start(Options { processes: 1, ..Options::on(&url) }).await;
    let process = &lab.processes[0];
    let open = fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count();
    limit_descriptors(process, open + 2);
    // Connections that take every descriptor that becomes free.
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(TcpStream::connect(process.grpc).await.unwrap());
    }
    lab.fail();
    let _: u64 = redis.ask(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal")).await.unwrap();
    lab.go_on(LASTING).await;
    lab.processes[0].output_until("failed to accept a connection");
    drop(crowd);
    limit_descriptors(&lab.processes[0], open + 1000);
    lab.finish().await
}

async fn disk(error: i64) -> Outcome {
    let Some(preload) = Preload::build() else { return Outcome::skipped() };
    let options = Options { processes: 1, preload: Some(&preload), ..Options::on("embedded:") };
    let mut lab = Lab::start(options).await;
    lab.fail();
    preload.set(0, error);
    lab.go_on(LASTING).await;
    preload.set(0, 0);
    lab.finish().await
}

async fn clock(before: i64, after: i64) -> Outcome {
    let Some(preload) = Preload::build() else { return Outcome::skipped() };
    let redis = RedisServer::start();
    preload.set(before, 0);
    let url = redis.url();
    let options = Options { preload: Some(&preload), tolerated: OF_A_CLOCK, ..Options::on(&url) };
    let mut lab = Lab::start(options).await;
    lab.fail();
    preload.set(after, 0);
    lab.go_on(LASTING).await;
    lab.finish().await
}

async fn clocks_differ() -> Outcome {
    let Some(preload) = Preload::build() else { return Outcome::skipped() };
    let redis = RedisServer::start();
    let url = redis.url();
    let options = Options { preload: Some(&preload), tolerated: OF_A_CLOCK, ..Options::on(&url) };
    let mut lab = Lab::start_with_one_preloaded(options).await;
    lab.fail();
    preload.set(STEP, 0);
    lab.go_on(LASTING).await;
    preload.set(0, 0);
    lab.finish().await
}
