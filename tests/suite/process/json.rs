//! Clients of JSON that others have made: connect-go, connect-es, and schemathesis with the description of the paths.

use std::process::Command;

use latchkey::grpc::pb;
use prost_reflect::DescriptorPool;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{http::get, process::Process, skip::named_program};

/// The full names of all unary methods, without the package.
fn unary_methods() -> Vec<String> {
    let pool = DescriptorPool::decode(pb::PUBLISHED).unwrap();
    let services = pool.services().filter(|service| service.package_name() == "latchkey.v1");
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    let unary = methods.filter(|method| !method.is_client_streaming() && !method.is_server_streaming());
    let mut names: Vec<_> =
        unary.map(|method| format!("{}/{}", method.parent_service().name(), method.name())).collect();
    names.sort();
    names
}

fn start(data: &TempDir, settings: &[(&str, &str)]) -> (Process, String) {
    let process = Process::start(data.path(), settings);
    let key = std::fs::read_to_string(data.path().join("admin.key")).unwrap();
    (process, key.trim().to_owned())
}

async fn output(mut command: Command) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_go_calls_every_unary_method_in_json_and_binary() {
    let Some(client) = named_program("client of Connect", "LATCHKEY_TEST_CONNECT_CLIENT") else { return };
    let data = tempfile::tempdir().unwrap();
    let (process, key) = start(&data, &[("LISTEN__GRPC_JSON", "true")]);
    for address in [process.http, process.grpc] {
        let mut command = Command::new(&client);
        command.args([format!("http://{address}"), key.clone()]);
        calls_every_method(command).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_es_calls_every_unary_method_in_json_and_binary() {
    let Some(client) = named_program("client of Connect for Node.js", "LATCHKEY_TEST_CONNECT_ES") else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let (process, key) = start(&data, &[("LISTEN__GRPC_JSON", "true")]);
    let descriptors = data.path().join("latchkey.binpb");
    std::fs::write(&descriptors, pb::PUBLISHED).unwrap();
    for (address, version) in [(process.http, "1.1"), (process.grpc, "1.1"), (process.grpc, "2")] {
        let mut command = Command::new(&client);
        command.args([format!("http://{address}"), key.clone()]).arg(&descriptors).arg(version);
        calls_every_method(command).await;
    }
}

/// Runs a client, and checks what it called and saw in each encoding.
async fn calls_every_method(client: Command) {
    let (succeeded, text) = output(client).await;
    assert!(succeeded, "{text}");
    let seen: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for encoding in ["json", "binary", "gzip"] {
        let of = &seen[encoding];
        assert_eq!(of["called"], Value::from(unary_methods()), "{encoding}");
        assert_eq!(
            (&of["device"], &of["wrong"]),
            (&"laptop".into(), &"unauthenticated INVALID_CREDENTIALS".into()),
            "{encoding}"
        );
    }
}

/// Runs a command of the Python with the packages for `OpenAPI`.
fn python_command(python: &std::path::Path, module: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", module]);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_of_the_paths_is_valid_and_what_the_server_does() {
    let python = named_program("Python with schemathesis", "LATCHKEY_TEST_OPENAPI");
    let Some(python) = python else { return };
    let data = tempfile::tempdir().unwrap();
    let (process, key) = start(&data, &[("THROTTLE__FREE_ATTEMPTS", "50")]);
    let answer = get(process.http, "/openapi.json", &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let file = data.path().join("openapi.json");
    std::fs::write(&file, &answer.body).unwrap();
    let mut validator = python_command(&python, "openapi_spec_validator");
    validator.args(["--schema", "3.1.0"]).arg(&file);
    let (is_valid, text) = output(validator).await;
    assert!(is_valid, "{text}");
    assert!(answer.json()["paths"].as_object().unwrap().len() > unary_methods().len());

    // As everybody, and as a caller who may do everything. Streams of events do not end.
    for key in [None, Some(format!("x-latchkey-key: {key}"))] {
        let mut tester = python_command(&python, "schemathesis.cli");
        tester.current_dir(data.path()).arg("run").arg(&file);
        tester.args(["--url", &format!("http://{}", process.http), "--max-examples", "20", "--seed", "1"]);
        tester.args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ]);
        tester.args(["--exclude-path", "/v1/watch", "--phases", "examples,coverage,fuzzing", "--no-color"]);
        tester.args(["--generation-database", "none", "--request-timeout", "10"]);
        tester.args(key.iter().flat_map(|key| ["--header", key]));
        let (passes, text) = output(tester).await;
        assert!(passes, "{text}");
    }
}
