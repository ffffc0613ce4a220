//! grpc-health-probe, which orchestrators use to check a server.

use std::{path::Path, process::Command, time::Duration};

use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    server::{Server, Store},
    skip::find_program,
};

/// Exit codes of the probe.
const SERVING: i32 = 0;
const UNREACHABLE: i32 = 2;
const FAILED: i32 = 3;
const NOT_SERVING: i32 = 4;

async fn probe(program: &Path, address: &str, service: &str) -> i32 {
    probe_within("10s", program, address, service).await
}

/// Runs the probe with a time-out for the connection.
async fn probe_within(patience: &str, program: &Path, address: &str, service: &str) -> i32 {
    let mut command = Command::new(program);
    command.args([
        "-addr",
        address,
        "-service",
        service,
        "-connect-timeout",
        patience,
        "-rpc-timeout",
        "10s",
    ]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_distinguishes_serving_not_serving_and_unreachable() {
    let program = find_program("grpc-health-probe", "LATCHKEY_TEST_GRPC_HEALTH_PROBE");
    let Some(program) = program else { return };
    let mut server = Server::start(Store::Redis).await;
    let address = server.app.grpc.to_string();
    let auth = "latchkey.v1.AuthService";
    for service in ["", auth] {
        assert_eq!(probe(&program, &address, service).await, SERVING, "{service}");
    }
    assert_eq!(probe(&program, &address, "latchkey.v1.Unknown").await, FAILED);
    server.redis.as_mut().unwrap().kill();
    server.client.until(ServingStatus::NotServing, Duration::from_secs(5)).await;
    for service in ["", auth] {
        assert_eq!(probe(&program, &address, service).await, NOT_SERVING, "{service}");
    }
    server.redis.as_mut().unwrap().restart();
    server.client.until(ServingStatus::Serving, Duration::from_secs(5)).await;
    assert_eq!(probe(&program, &address, "").await, SERVING);
    assert!(server.app.stop().await);
    assert_eq!(probe_within("1s", &program, &address, "").await, UNREACHABLE);
}
