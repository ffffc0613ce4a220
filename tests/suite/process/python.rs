//! The official Python client, which uses reflection `v1alpha` and gzip.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::support::{client::PASSWORD, process::Process, skip::named_program};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_python_client_reads_the_protocol_by_reflection_and_sends_gzip() {
    let python = named_program("Python with grpcio-reflection", "LATCHKEY_TEST_GRPCIO");
    let Some(python) = python else { return };
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    process.client().await.user("alice").await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/grpcio/client.py");
    let mut command = Command::new(python);
    command.arg(script).args([&process.grpc.to_string(), "alice", PASSWORD]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    for service in ["latchkey.v1.AuthService", "grpc.reflection.v1.ServerReflection", "grpc.health.v1.Health"]
    {
        assert!(said["services"].as_array().unwrap().contains(&service.into()), "{service}: {said}");
    }
    for device in said["devices"].as_array().unwrap() {
        assert_eq!(device.as_str().unwrap(), "x".repeat(128));
    }
    assert_eq!(said["large"], "INVALID_ARGUMENT");
}
