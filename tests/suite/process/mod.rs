//! The binary: crashes, outages, replicas, signals, limits, the command line, the commands in the documents.

mod attempts;
mod audit;
mod backup;
mod bench;
mod callers;
mod cli;
mod cli_errors;
mod cli_help;
mod commands;
mod crash;
mod databases;
mod demo;
mod django;
mod doctor;
mod floods;
mod health;
mod history;
mod host_names;
mod import;
mod json;
mod leaks;
mod limits;
mod logging;
mod metrics;
mod outage;
mod python;
mod raw;
mod replicas;
mod rolling;
mod rotation;
mod runbook;
mod serve_check;
mod session_cli;
mod signals;
mod silent;
mod start;
mod tls;
mod traces;
mod unwritten;
mod upgrade;
mod watched;
mod watches;
mod web_page;
mod webhook;
mod wire;

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{client::Client, process::Process};

/// Starts a server with these settings and waits until it serves.
async fn serve(settings: &[(&str, &str)]) -> (Process, Client, TempDir) {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), settings);
    let client = process.serving_client().await;
    (process, client, data)
}

/// Decodes the claims of a token without verifying it.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
}

/// Reads the generation from a token.
pub fn generation(token: &str) -> u64 {
    claims(token)["gen"].as_u64().unwrap()
}

/// Reads the id of the signing key from a token.
fn kid(token: &str) -> String {
    let header = BASE64URL_NOPAD.decode(token.split('.').next().unwrap().as_bytes()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}
