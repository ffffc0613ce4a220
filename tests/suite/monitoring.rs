//! The rules, alerts and dashboard in `deploy/` on a real Prometheus that scrapes a real server, and the runbook.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use axum::body::{Body, to_bytes};
use futures_util::{StreamExt as _, stream};
use http::Request;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use latchkey::grpc::{envoy::service::auth::v3::authorization_client::AuthorizationClient, pb};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    gateways::check_request,
    support::{
        address::unused_address,
        child_server::ChildServer,
        client::{Client, login_request},
        http::{get, try_get},
        process::{Process, run},
        redis::RedisServer,
        skip::find_program,
    },
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// A part of `rules.yml` that defines one alert.
struct Alert<'a> {
    name: &'a str,
    text: &'a str,
}

fn alerts(rules: &str) -> Vec<Alert<'_>> {
    let parts = rules.split("\n      - ").filter_map(|part| part.strip_prefix("alert: "));
    let alerts: Vec<_> = parts.map(|text| Alert { name: text.lines().next().unwrap(), text }).collect();
    assert!(alerts.len() > 10, "only {} alerts", alerts.len());
    alerts
}

#[test]
fn every_alert_has_an_entry_in_the_runbook_and_a_test() {
    let (rules, tests, runbook) = (
        file("deploy/prometheus/rules.yml"),
        file("deploy/prometheus/rules.test.yml"),
        file("docs/runbook.md"),
    );
    let alerts = alerts(&rules);
    for alert in &alerts {
        let Alert { name, text } = alert;
        let labels = ["labels: { severity: critical }", "labels: { severity: warning }"];
        assert!(labels.iter().any(|label| text.contains(label)), "{name} has no severity");
        for annotation in ["summary: ", "description: ", "runbook_url: "] {
            assert!(text.contains(annotation), "{name} has no {annotation}");
        }
        let anchor = format!("runbook_url: docs/runbook.md#{}", name.to_lowercase());
        assert!(text.lines().any(|line| line.trim() == anchor), "{name} does not point to its entry");
        // promtool checks that the alert fires.
        let fires = tests
            .split("- eval_time:")
            .any(|test| test.contains(&format!("alertname: {name}\n")) && test.contains("exp_alerts:\n"));
        assert!(fires, "rules.test.yml has no case in which {name} fires");
    }
    let names: BTreeSet<_> = alerts.iter().map(|alert| alert.name).collect();
    let entries: Vec<_> = runbook.lines().filter_map(|line| line.strip_prefix("## Latchkey")).collect();
    let entries: BTreeSet<_> = entries.iter().map(|name| format!("Latchkey{name}")).collect();
    assert_eq!(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), entries);
    for entry in runbook.split("\n## Latchkey").skip(1) {
        for part in ["**Meaning.**", "**Impact.**", "**Find out.**", "**Remedy.**"] {
            assert!(
                entry.contains(part),
                "the entry of Latchkey{} has no {part}",
                entry.lines().next().unwrap()
            );
        }
    }
}

#[test]
fn what_the_documents_call_alarming_has_an_alert() {
    let (rules, page) = (file("deploy/prometheus/rules.yml"), file("docs/operations.md"));
    let rows = page.lines().filter(|line| line.starts_with("| `") && line.contains("alert"));
    let metrics: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert!(metrics.len() > 3, "{metrics:?}");
    let alerts = alerts(&rules);
    for metric in metrics {
        assert!(alerts.iter().any(|alert| alert.text.contains(metric)), "no alert uses {metric}");
    }
}

/// The code blocks of this language in a page.
fn blocks<'a>(page: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    let begin = format!("```{language}\n");
    page.match_indices(&begin.clone()).collect::<Vec<_>>().into_iter().map(move |(at, _)| {
        let block = &page[at + begin.len()..];
        block.split("```").next().unwrap()
    })
}

/// Prometheus and promtool, which is beside it.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let prometheus = find_program("prometheus", "LATCHKEY_TEST_PROMETHEUS")?;
    let promtool = prometheus.with_file_name("promtool");
    Some((prometheus, promtool))
}

fn promtool(program: &Path, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root().join("deploy/prometheus"));
    let output = run(command, "");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&text));
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules_and_their_tests_pass() {
    let Some((_, program)) = programs() else { return };
    promtool(&program, &["check", "config", "prometheus.yml"]);
    promtool(&program, &["check", "rules", "rules.yml"]);
    promtool(&program, &["test", "rules", "rules.test.yml"]);
}

