//! Signals: SIGTERM and SIGINT drain calls and end the process with 0, SIGHUP reloads keys.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use latchkey::grpc::pb;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tonic::{Code, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{NotServing, Serving},
};
use tonic_types::StatusExt as _;

use super::wire::Wire;
use crate::support::{
    client::{Client, login_request},
    process::{Process, command, run},
};

/// Settings for hashes that take a second or more.
const EXPENSIVE: [(&str, &str); 2] = [("PASSWORD__MEMORY_KIB", "131072"), ("PASSWORD__ITERATIONS", "6")];

/// How long the stop may take without calls in progress.
const AT_ONCE: Duration = Duration::from_secs(2);

async fn watch(client: &Client) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: String::new() };
    client.health.clone().watch(request).await.unwrap().into_inner()
}

/// Checks that no new connection is accepted.
async fn refuses(address: SocketAddr) {
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(1), "{address} still lets clients in");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the end of the process on a blocking thread.
async fn end(process: Process, limit: Duration) -> (Option<i32>, String) {
    tokio::task::spawn_blocking(move || process.wait(limit)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_progress_finishes_before_the_server_ends() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &EXPENSIVE);
    let client = process.serving_client().await;
    client.user("alice").await;

    let login = tokio::spawn({
        let client = client.clone();
        async move { (client.try_login(login_request("alice", "phone")).await, Instant::now()) }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    process.terminate();
    refuses(process.grpc).await;
    assert!(!login.is_finished(), "the login was too fast for this test");

    let (answer, answered) = login.await.unwrap();
    assert!(!answer.unwrap().token.is_empty());
    let (code, output) = end(process, AT_ONCE).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(answered.elapsed() < AT_ONCE);
    assert!(output.contains("draining") && output.contains("stopped"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_exceeds_the_shutdown_grace_is_cancelled() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = vec![("SERVER__SHUTDOWN_GRACE", "300ms")];
    settings.extend(EXPENSIVE);
    let process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;

    // A login of an unknown user costs the same hash.
    let login = tokio::spawn({
        let client = client.clone();
        async move { client.try_login(login_request("nobody", "phone")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    process.terminate();
    let (code, output) = end(process, Duration::from_secs(5)).await;
    let took = begun.elapsed();
    assert_eq!(code, Some(0), "{output}");
    assert!(took >= Duration::from_millis(250), "the stop did not wait for the call: {took:?}");
    assert!(took < Duration::from_millis(1300), "{took:?}");
    assert!(output.contains("did not finish within server.shutdown_grace"), "{output}");
    // The client sees a connection error and no answer of the server.
    let status = login.await.unwrap().unwrap_err();
    assert!(status.get_details_error_info().is_none(), "{status:?}");
}

/// Checks that idle connections and endless streams do not delay the stop.
async fn nothing_idle_holds_up_the_end(signal: &str) {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let idle = process.serving_client().await;
    let silent =
        [TcpStream::connect(process.grpc).await.unwrap(), TcpStream::connect(process.http).await.unwrap()];
    let mut halting = TcpStream::connect(process.grpc).await.unwrap();
    halting.write_all(b"PRI").await.unwrap();
    let mut wire = Wire::connect(process.grpc).await;
    let asking = wire.open_path("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo").await;
    let asking = tokio::spawn(asking.end());
    let watcher = process.client().await;
    let mut watch = watch(&watcher).await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), Serving);

    let begun = Instant::now();
    process.signal(signal);
    assert_eq!(watch.message().await.unwrap().unwrap().status(), NotServing);
    let status = watch.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
    refuses(process.grpc).await;
    refuses(process.http).await;
    let (code, output) = end(process, Duration::from_secs(15)).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(begun.elapsed() < AT_ONCE, "took {:?}: {output}", begun.elapsed());
    asking.await.unwrap();
    drop((idle, silent, halting));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_and_open_streams_do_not_delay_the_stop_at_sigterm() {
    nothing_idle_holds_up_the_end("TERM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_and_open_streams_do_not_delay_the_stop_at_sigint() {
    nothing_idle_holds_up_the_end("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_keys_and_ends_nothing() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("TOKEN__RELOAD_INTERVAL", "1h")]);
    let client = process.serving_client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    let (_, watch) = client.try_watch(&token).await.unwrap();
    process.signal("HUP");
    process.output_until("the signing keys are unchanged");

    let mut generate = command(data.path(), &[]);
    generate.args(["key", "generate"]);
    assert!(run(generate, "").status.success());
    process.signal("HUP");
    process.output_until("published a new signing key");
    client.session(&token).await;
    client.login("alice", "tablet").await;
    assert_eq!(watch.end().await.reason(), pb::RejectionReason::Replaced, "open streams go on");
    process.terminate();
    assert_eq!(end(process, AT_ONCE * 2).await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_the_log_level() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("latchkey.toml");
    let configure = |text: &str| std::fs::write(&path, text).unwrap();
    configure("log.level = \"info\"\n");
    let mut serve = command(data.path(), &[]);
    serve.env_remove("LATCHKEY_LOG__LEVEL").args(["serve", "--config", path.to_str().unwrap()]);
    let process = Process::launch(serve, data.path());
    let client = process.serving_client().await;
    client.user("alice").await;

    configure("log.level = \"debug\"\nserver.max_requests = 77\n");
    process.signal("HUP");
    let output = process.output_until("take effect after a restart");
    assert!(!output.contains("rpc.method"), "{output}");
    assert!(
        output.contains("config.keys=\"server.max_requests\"")
            || output.contains("\"config.keys\":\"server.max_requests\"")
    );
    client.login("alice", "").await;
    process.output_until("latchkey.v1.AuthService/Login");

    // An invalid configuration changes nothing.
    let until_count = async |text: &str, count: usize| {
        let begun = Instant::now();
        while process.output().matches(text).count() < count {
            assert!(begun.elapsed() < AT_ONCE, "{text} is missing: {}", process.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let wrong = [
        "log.level = \"loud\"\n",
        "log.levels = \"warn\"\n",
        "token.leeway = \"1h\"\nlog.level = \"warn\"\n",
    ];
    for (count, text) in (1..).zip(wrong) {
        configure(text);
        process.signal("HUP");
        until_count("keeping the settings in use", count).await;
    }
    client.user("bob").await;
    process.output_until("latchkey.v1.AccountService/CreateAccount");

    configure("log.level = \"warn\"\nserver.max_requests = 77\n");
    process.signal("HUP");
    until_count("take effect after a restart", 2).await;
    client.user("carol").await;
    process.terminate();
    let (code, output) = end(process, AT_ONCE * 2).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("bob") && !output.contains("carol"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_survive_a_stop() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let client = process.client().await;
    client.user("alice").await;
    let ended = client.login("alice", "phone").await.token;
    client.logout(&ended, pb::LogoutScope::This).await;
    let token = client.login("alice", "tablet").await.token;
    process.terminate();
    assert_eq!(end(process, AT_ONCE).await.0, Some(0));

    let process = Process::start(data.path(), &[]);
    let client = process.client().await;
    assert_eq!(client.session(&token).await.device, "tablet");
    assert_eq!(client.rejection(&ended).await.reason(), pb::RejectionReason::LoggedOut);
}
