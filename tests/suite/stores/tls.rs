//! TLS and Unix sockets between Latchkey and Redis.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};

use latchkey::store::{
    codec_store::CodecStore,
    redis::{RedisRegisters, RedisSettings, RedisTlsFiles},
};
use tempfile::TempDir;

use super::test_store::{check, settings, unavailable, until_up};
use crate::support::{
    redis::{Flavour, RedisServer},
    tls::Authority,
};

/// A Redis that serves TLS and a Unix socket beside the plain port of the tests.
struct TlsRedis {
    server: RedisServer,
    authority: Authority,
    port: u16,
    dir: TempDir,
}

impl TlsRedis {
    /// `verifies_clients` demands a certificate of this authority from every client.
    fn start(verifies_clients: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("Redis CA");
        let (certificate, key) = authority.server().write(dir.path(), "server");
        let ca = authority.write(dir.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port_text, socket) = (port.to_string(), dir.path().join("redis.sock"));
        let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let arguments = [
            ("--tls-port", port_text),
            ("--tls-cert-file", path(&certificate)),
            ("--tls-key-file", path(&key)),
            ("--tls-ca-cert-file", path(&ca)),
            ("--tls-auth-clients", if verifies_clients { "yes" } else { "no" }.to_owned()),
            ("--unixsocket", path(&socket)),
        ];
        let arguments: Vec<_> = arguments.iter().flat_map(|(name, value)| [*name, value.as_str()]).collect();
        let server = RedisServer::with(Flavour::Redis, &arguments);
        Self { server, authority, port, dir }
    }

    fn settings(&self, tls: RedisTlsFiles) -> RedisSettings {
        RedisSettings { tls, ..settings(format!("rediss://localhost:{}", self.port)) }
    }

    fn ca(&self) -> RedisTlsFiles {
        RedisTlsFiles { ca: Some(self.authority.write(self.dir.path())), identity: None }
    }

    /// The connections that the server has accepted so far.
    fn accepted(&self) -> u64 {
        let info: String = self.server.query(redis::cmd("INFO").arg("stats"));
        let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse().unwrap()
    }
}

fn start(settings: &RedisSettings) -> CodecStore<RedisRegisters> {
    CodecStore::new(RedisRegisters::start(settings, "lk").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_over_tls_with_a_root_certificate_of_its_own() {
    let redis = TlsRedis::start(false);
    let store = start(&redis.settings(redis.ca()));
    until_up(&store).await;

    // By default the system's root certificates count, and this one is not among them.
    let stranger = start(&redis.settings(RedisTlsFiles::default()));
    let begun = Instant::now();
    loop {
        let cause = unavailable(check(&stranger).await);
        if cause.contains("certificate") {
            break;
        }
        // The first attempt to connect has not ended yet.
        assert!(begun.elapsed() < Duration::from_secs(10), "{cause}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_presented_to_a_redis_that_verifies_its_clients() {
    let redis = TlsRedis::start(true);
    let anonymous = start(&redis.settings(redis.ca()));
    unavailable(check(&anonymous).await);

    let identity = redis.authority.client(&["latchkey"]).write(redis.dir.path(), "client");
    let tls = RedisTlsFiles { identity: Some(identity), ..redis.ca() };
    until_up(&start(&redis.settings(tls))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_certificates_are_used_without_a_restart() {
    let redis = TlsRedis::start(false);
    let ca = redis.dir.path().join("trusted.pem");
    fs::write(&ca, Authority::new("another CA").certificate).unwrap();
    let store = start(&redis.settings(RedisTlsFiles { ca: Some(ca.clone()), identity: None }));
    unavailable(check(&store).await);

    fs::write(&ca, &redis.authority.certificate).unwrap();
    until_up(&store).await;
    let before = redis.accepted();
    fs::write(&ca, format!("{}\n", redis.authority.certificate)).unwrap();
    let begun = Instant::now();
    // One connection is that of the question itself.
    while redis.accepted() < before + 4 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the connections were not replaced");
        assert!(check(&store).await.is_ok(), "no request fails meanwhile");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_over_a_unix_socket() {
    let redis = TlsRedis::start(false);
    let socket = redis.dir.path().join("redis.sock");
    until_up(&start(&settings(format!("unix://{}", socket.display())))).await;
}

#[test]
fn settings_that_would_not_verify_the_server_are_rejected() {
    let insecure = settings("rediss://:hunter2@redis.example.com:6379/#insecure".to_owned());
    let error = insecure.check().unwrap_err();
    assert!(error.contains("sessions.tls_ca_file") && !error.contains("hunter2"), "{error}");

    let missing = RedisTlsFiles { ca: Some("/no/such.pem".into()), identity: None };
    let missing = RedisSettings { tls: missing, ..settings("rediss://redis.example.com".to_owned()) };
    assert!(missing.check().unwrap_err().starts_with("sessions.tls_ca_file: /no/such.pem: "));
}
