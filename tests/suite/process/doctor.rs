//! `latchkey doctor`: what it finds in a configuration, its files and its stores, with and without a server.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use rcgen::date_time_ymd;
use serde_json::Value;

use super::cli::Done;
use crate::support::{
    client::PASSWORD,
    cluster::{ClusterOptions, RedisCluster},
    mysql::MariaDb,
    postgres::Postgres,
    process::{Process, command, run},
    redis::{Flavour, RedisServer},
    sentinel::{SentinelGroup, SentinelOptions},
    tls::{Authority, server_params},
};

/// The findings of a run.
struct Findings(Vec<Value>);

impl Findings {
    /// Whether there is a finding with these properties.
    fn has(&self, check: &str, severity: &str, said: &str) -> bool {
        self.0.iter().any(|finding| {
            finding["check"] == check
                && finding["severity"] == severity
                && finding["message"].as_str().unwrap().contains(said)
        })
    }

    #[track_caller]
    fn expect(&self, check: &str, severity: &str, said: &str) {
        assert!(self.has(check, severity, said), "no {severity} of {check} with {said}: {:#?}", self.0);
    }

    /// The checks with this severity.
    fn checks(&self, severity: &str) -> Vec<&str> {
        let matching = self.0.iter().filter(|finding| finding["severity"] == severity);
        matching.map(|finding| finding["check"].as_str().unwrap()).collect()
    }
}

