//! `latchkey health`, which probes of containers call.

use super::cli::{Done, Shell};
use crate::support::{
    address::unused_address,
    process::{Process, command, run},
    tls::Authority,
};

fn says(shell: &Shell, words: &str, settings: &[(&str, &str)]) -> Done {
    let mut command = command(shell.data.path(), settings);
    command.args(words.split(' '));
    run(command, "").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_serves_is_healthy_on_both_ports() {
    let shell = Shell::with(&[]);
    shell.process.serving_client().await;
    assert_eq!(shell.says("health", "").text(), "serving\n");
    assert_eq!(shell.says("health latchkey.v1.AuthService/Login", "").text(), "serving\n");
    assert_eq!(shell.says_json("health", "")["status"], "SERVING");
    let http = shell.process.http.to_string();
    assert_eq!(says(&shell, &format!("health --http={http}"), &[]).text(), "serving\n");
    let local = [("LISTEN__HTTP", http.as_str())];
    assert_eq!(says(&shell, "health --http", &local).text(), "serving\n");
    assert_eq!(says(&shell, "health --http latchkey.v1.AuthService/Login", &local).text(), "serving\n");

    shell.says("health nothing", "").fails(2, "does not know the service \"nothing\"");
    says(&shell, "health nothing --http", &local).fails(2, "does not know the service \"nothing\"");
    let grpc = shell.process.grpc.to_string();
    says(&shell, &format!("health --http={grpc}"), &[]).fails(3, "does not answer like the HTTP port");
    let nobody = unused_address().to_string();
    says(&shell, &format!("health --server {nobody}"), &[]).fails(3, "no server answers");
    says(&shell, &format!("health --http={nobody}"), &[]).fails(3, "no server answers");
}

#[test]
fn a_server_without_its_store_is_not_serving() {
    let nobody = format!("redis://{}", unused_address());
    let shell = Shell::with(&[("SESSIONS__URL", &nobody)]);
    shell.says("health", "").fails(3, "the server is not serving");
    let http = shell.process.http.to_string();
    says(&shell, &format!("health --http={http}"), &[]).fails(3, "the server is not serving");
}

#[test]
fn a_server_that_does_not_answer_is_unavailable_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let data = tempfile::tempdir().unwrap();
    let mut command = command(data.path(), &[]);
    command.args(["health", &format!("--http={}", silent.local_addr().unwrap()), "--timeout", "100ms"]);
    Done::from(run(command, "")).fails(3, "did not answer within 100ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_asks_its_own_server_with_any_tls_settings() {
    for client_certificate in ["optional", "required"] {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("ours");
        let ca = authority.write(folder.path());
        let (certificate, key) = authority.server().write(folder.path(), "server");
        let tls = [
            ("TLS__CLIENT_CA_FILE", ca.to_str().unwrap()),
            ("TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()),
            ("TLS__KEY_FILE", key.to_str().unwrap()),
            ("TLS__CLIENT_CERTIFICATE", client_certificate),
        ];
        let process = Process::start(&folder.path().join("data"), &tls);
        let (grpc, http) = (process.grpc.to_string(), process.http.to_string());
        let settings =
            [&tls[..], &[("LISTEN__GRPC", grpc.as_str()), ("LISTEN__HTTP", http.as_str())]].concat();
        process.output_until("\"serving\"");
        let mut health = command(&folder.path().join("data"), &settings);
        health.arg("health");
        assert_eq!(Done::from(run(health, "")).text(), "serving\n", "{client_certificate}");
    }
}