/// A running Prometheus with the configuration and the rules of `deploy/`.
struct Prometheus {
    address: SocketAddr,
    http: HttpClient<HttpConnector, Body>,
    _process: ChildServer,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` and evaluates the rules each second.
    async fn start(program: &Path, target: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = file("deploy/prometheus/prometheus.yml");
        let (before, discovery) = config.split_once("    dns_sd_configs:\n").unwrap();
        assert!(discovery.lines().all(|line| line.starts_with("      ")), "more than a target follows");
        let interval = "_interval: 15s";
        assert_eq!(before.matches(interval).count(), 2, "{before}");
        let before = before.replace(interval, "_interval: 1s");
        let config = format!("{before}    static_configs: [{{ targets: [\"{target}\"] }}]\n");
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        fs::write(dir.path().join("rules.yml"), file("deploy/prometheus/rules.yml")).unwrap();
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        // Another process may take the port first, so several ports are tried.
        for _ in 0..10 {
            let address = unused_address();
            let mut command = Command::new(program);
            command.arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()));
            command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
            command.arg(format!("--web.listen-address={address}"));
            let mut process = ChildServer::start(&command, "KILL", None);
            let begun = Instant::now();
            while !process.has_ended() && begun.elapsed() < Duration::from_secs(30) {
                if try_get(address, "/-/ready", &[]).await.is_some_and(|answer| answer.status == 200) {
                    return Self { address, http, _process: process, _dir: dir };
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("Prometheus did not start");
    }

    async fn api(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request::post(format!("http://{}/api/v1/{path}", self.address))
            .header("content-type", "application/x-www-form-urlencoded");
        let request = if form.is_empty() {
            Request::get(format!("http://{}/api/v1/{path}", self.address)).body(Body::empty())
        } else {
            request.body(Body::from(body))
        };
        let answer = self.http.request(request.unwrap()).await.unwrap().into_body();
        let answer = to_bytes(Body::new(answer), usize::MAX).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{form:?}: {answer}");
        answer["data"].clone()
    }

    /// The values that a query returns now.
    async fn query(&self, query: &str) -> Vec<f64> {
        let data = self.api("query", &[("query", query)]).await;
        let number = |sample: &Value| sample[1].as_str().unwrap().parse().unwrap();
        match data["resultType"].as_str().unwrap() {
            "scalar" => vec![number(&data["result"])],
            _ => data["result"].as_array().unwrap().iter().map(|series| number(&series["value"])).collect(),
        }
    }

    /// The selectors of a query that select nothing.
    async fn unknown(&self, query: &str) -> Vec<String> {
        let selectors = selectors(query);
        assert!(!selectors.is_empty() || query.starts_with("vector("), "{query} selects nothing");
        let mut unknown = Vec::new();
        for selector in selectors {
            if self.query(&format!("last_over_time({selector}[5m])")).await.is_empty() {
                unknown.push(selector);
            }
        }
        unknown
    }
}

/// The vector selectors in a query: names of metrics, with what follows in braces.
fn selectors(query: &str) -> Vec<String> {
    const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(|c: char| is_name(c) || c == '"') {
        rest = &rest[at..];
        if let Some(text) = rest.strip_prefix('"') {
            rest = &text[text.find('"').unwrap() + 1..];
            continue;
        }
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        let next = rest.trim_start();
        if GROUPING.contains(&name) {
            rest = &next[next.find(')').unwrap()..];
        } else if !next.starts_with('(') && (name == "up" || name.contains(['_', ':'])) {
            let labels = if rest.starts_with('{') { rest.find('}').unwrap() + 1 } else { 0 };
            found.push(format!("{name}{}", &rest[..labels]));
            rest = &rest[labels..];
        } else if rest.starts_with('[') {
            rest = &rest[rest.find(']').unwrap()..];
        }
    }
    found
}

#[test]
fn selectors_of_a_query_are_found() {
    let query = r#"1 - sum by (a_b) (rate(x_total{c="d",e=~"f|{g"}[5m])) / on (job_name) up > 4 * scalar(a:b:c) or absent(up{job="l"} == 1)"#;
    // A brace in a label would end the selector, which Prometheus would then reject.
    let query = query.replace("{g", "g");
    assert_eq!(selectors(&query), [r#"x_total{c="d",e=~"f|g"}"#, "up", "a:b:c", r#"up{job="l"}"#]);
}

/// The expressions of the dashboard, as Grafana would send them.
fn dashboard() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("expr").map(|expr| expr.as_str().unwrap().to_owned()));
                fields.values().for_each(|field| collect(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/dashboards/latchkey.json")).unwrap();
    let mut found = Vec::new();
    collect(&dashboard["panels"], &mut found);
    assert!(found.len() > 30, "only {} queries", found.len());
    let sent = |expr: String| {
        expr.replace("$job", "latchkey").replace("$instance", ".*").replace("$__rate_interval", "1m")
    };
    found.into_iter().map(sent).collect()
}

/// Uses every interface, so that each query has something to show.
async fn load(process: &Process, client: &Client) {
    let token = client.login("alice", "").await.token;
    let bearer = format!("Bearer {token}");
    client.session(&token).await;
    client.rejection("not a token").await;
    let wrong = pb::LoginRequest { password: "not her password".into(), ..login_request("bob", "") };
    client.try_login(wrong).await.unwrap_err();
    assert_eq!(get(process.http, "/forward-auth", &[("authorization", bearer.as_bytes())]).await.status, 200);
    let mut envoy = AuthorizationClient::connect(format!("http://{}", process.grpc)).await.unwrap();
    envoy.check(check_request(&[("authorization", &bearer)], &[])).await.unwrap();
    let request = pb::ValidateRequest { token, ..Default::default() };
    let answers = client.auth.clone().validate_stream(stream::iter([request])).await.unwrap();
    assert_eq!(answers.into_inner().count().await, 1);
    client.logout(&bearer["Bearer ".len()..], pb::LogoutScope::This).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboard_the_rules_and_the_runbook_has_a_result() {
    let Some((program, _)) = programs() else { return };
    let redis = RedisServer::start();
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSIONS__URL", &redis.url())]);
    let client = process.serving_client().await;
    for user in ["alice", "bob"] {
        client.user(user).await;
    }
    let prometheus = Prometheus::start(&program, process.http).await;

    // The last rules of all groups are evaluated on at least two scrapes.
    let begun = Instant::now();
    loop {
        load(&process, &client).await;
        let mut is_complete =
            prometheus.query("count_over_time(latchkey_build_info[1m]) > 5").await.len() == 1;
        for indicator in ["verdict_errors", "verdict_slow", "login_errors", "login_slow"] {
            let record = format!("job:latchkey_{indicator}:ratio_rate3d");
            is_complete &= prometheus.query(&record).await.iter().any(|value| value.is_finite());
        }
        if is_complete {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(2), "Prometheus has no indicators");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let mut wrong = Vec::new();
    let groups = prometheus.api("rules", &[]).await["groups"].clone();
    let rules: Vec<_> =
        groups.as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    let (recorded, alerts): (Vec<&Value>, Vec<&Value>) =
        rules.iter().partition(|rule| rule["type"] == "recording");
    assert!(recorded.len() > 20 && alerts.len() > 15, "{} and {}", recorded.len(), alerts.len());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let queries = |rules: &[&Value]| -> Vec<String> {
        rules.iter().map(|rule| rule["query"].as_str().unwrap().to_owned()).collect()
    };
    let runbook = file("docs/runbook.md");
    let documented: Vec<_> = blocks(&runbook, "promql").map(str::to_owned).collect();
    assert!(documented.len() >= 5, "only {} queries in the runbook", documented.len());
    // Without trouble, an alert returns nothing. What it selects exists nevertheless.
    for query in queries(&alerts) {
        wrong.extend(
            prometheus.unknown(&query).await.into_iter().map(|unknown| format!("{unknown} in {query}")),
        );
    }
    for query in queries(&recorded).into_iter().chain(dashboard()).chain(documented) {
        wrong.extend(
            prometheus.unknown(&query).await.into_iter().map(|unknown| format!("{unknown} in {query}")),
        );
        // The dashboard hides what does not happen.
        let shown = query.trim_end().trim_end_matches(" > 0");
        if !prometheus.query(shown).await.iter().any(|value| value.is_finite()) {
            wrong.push(format!("no number from {shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(prometheus.unknown("sum(latchkey_no_such_metric)").await, ["latchkey_no_such_metric"]);
    assert_eq!(prometheus.query("count by (job) (latchkey_build_info)").await, [1.0]);
}