fn says(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Done {
    // The limit of open files differs between machines.
    let settings = [&[("SERVER__MAX_CONNECTIONS", "100")], settings].concat();
    let mut command = command(data, &settings);
    command.arg("doctor").args(arguments);
    run(command, "").into()
}

/// Runs the doctor and checks its exit code, its counts, and that every problem has a remedy.
fn examine(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Findings {
    let done = says(data, settings, &[arguments, &["--output", "json"]].concat());
    let value: Value = serde_json::from_str(&done.out).unwrap_or_else(|_| panic!("{done:?}"));
    let findings = Findings(value["findings"].as_array().unwrap().clone());
    let errors = findings.checks("error").len();
    let outages = findings.0.iter().filter(|finding| finding["outage"] == true).count();
    let code = match errors {
        0 => 0,
        _ if outages == errors => 3,
        _ => 1,
    };
    assert_eq!(done.code, code, "{done:?}");
    assert_eq!(value["errors"], errors, "{value}");
    assert_eq!(value["warnings"], findings.checks("warning").len(), "{value}");
    assert_eq!(value["not_checked"], findings.checks("not_checked").len(), "{value}");
    for finding in &findings.0 {
        let is_ok = finding["severity"] == "ok";
        assert_eq!(finding["remedy"].as_str().unwrap().is_empty(), is_ok, "{finding}");
    }
    findings
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn it_works_before_the_first_start_and_beside_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let before = examine(&data, &[], &[]);
    assert!(before.checks("error").is_empty(), "{:#?}", before.0);
    before.expect("configuration", "ok", "valid");
    before.expect("server", "ok", "no server runs");
    before.expect("data_dir", "ok", "the first start creates it");
    before.expect("signing_keys", "ok", "the first start makes one");
    before.expect("disk_space", "ok", "MiB free");
    before.expect("memory", "ok", "the near-cache may take");
    assert!(!data.exists(), "it changes nothing");

    let process = Process::start(&data, &[]);
    let (grpc, http) = (process.grpc.to_string(), process.http.to_string());
    let running = [("LISTEN__GRPC", grpc.as_str()), ("LISTEN__HTTP", http.as_str())];
    let mut add = command(&data, &[("SERVER", &grpc)]);
    add.args(["account", "add", "alice"]);
    assert!(run(add, PASSWORD).status.success());
    let beside = examine(&data, &running, &[]);
    assert!(beside.checks("error").is_empty(), "{:#?}", beside.0);
    beside.expect("server", "ok", "is ready");
    beside.expect("sessions", "ok", "is in use by a server");
    beside.expect("accounts", "ok", "there are accounts");
    beside.expect("signing_keys", "ok", "keys that verify tokens: 1; ");
    beside.expect("data_dir", "ok", "is private (mode 0700)");
    // The lock was not taken.
    drop(process);
    drop(Process::start(&data, &[]));

    let text = says(&data, &[], &[]).text();
    assert!(
        text.lines().any(|line| line.starts_with("ok           configuration         the settings")),
        "{text}"
    );
    assert!(text.trim_end().ends_with("errors: 0, warnings: 0, not checked: 0"), "{text}");
    let problems = says(&data, &[("LISTEN__HTTP", "0.0.0.0:0")], &["--problems"]).text();
    let lines: Vec<_> = problems.lines().collect();
    assert_eq!(lines.len(), 3, "{problems}");
    assert!(
        lines[0].starts_with("warning      network               listen.http: the port is not encrypted"),
        "{problems}"
    );
    assert!(lines[1].trim_start().starts_with("remedy: let only the gateway"), "{problems}");
}

#[test]
fn invalid_settings_and_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("latchkey.toml");
    fs::write(&file, "session.limit = 0\ntoken.leeway = '1h'\n").unwrap();
    let found = examine(&data, &[("NO_SUCH__KEY", "1")], &["--config", file.to_str().unwrap()]);
    assert_eq!(found.checks("error"), ["configuration"; 3], "{:#?}", found.0);
    found.expect("configuration", "error", "LATCHKEY_NO_SUCH__KEY");
    found.expect("disk_space", "ok", "");
    let found = examine(&data, &[], &["--config", "/nowhere.toml"]);
    found.expect("configuration", "error", "/nowhere.toml");
    found.expect("everything_else", "not_checked", "there is no valid configuration");

    drop(Process::start(&data, &[]));
    set_mode(&data, 0o755);
    set_mode(&data.join("latchkey.db"), 0o644);
    set_mode(&data.join("admin.key"), 0o644);
    let found = examine(&data, &[], &[]);
    found.expect("data_dir", "warning", "can be entered or listed by everybody (mode 0755)");
    found.expect("data_dir", "error", "latchkey.db can be used by everybody (mode 0644)");
    found.expect("configuration", "error", "admin.key can be read by everybody");
    // SQLite reads what it can from the -wal file of the server that was killed.
    let _ = fs::remove_file(data.join("latchkey.db-wal"));
    fs::write(data.join("latchkey.db"), "this is no database ".repeat(500)).unwrap();
    examine(&data, &[], &[]).expect("sessions", "error", "");
}

#[test]
fn secrets_that_others_can_read_or_guess_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("latchkey.toml");
    let good = "f3b9o5WmVnX0b3mXh1S0bq3w";
    fs::write(&file, format!("sessions.url = 'redis://127.0.0.1:1'\nsessions.password = '{good}'\n"))
        .unwrap();
    let arguments = ["--config", file.to_str().unwrap()];
    set_mode(&file, 0o644);
    let found = examine(&data, &[], &arguments);
    found.expect("configuration_file", "error", "can be read by everybody (mode 0644)");
    found.expect("secrets", "ok", "");
    set_mode(&file, 0o640);
    examine(&data, &[], &arguments).expect("configuration_file", "ok", "");
    for weak in ["tiny-one", "changeme-changeme-changeme"] {
        let found = examine(&data, &[("SESSIONS__PASSWORD", weak)], &arguments);
        found.expect("secrets", "warning", "sessions.password: the password can be guessed");
        assert!(!found.0.iter().any(|finding| finding.to_string().contains(weak)), "the secret is printed");
        let url = format!("postgres://latchkey:{weak}@127.0.0.1:1/latchkey");
        let found = examine(&data, &[("ACCOUNTS__URL", &url)], &[]);
        found.expect("secrets", "warning", "accounts.url: the password can be guessed");
        found.expect("accounts", "error", "accounts.url: ");
    }
}

