//! A log that cannot be written delays no request, and repeated messages are logged once.

use std::{
    fs::OpenOptions,
    io::{Read as _, pipe},
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::Code;

use crate::support::{client::is_live, process::Process, redis::RedisServer};

/// The time limit of an event.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for the end of the process on a blocking thread.
async fn end(process: Process, limit: Duration) -> Option<i32> {
    tokio::task::spawn_blocking(move || process.wait(limit)).await.unwrap().0
}

/// Checks that a server serves while its output cannot be written.
fn broken() -> [Stdio; 2] {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    [full.into(), pipe().unwrap().1.into()]
}

async fn serves_without(stdout: Stdio, stderr: Stdio, logs: bool) {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start_redirected(data.path(), &[("LOG__LEVEL", "debug")], stdout, stderr);
    let client = process.serving_client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    assert!(is_live(&client.validate(&token).await));
    assert_eq!(process.get("/readyz").await.0, 200);
    let begun = Instant::now();
    while logs && process.metric("latchkey_log_lines_lost_total").await == 0 {
        assert!(begun.elapsed() < PATIENCE, "lost lines are not counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.terminate();
    assert_eq!(end(process, Duration::from_secs(20)).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_affects_no_request() {
    for stderr in broken() {
        serves_without(Stdio::null(), stderr, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_startup_message_that_cannot_be_written_affects_no_request() {
    for stdout in broken() {
        serves_without(stdout, Stdio::null(), false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_startup_message_delays_nothing() {
    let (_reader, writer) = pipe().unwrap();
    // This fills the pipe.
    let filler = writer.try_clone().unwrap();
    let filling = std::thread::spawn(move || std::io::copy(&mut std::io::repeat(b'x'), &mut { filler }));
    tokio::time::sleep(Duration::from_millis(200)).await;
    serves_without(writer.into(), Stdio::null(), false).await;
    assert!(!filling.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_log_reader_delays_neither_requests_nor_the_stop() {
    let data = tempfile::tempdir().unwrap();
    let (mut reader, writer) = pipe().unwrap();
    let process =
        Process::start_redirected(data.path(), &[("LOG__LEVEL", "debug")], Stdio::null(), writer.into());
    let client = process.serving_client().await;
    // A pipe holds 64 KiB.
    for _ in 0..20 {
        let answers = join_all((0..50).map(|_| client.try_validate("not a token")));
        let answers = timeout(PATIENCE, answers).await.expect("requests wait for the reader of the log");
        assert!(answers.iter().all(Result::is_ok));
    }
    assert_eq!(process.get("/readyz").await.0, 200);
    process.terminate();
    assert_eq!(end(process, Duration::from_secs(20)).await, Some(0));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    // Lines do not fill its pages.
    assert!(text.len() > 40_000, "the pipe was never full: {} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_logged_once_and_not_for_every_request() {
    let mut redis = RedisServer::start();
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSIONS__URL", &redis.url())]);
    let client = process.serving_client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    redis.kill();
    for _ in 0..100 {
        assert_eq!(client.try_validate(&token).await.unwrap_err().code(), Code::Unavailable);
    }
    process.output_until("a store did not answer");
    let said = process.output().matches("a store did not answer").count();
    assert_eq!(said, 1, "{}", process.output());
}
