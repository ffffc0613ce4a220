//! Health: the status of each service follows the stores that it needs.

use rstest::rstest;
use std::time::Duration;

use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest,
    health_check_response::ServingStatus::{NotServing, Serving},
};

use crate::support::{
    client::{LOGIN, login_request},
    http,
    postgres::Postgres,
    process::Process,
    proxy::{Proxy, ProxyMode},
    server::{Server, Store},
};

const VALIDATE: &str = "latchkey.v1.AuthService";
const ENVOY: &str = "envoy.service.auth.v3.Authorization";
const SESSIONS: &str = "latchkey.v1.SessionService";
const ACCOUNTS: &str = "latchkey.v1.AccountService";
const CALLERS: &str = "latchkey.v1.CallerService";

const ALL: [&str; 7] = ["", VALIDATE, ENVOY, LOGIN, SESSIONS, ACCOUNTS, CALLERS];

/// Longer than a probe and its time-out take on a busy machine.
const NOTICED: Duration = Duration::from_secs(15);

/// Waits until exactly these services are NOT_SERVING and /readyz agrees.
async fn only_down(server: &Server, down: &[&str]) {
    let client = &server.client;
    for service in ALL {
        let expected = if down.contains(&service) { NotServing } else { Serving };
        client.until_service(service, expected, NOTICED).await;
        let path = format!("/readyz?service={service}");
        let status = http::get(server.app.http, &path, &[]).await.status;
        assert_eq!(status, if expected == Serving { 200 } else { 503 }, "{path}");
    }
    let overall = http::get(server.app.http, "/readyz", &[]).await.status;
    assert_eq!(overall, if down.contains(&"") { 503 } else { 200 });
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_has_a_health_status(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    only_down(&server, &[]).await;
    let unknown = HealthCheckRequest { service: "latchkey.v1.Unknown".into() };
    let status = server.client.health.clone().check(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(http::get(server.app.http, "/readyz?service=latchkey.v1.Unknown", &[]).await.status, 404);
    let escaped = "/readyz?service=latchkey.v1.AuthService%2FLogin";
    assert_eq!(http::get(server.app.http, escaped, &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_store() {
    let mut server = Server::start(Store::Redis).await;
    server.redis.as_mut().unwrap().kill();
    only_down(&server, &["", VALIDATE, ENVOY, LOGIN, SESSIONS]).await;
    server.redis.as_mut().unwrap().restart();
    only_down(&server, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_accounts_validate_serves_and_logins_do_not() {
    let url = Postgres::shared().database().await;
    let (before, after) = url.split_once("@127.0.0.1:").unwrap();
    let (port, rest) = after.split_once('/').unwrap();
    let proxy = Proxy::to(port.parse().unwrap()).await;
    let url = format!("{before}@{}/{rest}", proxy.address);
    let server = Server::with(Store::Redis, &[("ACCOUNTS__URL", &url)]).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    for mood in [ProxyMode::Disconnect, ProxyMode::Stall] {
        proxy.set(mood);
        only_down(&server, &[LOGIN, ACCOUNTS, CALLERS]).await;
        server.client.session(&token).await;
        let status = server.client.try_login(login_request("alice", "")).await.unwrap_err();
        assert_eq!(super::parts(&status).1, "STORE_UNAVAILABLE");
        proxy.set(ProxyMode::Forward);
        only_down(&server, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_denies_reads_or_writes_is_not_serving() {
    let server = Server::start(Store::Redis).await;
    let redis = server.redis.as_ref().unwrap();
    let allow = |rules: &[&str]| {
        let () = redis.query(redis::cmd("ACL").arg("SETUSER").arg("default").arg(rules));
    };
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;

    allow(&["-evalsha", "-eval"]);
    only_down(&server, &[LOGIN, SESSIONS]).await;
    server.client.session(&token).await;
    allow(&["-get"]);
    only_down(&server, &["", VALIDATE, ENVOY, LOGIN, SESSIONS]).await;
    assert!(server.client.try_validate(&token).await.is_err());
    allow(&["+@all"]);
    only_down(&server, &[]).await;

    // With noeviction and no free memory Redis still serves reads.
    let () = redis.query(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1"));
    only_down(&server, &[LOGIN, SESSIONS]).await;
    server.client.session(&token).await;
    let () = redis.query(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0"));
    only_down(&server, &[]).await;

    // Redis accepts no writes without enough replicas.
    let () = redis.query(redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg("1"));
    only_down(&server, &[LOGIN, SESSIONS]).await;
    let () = redis.query(redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg("0"));
    only_down(&server, &[]).await;
}

/// The limit of file sizes belongs to a process, so the test needs a separate one.
fn limit_files(process: &Process, bytes: &str) {
    let limit = format!("--fsize={bytes}");
    let mut command = std::process::Command::new("prlimit");
    assert!(command.args(["--pid", &process.pid().to_string(), &limit]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_noticed_and_stops_only_logins() {
    let data = tempfile::tempdir().unwrap();
    let serve = crate::support::process::command(data.path(), &[("LOG__LEVEL", "info")]);
    // SIGXFSZ is ignored, so a write beyond the limit is an error.
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(format!("trap '' XFSZ; exec '{}' serve", crate::support::process::LATCHKEY));
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let process = Process::launch(shell, data.path());
    let client = process.client().await;
    client.until_serving().await;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;

    limit_files(&process, "1:");
    client.until_service(LOGIN, NotServing, NOTICED).await;
    assert_eq!(client.serving(SESSIONS).await, NotServing);
    assert_eq!((client.serving("").await, client.serving(VALIDATE).await), (Serving, Serving));
    client.session(&token).await;
    assert!(client.try_login(login_request("alice", "")).await.is_err());
    limit_files(&process, "unlimited:");
    client.until_service(LOGIN, Serving, NOTICED).await;
    client.login("alice", "").await;
    let log = process.output();
    let told = log.matches("not serving").count();
    assert_eq!(told, 1, "a change is told once, with its cause: {log}");
    assert!(log.contains("latchkey.v1.AuthService/Login, latchkey.v1.SessionService"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_data_directory_is_deleted_acknowledges_nothing_and_logs_it_once() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let process = Process::start(&data, &[]);
    let client = process.client().await;
    client.until_serving().await;
    client.user("alice").await;
    client.login("alice", "").await;

    std::fs::remove_dir_all(&data).unwrap();
    for service in ["", LOGIN, ACCOUNTS] {
        client.until_service(service, NotServing, NOTICED).await;
    }
    let status = client.try_login(login_request("alice", "")).await.unwrap_err();
    assert_eq!(super::parts(&status).1, "STORE_UNAVAILABLE");
    let log = process.output_until("the database file is gone");
    assert_eq!(log.matches("the database file is gone").count(), 1, "{log}");
    assert!(log.contains("stop Latchkey, put the file back or restore a backup"), "{log}");
}
