//! Metrics in the OpenMetrics format.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use latchkey::grpc::{
    envoy::service::auth::v3::authorization_client::AuthorizationClient,
    pb::{self, LogoutScope},
};
use tokio::task::JoinSet;
use tonic::Code;

use super::serve;
use crate::{
    gateways::check_request,
    support::{
        client::{Client, login_request},
        collector::Collector,
        http::get,
        process::Process,
        redis::RedisServer,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_what_happened_in_the_openmetrics_format() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSION__KICK_WAR_CHANGES", "2")]);
    let client = process.serving_client().await;
    let value = async |name: &str| {
        let (status, text) = process.get("/metrics").await;
        assert!(status == 200 && text.ends_with("# EOF\n"), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<u64>().unwrap()
    };
    let counters = [
        "sessions_displaced_total",
        "kick_wars_total",
        "store_rollbacks_total",
        "log_lines_lost_total",
        "audit_entries_lost_total",
        "panics_total",
        "task_restarts_total",
    ];
    for name in counters {
        assert_eq!(value(&format!("latchkey_{name}")).await, 0, "{name}");
    }
    client.user("alice").await;
    for _ in 0..3 {
        client.login("alice", "").await;
    }
    assert_eq!(value("latchkey_sessions_displaced_total").await, 2);
    assert_eq!(value("latchkey_kick_wars_total").await, 1);

    client.user("bob").await;
    let token = client.login("bob", "").await.token;
    let (watch, feed) = (client.watch(&token).await, client.feed("").await);
    assert_eq!(value("latchkey_session_watches").await, 1);
    assert_eq!(value("latchkey_feed_readers").await, 1);
    drop((watch, feed));
    while value("latchkey_session_watches").await + value("latchkey_feed_readers").await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The names of metrics in the table of the documents, with the labels of each.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = include_str!("../../../docs/operations.md");
    let (_, table) = page.split_once("## Metrics\n").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let mut found = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').collect();
        let names =
            |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let labels: BTreeSet<_> = names(cells[2]).into_iter().collect();
        for name in names(cells[1]) {
            assert!(found.insert(name.clone(), labels.clone()).is_none(), "{name} is listed twice");
        }
    }
    found
}

/// The documents and a scrape name the same metrics and labels, and no user, session or token makes a series.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_list_every_metric_with_its_labels() {
    let (process, client, _data) = serve(&[]).await;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    client.session(&token).await;
    let mut exported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let before = samples(&process).await;
    for sample in before.keys() {
        let (name, labels) = sample.split_once('{').unwrap_or((sample.as_str(), ""));
        let name =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let names = labels.split('"').step_by(2).filter_map(|label| label.strip_suffix('='));
        let names = names.map(|label| label.trim_start_matches(',').to_owned()).filter(|label| label != "le");
        exported.entry(name.to_owned()).or_default().extend(names);
    }
    assert_eq!(exported, documented());

    // Other users, sessions and tokens add no series.
    for name in ["bob", "carol"] {
        client.user(name).await;
        let token = client.login(name, "").await.token;
        client.session(&token).await;
        client.rejection(&format!("{token}x")).await;
    }
    let after = samples(&process).await;
    assert!(after.keys().eq(before.keys()), "traffic has added series");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_metrics_are_exported_over_otlp() {
    let collector = Collector::start().await;
    let settings = [
        ("OTLP__ENDPOINT", &*collector.url()),
        ("OTLP__METRICS_INTERVAL", "1s"),
        ("OTLP__SERVICE_NAME", "login"),
        ("OTLP__SAMPLE_RATIO", "0"),
    ];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let ok = r#"latchkey_logins_total{outcome="ok"}"#;
    collector.metric(ok, 1.0).await;
    // As the last export at the end.
    client.validate(&token).await;
    let scraped = samples(&process).await;
    process.terminate();
    tokio::task::spawn_blocking(move || process.wait(Duration::from_secs(20))).await.unwrap();
    let exported = collector.metrics();
    assert_eq!(exported.keys().collect::<Vec<_>>(), scraped.keys().collect::<Vec<_>>());
    let verdict = r#"latchkey_verdicts_total{surface="grpc",verdict="live"}"#;
    let login =
        r#"grpc_server_handling_seconds_count{grpc_service="latchkey.v1.AuthService",grpc_method="Login"}"#;
    for series in [ok, verdict, login] {
        assert!(
            (exported[series] - scraped[series]).abs() < f64::EPSILON && scraped[series] >= 1.0,
            "{series}"
        );
    }
    for series in scraped.keys().filter(|series| series.contains("Login\",") || series.contains("hash")) {
        assert!((exported[series] - scraped[series]).abs() < 1e-9, "{series}");
    }
    assert_eq!(collector.resources().last().unwrap()["service.name"], "login");
    assert!(collector.spans().is_empty());
}

/// The samples of a scrape, by name and labels as they are written.
async fn samples(process: &Process) -> BTreeMap<String, f64> {
    let (status, text) = process.get("/metrics").await;
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let split = lines.map(|line| line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}")));
    split.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// What has changed between two scrapes, without histograms, gauges and what happens in the background.
fn changes(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, u64> {
    let families =
        ["grpc_server_handled_total", "latchkey_verdict", "latchkey_logins", "latchkey_sessions_ended"];
    let counted = after.iter().filter(|(name, _)| families.iter().any(|family| name.starts_with(family)));
    let grown = counted.filter(|(name, value)| **value > before[*name] && !name.contains("grpc.health"));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
    grown.map(|(name, value)| (name.clone(), (value - before[name]) as u64)).collect()
}

fn call(service: &str, method: &str, code: &str) -> String {
    format!(
        r#"grpc_server_handled_total{{grpc_service="{service}",grpc_method="{method}",grpc_code="{code}"}}"#
    )
}

fn expected(counts: &[(String, u64)]) -> BTreeMap<String, u64> {
    counts.iter().cloned().collect()
}

const AUTH: &str = "latchkey.v1.AuthService";

fn verdict(surface: &str, verdict: &str) -> String {
    format!(r#"latchkey_verdicts_total{{surface="{surface}",verdict="{verdict}"}}"#)
}

fn verdict_error(surface: &str) -> String {
    format!(r#"latchkey_verdict_errors_total{{surface="{surface}"}}"#)
}

fn login(outcome: &str) -> String {
    format!(r#"latchkey_logins_total{{outcome="{outcome}"}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_counts_once_with_its_outcome() {
    let (process, client, _data) = serve(&[]).await;
    client.user("alice").await;

    let before = samples(&process).await;
    let old = client.login("alice", "").await.token;
    let new = client.login("alice", "").await.token;
    let mut wrong = login_request("alice", "");
    wrong.password = "not her password".into();
    client.try_login(wrong).await.unwrap_err();
    let after = samples(&process).await;
    let ended = |reason: &str| format!(r#"latchkey_sessions_ended_total{{reason="{reason}"}}"#);
    let counts = [
        (call(AUTH, "Login", "OK"), 2),
        (call(AUTH, "Login", "Unauthenticated"), 1),
        (login("ok"), 2),
        (login("invalid_credentials"), 1),
        (ended("replaced"), 1),
    ];
    assert_eq!(changes(&before, &after), expected(&counts));

    let before = after;
    client.session(&new).await;
    client.rejection(&old).await;
    client.rejection("not a token").await;
    let after = samples(&process).await;
    let counts = [
        (call(AUTH, "Validate", "OK"), 3),
        (verdict("grpc", "live"), 1),
        (verdict("grpc", "replaced"), 1),
        (verdict("grpc", "malformed"), 1),
    ];
    assert_eq!(changes(&before, &after), expected(&counts));

    let before = after;
    let bearer = format!("Bearer {new}");
    let answer = get(process.http, "/forward-auth", &[("authorization", bearer.as_bytes())]).await;
    assert_eq!(answer.status, 200);
    let bearer = format!("Bearer {old}");
    let mut envoy = AuthorizationClient::connect(format!("http://{}", process.grpc)).await.unwrap();
    envoy.check(check_request(&[("authorization", &bearer)], &[])).await.unwrap();
    let after = samples(&process).await;
    let counts = [
        (call("envoy.service.auth.v3.Authorization", "Check", "OK"), 1),
        (verdict("forward_auth", "live"), 1),
        (verdict("ext_authz", "replaced"), 1),
    ];
    assert_eq!(changes(&before, &after), expected(&counts));

    let before = after;
    let watch = client.watch(&new).await;
    assert_eq!(changes(&before, &samples(&process).await), expected(&[]), "a stream counts when it ends");
    client.logout(&new, LogoutScope::This).await;
    watch.end().await;
    let counts = expected(&[
        (call(AUTH, "WatchSession", "OK"), 1),
        (call(AUTH, "Logout", "OK"), 1),
        (ended("logged_out"), 1),
    ]);
    while changes(&before, &samples(&process).await) != counts {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_are_turned_away_count_with_their_outcome() {
    let settings =
        [("SESSION__ON_LIMIT", "deny"), ("THROTTLE__FREE_ATTEMPTS", "1"), ("THROTTLE__FIRST_WAIT", "1m")];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    client.login("alice", "").await;
    let user_id = client.user("bob").await;
    client.update(pb::UpdateAccountRequest { user_id, disabled: Some(true), ..Default::default() }).await;
    let wrong = pb::LoginRequest { password: "not the password".into(), ..login_request("carol", "") };
    let unknown_slot = pb::LoginRequest { slot: "no such slot".into(), ..login_request("alice", "") };

    let attempts = [
        (login_request("alice", ""), Code::FailedPrecondition, Some("session_limit")),
        (login_request("bob", ""), Code::PermissionDenied, Some("disabled")),
        (wrong.clone(), Code::Unauthenticated, Some("invalid_credentials")),
        (wrong, Code::ResourceExhausted, Some("throttled")),
        (unknown_slot, Code::InvalidArgument, None),
    ];
    for (request, code, outcome) in attempts {
        let before = samples(&process).await;
        let status = client.try_login(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        let mut counts = vec![(call(AUTH, "Login", &format!("{code:?}")), 1)];
        counts.extend(outcome.map(|outcome| (login(outcome), 1)));
        assert_eq!(changes(&before, &samples(&process).await), expected(&counts));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_in_a_kick_war_counts_as_throttled() {
    let (process, client, _data) = serve(&[("SESSION__KICK_WAR_CHANGES", "2")]).await;
    client.user("alice").await;
    let before = samples(&process).await;
    let mut done = 0;
    let status = loop {
        match client.try_login(login_request("alice", ["phone", "laptop"][done % 2])).await {
            Ok(_) => done += 1,
            Err(status) => break status,
        }
        assert!(done < 10, "no login was throttled");
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let changes = changes(&before, &samples(&process).await);
    assert_eq!((changes[&login("ok")], changes[&login("throttled")]), (done as u64, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_beyond_the_password_queue_count_as_overloaded() {
    // One slow thread, and one place to wait for it.
    let settings = [
        ("PASSWORD__THREADS", "1"),
        ("PASSWORD__QUEUE", "1"),
        ("PASSWORD__MEMORY_KIB", "19456"),
        ("PASSWORD__ITERATIONS", "8"),
    ];
    let (process, client, _data) = serve(&settings).await;
    let before = samples(&process).await;
    let mut logins = JoinSet::new();
    for number in 0..12 {
        let client = client.clone();
        // An unknown username costs a hash, too.
        logins.spawn(async move { client.try_login(login_request(&format!("user{number}"), "")).await });
    }
    let codes: Vec<_> = logins.join_all().await.into_iter().map(|login| login.unwrap_err().code()).collect();
    let count = |code| codes.iter().filter(|found| **found == code).count() as u64;
    let (wrong, shed) = (count(Code::Unauthenticated), count(Code::ResourceExhausted));
    assert!(wrong > 0 && shed > 0, "{codes:?}");
    let counts = [
        (call(AUTH, "Login", "Unauthenticated"), wrong),
        (call(AUTH, "Login", "ResourceExhausted"), shed),
        (login("invalid_credentials"), wrong),
        (login("overloaded"), shed),
    ];
    assert_eq!(changes(&before, &samples(&process).await), expected(&counts));
}

/// Asks for a verdict on each token over one stream, and returns the answers.
async fn ask(client: &Client, tokens: &[&str]) -> Vec<pb::ValidateResponse> {
    let requests: Vec<_> = tokens
        .iter()
        .map(|token| pb::ValidateRequest { token: (*token).to_owned(), ..Default::default() })
        .collect();
    let answers = client.auth.clone().validate_stream(stream::iter(requests)).await.unwrap().into_inner();
    answers.map(Result::unwrap).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_verdict_of_a_stream_counts() {
    let (process, client, _data) = serve(&[]).await;
    client.user("alice").await;
    let old = client.login("alice", "").await.token;
    let new = client.login("alice", "").await.token;
    let before = samples(&process).await;
    // A request that is invalid gets no verdict, and is no error of the server.
    assert_eq!(ask(&client, &[&new, &old, &new, "not a token", ""]).await.len(), 5);
    let counts = expected(&[
        (call(AUTH, "ValidateStream", "OK"), 1),
        (verdict("stream", "live"), 2),
        (verdict("stream", "replaced"), 1),
        (verdict("stream", "malformed"), 1),
    ]);
    // The stream counts when the server has ended it.
    while changes(&before, &samples(&process).await) != counts {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durations_hashes_stores_and_the_process_are_measured() {
    let (process, client, _data) = serve(&[]).await;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    client.session(&token).await;
    let samples = samples(&process).await;
    for (name, least) in [
        (
            r#"grpc_server_handling_seconds_count{grpc_service="latchkey.v1.AuthService",grpc_method="Validate"}"#,
            1.0,
        ),
        (
            r#"grpc_server_handling_seconds_bucket{le="+Inf",grpc_service="latchkey.v1.AuthService",grpc_method="Login"}"#,
            1.0,
        ),
        ("latchkey_password_hash_seconds_count", 2.0),
        (r#"latchkey_store_requests_seconds_count{store="sessions",operation="commit"}"#, 1.0),
        (r#"latchkey_store_requests_seconds_count{store="accounts",operation="find"}"#, 1.0),
        (r#"latchkey_cache_requests_total{result="hit"}"#, 1.0),
        ("process_cpu_seconds_total", 0.0),
        ("process_open_fds", 3.0),
        ("process_max_fds", 10.0),
        ("process_resident_memory_bytes", 1e6),
        ("process_virtual_memory_bytes", 1e6),
        ("process_threads", 2.0),
        ("process_start_time_seconds", 1.6e9),
    ] {
        assert!(samples.get(name).is_some_and(|value| *value >= least), "{name}: {:?}", samples.get(name));
    }
    assert!(samples["latchkey_event_lag_seconds"] < 5.0);
    assert!(samples.keys().any(|name| name.starts_with("latchkey_build_info{")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_in_the_near_cache_counts_its_result() {
    let redis = RedisServer::start();
    for (max_staleness, cache_mib, first, second) in
        [("0s", "auto", "bypass", "bypass"), ("5s", "auto", "miss", "hit"), ("5s", "0", "bypass", "bypass")]
    {
        let settings = [
            ("SESSIONS__URL", redis.url()),
            ("VALIDATE__MAX_STALENESS", max_staleness.to_owned()),
            ("VALIDATE__CACHE_MIB", cache_mib.to_owned()),
        ];
        let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (process, client, _data) = serve(&settings).await;
        client.user("alice").await;
        let token = client.login("alice", "").await.token;
        let count = |samples: &BTreeMap<String, f64>, result: &str| {
            samples[&format!(r#"latchkey_cache_requests_total{{result="{result}"}}"#)]
        };
        for expected in [first, second] {
            // A read is cached once the event log has been followed.
            loop {
                let before = samples(&process).await;
                client.session(&token).await;
                let after = samples(&process).await;
                let total = |samples| {
                    ["hit", "miss", "bypass"].map(|result| count(samples, result)).iter().sum::<f64>()
                };
                assert!(total(&after) > total(&before), "{max_staleness} {cache_mib}");
                if count(&after, expected) > count(&before, expected) {
                    break;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_counts_errors() {
    let mut redis = RedisServer::start();
    let (process, client, _data) = serve(&[("SESSIONS__URL", &redis.url())]).await;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let before = samples(&process).await;
    redis.kill();
    client.try_validate(&token).await.unwrap_err();
    client.try_login(login_request("alice", "")).await.unwrap_err();
    assert!(ask(&client, &[&token]).await[0].failure.is_some());
    let bearer = format!("Bearer {token}");
    let answer = get(process.http, "/forward-auth", &[("authorization", bearer.as_bytes())]).await;
    assert_eq!(answer.status, 503);
    let mut envoy = AuthorizationClient::connect(format!("http://{}", process.grpc)).await.unwrap();
    envoy.check(check_request(&[("authorization", &bearer)], &[])).await.unwrap_err();
    let after = samples(&process).await;
    let store_errors = r#"latchkey_store_errors_total{store="sessions",operation="load_many"}"#;
    assert!(after[store_errors] > before[store_errors]);
    let changes = changes(&before, &after);
    let counted = ["grpc", "stream", "forward_auth", "ext_authz"].map(verdict_error);
    for name in counted.into_iter().chain([login("unavailable")]) {
        assert_eq!(changes.get(&name), Some(&1), "{name}");
    }
}
