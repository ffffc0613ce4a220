//! TLS and Unix sockets between Latchkey and Redis.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use latchkey::store::{
    codec_store::CodecStore,
    redis::{Password, RedisRegisters, RedisSettings, RedisTlsFiles},
};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use tempfile::TempDir;

use super::test_store::{check, settings, unavailable, until_up};
use crate::support::{
    cluster::{ClusterOptions, RedisCluster},
    redis::{Flavour, RedisServer},
    redis_node::{NodeOptions, TlsFiles},
    sentinel::{SentinelGroup, SentinelOptions},
    tls::{Authority, server_params},
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

/// A topology over TLS, with clients that are verified and passwords, also those of Sentinels.
fn secured(dir: &TempDir) -> (NodeOptions, RedisTlsFiles) {
    let authority = Authority::new("Redis CA");
    // A server also presents its certificate as a client of other servers.
    let mut params = server_params();
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    let (certificate, key) = authority.sign(&params).write(dir.path(), "server");
    let identity = authority.client(&["latchkey"]).write(dir.path(), "client");
    let ca = authority.write(dir.path());
    let tls = TlsFiles { certificate, key, ca: ca.clone(), verifies_clients: true };
    let nodes = NodeOptions { tls: Some(tls), password: Some("data".to_owned()), ..NodeOptions::default() };
    (nodes, RedisTlsFiles { ca: Some(ca), identity: Some(identity) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_their_primary_serve_tls_with_passwords_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, tls) = secured(&dir);
    let sentinel_password = Some("sentinel".to_owned());
    let options = SentinelOptions { replicas: 1, sentinel_password, nodes, ..SentinelOptions::default() };
    let Some(mut group) = SentinelGroup::start(Flavour::Redis, options).await else { return };
    let password_file = dir.path().join("sentinel-password");
    fs::write(&password_file, "sentinel\n").unwrap();
    fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600)).unwrap();
    let with = RedisSettings {
        tls,
        password: Password::Value("data".to_owned()),
        sentinel_password: Password::File(password_file),
        ..settings(group.url())
    };
    let store = start(&with);
    until_up(&store).await;
    let old = group.kill_master().await;
    group.wait_for_master_other_than(old).await;
    until_up(&store).await;

    let wrong = RedisSettings { sentinel_password: Password::Value("wrong".to_owned()), ..with };
    let store = start(&wrong);
    let begun = Instant::now();
    loop {
        let cause = unavailable(check(&store).await);
        if cause.contains("of 3 Sentinels answer") && cause.contains("WRONGPASS") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{cause}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_serves_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, tls) = secured(&dir);
    let options = ClusterOptions { replicas_per_master: 0, nodes, ..ClusterOptions::default() };
    let Some(cluster) = RedisCluster::start(Flavour::Redis, options).await else { return };
    let password = Password::Value("data".to_owned());
    let store = start(&RedisSettings { tls, password, ..settings(cluster.url()) });
    until_up(&store).await;
    for number in 0..20 {
        let user = super::states::user(&format!("user{number}"));
        super::test_store::of_sessions(&store).load(&user).await.unwrap();
    }
}