#[test]
fn certificates_that_expire_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let authority = Authority::new("ours");
    let ca = authority.write(folder.path());
    let with = |from, until| {
        let mut params = server_params();
        (params.not_before, params.not_after) = (from, until);
        let (certificate, key) = authority.sign(&params).write(folder.path(), "server");
        let settings = [
            ("TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()),
            ("TLS__KEY_FILE", key.to_str().unwrap()),
            ("TLS__CLIENT_CA_FILE", ca.to_str().unwrap()),
        ];
        examine(&data, &settings, &[])
    };
    let good = with(date_time_ymd(2020, 1, 1), date_time_ymd(2099, 1, 2));
    good.expect("certificates", "ok", "tls.certificate_file: the certificates in");
    good.expect("certificates", "ok", "are valid until 2099-01-02T00:00:00Z");
    good.expect("certificates", "ok", "tls.client_ca_file: the certificates in");
    with(date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 2)).expect(
        "certificates",
        "error",
        "has expired at 2021-01-02T00:00:00Z",
    );
    with(date_time_ymd(2098, 1, 1), date_time_ymd(2099, 1, 1)).expect(
        "certificates",
        "error",
        "is not valid before 2098-01-01T00:00:00Z",
    );
    let now = rcgen::date_time_ymd(1970, 1, 1) + std::time::UNIX_EPOCH.elapsed().unwrap();
    let soon = with(date_time_ymd(2020, 1, 1), now + std::time::Duration::from_hours(24 * 3));
    soon.expect("certificates", "warning", "expires at ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_redis_that_endanger_sessions_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let redis = RedisServer::start();
    let url = redis.url();
    let on = |settings: &[(&str, &str)]| {
        examine(&data, &[&[("SESSIONS__URL", url.as_str())], settings].concat(), &[])
    };
    let set = |name: &str, value: &str| {
        let () = redis.query(redis::cmd("CONFIG").arg("SET").arg(name).arg(value));
    };
    let found = on(&[]);
    assert!(found.checks("error").is_empty(), "{:#?}", found.0);
    found.expect("sessions.version", "ok", "Redis ");
    found.expect("sessions.eviction", "ok", "noeviction");
    found.expect("sessions.persistence", "warning", "nothing is stored on disk");
    found.expect("sessions.replicas", "ok", "replicas online: 0");
    found.expect("sessions.clock", "ok", "agrees");
    found.expect("sessions.buckets", "ok", "the store is new");
    set("save", "3600 1");
    on(&[]).expect("sessions.persistence", "warning", "only snapshots are stored (save 3600 1)");
    set("appendonly", "yes");
    set("appendfsync", "no");
    on(&[]).expect("sessions.persistence", "warning", "with appendfsync no");
    set("appendfsync", "everysec");
    on(&[]).expect("sessions.persistence", "ok", "appendfsync everysec");
    set("maxmemory-policy", "allkeys-lru");
    on(&[]).expect("sessions.eviction", "error", "with maxmemory-policy allkeys-lru Redis may drop sessions");
    set("maxmemory-policy", "noeviction");

    // Replicas and what sessions.durability asks for.
    let durable = [("SESSIONS__DURABILITY", "replicas:1")];
    let found = on(&durable);
    found.expect("sessions.replicas", "error", "online: 0, and logins fail with fewer than 1");
    found.expect("sessions.replicas", "warning", "cut off from its replicas");
    let replica = RedisServer::start();
    replica.replicate(&redis);
    set("min-replicas-to-write", "1");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !on(&durable).has(
        "sessions.replicas",
        "ok",
        "replicas online: 1, of which sessions.durability needs 1",
    ) {
        assert!(std::time::Instant::now() < deadline, "the replica does not connect");
    }
    assert!(!on(&durable).has("sessions.replicas", "warning", ""), "min-replicas-to-write is set");
    set("min-replicas-to-write", "0");
    let found = examine(&data, &[("SESSIONS__URL", &replica.url())], &[]);
    found.expect("sessions", "error", "its role is slave, not master");

    let () = redis.query(redis::cmd("SET").arg("lk:{0}:buckets").arg(128));
    on(&[]).expect("sessions.buckets", "error", "the store was made with 128");
    examine(&data, &[("SESSIONS__URL", &format!("{url}/99"))], &[]).expect("sessions", "error", "DB index");
    let found = examine(&data, &[("SESSIONS__URL", "redis://127.0.0.1:1")], &[]);
    found.expect("sessions", "error", "127.0.0.1:1: ");
    assert!(found.0.iter().any(|finding| finding["outage"] == true), "{:#?}", found.0);
    found.expect("server", "ok", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_user_of_redis_may_not_ask_is_not_checked_and_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    // The user of docs/redis.md.
    let rights = "on >f3b9o5WmVnX0b3mXh1S0bq3w resetkeys ~lk:* -@all +ping +get +mget +set +evalsha +script|load +xadd \
                  +xtrim +xlen +xrange +xrevrange +xread +time";
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg("latchkey").arg(rights.split_whitespace().collect::<Vec<_>>());
    let () = redis.query(&acl);
    let url = redis.url().replace("redis://", "redis://latchkey@");
    let settings = [("SESSIONS__URL", url.as_str()), ("SESSIONS__PASSWORD", "f3b9o5WmVnX0b3mXh1S0bq3w")];
    let found = examine(&folder.path().join("data"), &settings, &[]);
    assert!(found.checks("error").is_empty(), "{:#?}", found.0);
    let skipped = ["sessions.version", "sessions.eviction", "sessions.persistence", "sessions.replicas"];
    assert_eq!(found.checks("not_checked"), skipped, "{:#?}", found.0);
    found.expect("sessions.eviction", "not_checked", "may not send INFO");
    found.expect("sessions.clock", "ok", "agrees");

    // With INFO and without CONFIG, only what CONFIG says is left out.
    let () = redis.query(redis::cmd("ACL").arg("SETUSER").arg("latchkey").arg("+info"));
    let () = redis.query(redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("yes"));
    let found = examine(&folder.path().join("data"), &settings, &[]);
    assert_eq!(found.checks("not_checked"), ["sessions.persistence"], "{:#?}", found.0);
    let wrong = [("SESSIONS__URL", url.as_str()), ("SESSIONS__PASSWORD", "another-f3b9o5WmVnX0b3mX")];
    examine(&folder.path().join("data"), &wrong, &[]).expect("sessions", "error", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_clusters_are_examined() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let sentinel = SentinelGroup::start(Flavour::Redis, SentinelOptions::default()).await.unwrap();
    let url = sentinel.url();
    let found = examine(&data, &[("SESSIONS__URL", &url)], &[]);
    assert!(found.checks("error").is_empty(), "{:#?}", found.0);
    found.expect("sessions.version", "ok", &format!(":{}: ", sentinel.master().await));
    found.expect("sessions.replicas", "ok", "replicas online: ");
    let nobody = examine(&data, &[("SESSIONS__URL", "redis+sentinel://127.0.0.1:1,127.0.0.1:2/main")], &[]);
    nobody.expect("sessions", "warning", "the Sentinel 127.0.0.1:1 names no primary");
    nobody.expect("sessions", "warning", "only 0 of 2 Sentinels name a primary");
    nobody.expect("sessions", "error", "no server of sessions.url names a primary");
    drop(sentinel);

    let options = ClusterOptions { replicas_per_master: 0, ..Default::default() };
    let cluster = RedisCluster::start(Flavour::Redis, options).await.unwrap();
    let found = examine(&data, &[("SESSIONS__URL", &cluster.url())], &[]);
    assert!(found.checks("error").is_empty(), "{:#?}", found.0);
    for port in cluster.masters().await {
        found.expect("sessions.version", "ok", &format!(":{port}: "));
        found.expect("sessions.replicas", "warning", &format!(":{port}: replicas online: 0"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_are_examined() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for (url, version) in
        [(Postgres::shared().database().await, "PostgreSQL"), (MariaDb::shared().database().await, "MariaDB")]
    {
        let settings = [("ACCOUNTS__URL", url.as_str())];
        let found = examine(&data, &settings, &[]);
        assert!(found.checks("error").is_empty(), "{:#?}", found.0);
        found.expect("accounts", "ok", version);
        found.expect("accounts.clock", "ok", "agrees");
        found.expect("accounts.schema", "ok", "the tables do not exist yet");
        found.expect("accounts", "ok", "there are no accounts yet");
        let process = Process::start(&data, &settings);
        process.serving_client().await.user("alice").await;
        let found = examine(&data, &settings, &[]);
        found.expect("accounts.schema", "ok", "the tables have version");
        found.expect("accounts", "ok", "there are accounts");
        drop(process);
        fs::remove_dir_all(&data).unwrap();

        let wrong = [
            ("ACCOUNTS__URL", url.as_str()),
            ("ACCOUNTS__LOOKUP", "SELECT nothing FROM nowhere WHERE u = :username"),
        ];
        examine(&data, &wrong, &[]).expect("accounts", "error", "nowhere");
        let callers = [("ACCESS__CALLERS_URL", url.as_str())];
        examine(&data, &callers, &[]).expect("callers.schema", "ok", "the tables have version");
    }
}
