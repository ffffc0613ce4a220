//! The Helm chart: what it renders is what Kubernetes and the server accept.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{
    process::{LATCHKEY, run},
    skip::named_program,
    tls::Authority,
};

/// The directory in which the chart mounts the secrets.
const SECRETS: &str = "/run/secrets/latchkey";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm")
}

fn helm(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(deploy()).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn examples() -> Vec<String> {
    let files = fs::read_dir(deploy().join("examples")).unwrap();
    let mut names: Vec<_> =
        files.map(|file| format!("examples/{}", file.unwrap().file_name().to_string_lossy())).collect();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    names
}

/// Renders the chart with these values.
#[track_caller]
fn rendered(program: &Path, values: &str, version: &str) -> String {
    let arguments = ["template", "test", "latchkey", "--values", values, "--kube-version", version];
    let output = helm(program, &arguments);
    assert!(output.status.success(), "{values}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The objects in manifests, decoded as an API server does.
#[track_caller]
fn decoded(decoder: &Path, manifests: &str) -> Vec<Value> {
    let output = run(Command::new(decoder), manifests);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "several {kind}");
    first
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Programs for these tests; `None` skips.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let helm = named_program("Helm", "LATCHKEY_TEST_HELM")?;
    let decoder = named_program("decoder of Kubernetes manifests", "LATCHKEY_TEST_KUBERNETES_DECODER")?;
    Some((helm, decoder))
}

#[test]
fn every_example_renders_what_kubernetes_accepts() {
    let Some((program, decoder)) = programs() else { return };
    for values in examples() {
        let arguments = ["lint", "--strict", "latchkey", "--values", &values, "--kube-version", "1.34.0"];
        let output = helm(&program, &arguments);
        assert!(output.status.success(), "{values}: {}", text(&output));
        for version in ["1.28.0", "1.34.0"] {
            let objects = decoded(&decoder, &rendered(&program, &values, version));
            let pod = &only(&objects, "Deployment")["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            // What the restricted policy of Pod Security demands.
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{values}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{values}");
            assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false, "{values}");
            assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL", "{values}");
            assert_eq!(pod["enableServiceLinks"], false, "{values}");
            // A pod that ends has time for the pause and for its requests.
            let stop = &container["lifecycle"]["preStop"];
            let pause = if version == "1.28.0" {
                text_of(&stop["exec"]["command"][1]).parse().unwrap()
            } else {
                stop["sleep"]["seconds"].as_i64().unwrap()
            };
            assert_eq!(pod["terminationGracePeriodSeconds"].as_i64().unwrap(), pause + 10 + 5, "{values}");
            // The Services and the budget select the pods.
            let labels = only(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"].clone();
            let selectors = objects.iter().filter(|object| object["kind"] == "Service");
            let selectors: Vec<_> = selectors.map(|service| &service["spec"]["selector"]).collect();
            let budget = &only(&objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"];
            for selector in selectors.into_iter().chain([budget]) {
                for (label, value) in selector.as_object().unwrap() {
                    assert_eq!(labels[label], *value, "{values}");
                }
            }
        }
    }
}

#[test]
fn a_manifest_with_an_unknown_field_is_an_error() {
    let Some((program, decoder)) = programs() else { return };
    let manifests = rendered(&program, "examples/redis.yaml", "1.34.0").replace("maxSurge", "maxSurges");
    let output = run(Command::new(decoder), &manifests);
    assert!(!output.status.success() && text(&output).contains("unknown field"), "{}", text(&output));
}

#[test]
fn the_server_accepts_every_setting_of_the_chart() {
    let Some((program, decoder)) = programs() else { return };
    for values in examples() {
        let objects = decoded(&decoder, &rendered(&program, &values, "1.34.0"));
        let pod = &only(&objects, "Deployment")["spec"]["template"]["spec"];
        let folder = tempfile::tempdir().unwrap();
        let secrets = folder.path().join("secrets");
        mount_secrets(pod, &secrets);
        let config = objects.iter().find(|object| !object["data"]["latchkey.toml"].is_null()).unwrap();
        let config = text_of(&config["data"]["latchkey.toml"]).replace(SECRETS, secrets.to_str().unwrap());
        let file = folder.path().join("latchkey.toml");
        fs::write(&file, &config).unwrap();

        let mut check = Command::new(LATCHKEY);
        check.env_clear().args(["serve", "--check"]).stdin(Stdio::null());
        for variable in list(&pod["containers"][0]["env"]) {
            let (name, value) = (text_of(&variable["name"]), text_of(&variable["value"]));
            match name {
                "LATCHKEY_CONFIG" => check.env(name, &file),
                "LATCHKEY_DATA_DIR" => check.env(name, folder.path().join("data")),
                _ => check.env(name, value),
            };
        }
        let checked = check.output().unwrap();
        assert!(checked.status.success(), "{values}: {}\n{config}", text(&checked));
        let container = &pod["containers"][0];
        assert_eq!(container["args"][0], "serve");
    }
}

/// Writes the files that Kubernetes would mount from the secrets of the pod.
fn mount_secrets(pod: &Value, secrets: &Path) {
    let authority = Authority::new("ours");
    let source = tempfile::tempdir().unwrap();
    let ca = authority.write(source.path());
    let (certificate, key) = authority.server().write(source.path(), "server");
    for mount in list(&pod["containers"][0]["volumeMounts"]) {
        let Some(name) = text_of(&mount["mountPath"]).strip_prefix(&format!("{SECRETS}/")) else { continue };
        let volume = list(&pod["volumes"]).iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        assert_eq!(volume["secret"]["defaultMode"], 0o440, "{name}");
        assert_eq!(mount["readOnly"], true, "{name}");
        let folder = secrets.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let items = list(&volume["secret"]["items"]);
        let files: Vec<_> = match name {
            "keys" => {
                let mut generate = Command::new(LATCHKEY);
                generate.env_clear().env("LATCHKEY_TOKEN__KEYS_DIR", &folder).args(["key", "generate"]);
                let generated = generate.output().unwrap();
                assert!(generated.status.success(), "{}", text(&generated));
                Vec::new()
            }
            // Secrets of the type kubernetes.io/tls have these entries.
            _ if items.is_empty() => vec!["tls.crt", "tls.key"],
            _ => items.iter().map(|item| text_of(&item["path"])).collect(),
        };
        for file in files {
            let contents = match file {
                "tls.crt" => fs::read(&certificate).unwrap(),
                "tls.key" => fs::read(&key).unwrap(),
                "ca.crt" => fs::read(&ca).unwrap(),
                "admin.key" => b"lka_qL8vT2mZx4Wn7Rb1Yc5Jd9Kf3Hg6Ps0Ua".to_vec(),
                "password" => b"correct horse battery staple".to_vec(),
                other => panic!("{name} mounts {other}"),
            };
            fs::write(folder.join(file), contents).unwrap();
            fs::set_permissions(folder.join(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn the_chart_brings_the_rules_and_the_dashboard_of_the_repository() {
    let Some((program, decoder)) = programs() else { return };
    for (file, original) in
        [("rules.yml", "prometheus/rules.yml"), ("latchkey.json", "grafana/dashboards/latchkey.json")]
    {
        let linked = fs::canonicalize(deploy().join("latchkey/files").join(file)).unwrap();
        assert_eq!(linked, fs::canonicalize(deploy().join("..").join(original)).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let values = folder.path().join("values.yaml");
    let runbook = "https://docs.example.com/runbook.html";
    let metrics = format!(
        "{}\nmetrics:\n  serviceMonitor: {{ enabled: true }}\n  prometheusRule: {{ enabled: true, runbookUrl: {runbook} }}\n  dashboard: {{ enabled: true }}\nnameOverride: other\n",
        fs::read_to_string(deploy().join("examples/redis.yaml")).unwrap()
    );
    fs::write(&values, metrics).unwrap();
    let objects = decoded(&decoder, &rendered(&program, values.to_str().unwrap(), "1.34.0"));

    let read = |path: &str| fs::read_to_string(deploy().join("..").join(path)).unwrap();
    let rules = read("prometheus/rules.yml").replace("docs/runbook.md", runbook);
    let rules = rules.replace('\n', "\n  ");
    let rules = format!("apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nspec:\n  {rules}");
    assert_eq!(only(&objects, "PrometheusRule")["spec"], decoded(&decoder, &rules)[0]["spec"]);
    assert!(rules.contains(&format!("runbook_url: {runbook}#")));

    let dashboard = objects.iter().find(|object| !object["data"]["latchkey.json"].is_null()).unwrap();
    assert_eq!(text_of(&dashboard["data"]["latchkey.json"]), read("grafana/dashboards/latchkey.json"));
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");

    // The rules select this job, whatever the chart is called.
    let monitor = &only(&objects, "ServiceMonitor")["spec"];
    let relabelled = serde_json::json!([{ "targetLabel": "job", "replacement": "latchkey" }]);
    assert_eq!(monitor["endpoints"][0]["relabelings"], relabelled);
    let labels = &only(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"];
    for (label, value) in monitor["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(labels[label], *value);
    }
}

#[test]
fn values_that_cannot_work_are_rejected() {
    let Some((program, _)) = programs() else { return };
    for (values, error) in [
        ("sessions.url=embedded:", "does not match pattern"),
        ("signingKeysSecret=", "/signingKeysSecret"),
        ("adminKeySecret.name=", "/adminKeySecret"),
        ("metrics.prometheusRule.runbookUrl=", "/metrics/prometheusRule/runbookUrl"),
        ("replica=3", "additional properties 'replica' not allowed"),
        ("config.server.shutdown_grace=30s", "config.server.shutdown_grace is set by the chart"),
        ("config.listen.grpc=0.0.0.0:1", "config.listen.grpc is set by the chart"),
    ] {
        let arguments = [
            "template",
            "latchkey",
            "--values",
            "examples/redis.yaml",
            "--kube-version",
            "1.34.0",
            "--set",
            values,
        ];
        let output = helm(&program, &arguments);
        assert!(!output.status.success() && text(&output).contains(error), "{values}: {}", text(&output));
    }
}
