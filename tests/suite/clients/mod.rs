//! The guards of `clients/`, each in front of a server in its language, against Latchkey.
//!
//! One file of scenarios, `clients/scenarios.json`, and one player for each of gRPC and HTTP serve all languages.
//! `make test-clients` builds the samples and names one of them in `LATCHKEY_TEST_GUARD`; without it the tests are
//! ignored.

mod compare;
mod grpc;
mod guarded;
mod http;
mod manifests;
mod play;
mod sample;
mod scenario;
mod service_config;
mod stage;
mod streams;

use std::{collections::BTreeSet, fs, path::Path};

use latchkey::{domain::rejection::Reason, grpc::pb::ErrorReason};

use self::{
    grpc::Grpc,
    http::Http,
    play::play,
    scenario::{Expect, Scenarios, Step},
};

const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/scenarios.json");

fn scenarios() -> Scenarios {
    serde_json::from_str(&fs::read_to_string(SCENARIOS).unwrap()).unwrap()
}

/// Returns the command that starts the guarded server under test.
#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of Latchkey")]
fn command() -> String {
    std::env::var("LATCHKEY_TEST_GUARD").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-clients builds the servers that this calls"]
async fn the_guard_gives_every_verdict_of_the_scenarios() {
    play::<Grpc>(&scenarios(), &command()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-clients builds the servers that this calls"]
async fn the_http_guard_gives_every_verdict_of_the_scenarios() {
    play::<Http>(&scenarios(), &command()).await;
}

/// Returns the reasons in the steps in which calls are denied or streams end.
fn reasons(of: impl Fn(&Step) -> Option<&Expect>) -> BTreeSet<String> {
    let steps = scenarios().all.into_iter().flat_map(|scenario| scenario.steps);
    steps.filter_map(|step| of(&step).and_then(|expect| expect.reason.clone())).collect()
}

#[test]
fn the_scenarios_have_every_reason() {
    let found = reasons(|step| match step {
        Step::Call { expect, .. } => Some(expect),
        _ => None,
    });
    // Gateways and guards have reasons of their own.
    let guards = [ErrorReason::TokenRequired, ErrorReason::SlotRequired, ErrorReason::RoleRequired];
    let guards = guards.map(|reason| reason.as_str_name().trim_start_matches("ERROR_REASON_"));
    let mut wanted = Reason::ALL.map(Reason::name).into_iter().chain(guards);
    assert_eq!(wanted.find(|reason| !found.contains(*reason)), None, "no scenario has it");
}

/// Protocols without streams leave out the whole scenario.
#[test]
fn scenarios_about_streams_have_no_other_calls() {
    for scenario in scenarios().all.iter().filter(|scenario| scenario.is_about_streams()) {
        let is_call = |step: &Step| matches!(step, Step::Call { .. });
        assert!(!scenario.steps.iter().any(is_call), "{}: move the calls", scenario.name);
    }
}

/// A session can end for these reasons during a stream; with the others the token was never accepted.
#[test]
fn the_scenarios_end_streams_for_every_reason_for_which_a_session_ends_soon() {
    let found = reasons(|step| match step {
        Step::StreamsEnd { expect, .. } => Some(expect),
        _ => None,
    });
    let wanted = [
        Reason::IdleTimeout,
        Reason::Replaced,
        Reason::Kicked,
        Reason::LoggedOut,
        Reason::Evicted,
        Reason::CredentialsChanged,
        Reason::AccountDisabled,
    ];
    let missing = wanted.into_iter().find(|reason| !found.contains(reason.name()));
    assert_eq!(missing, None, "no scenario has it");
}

/// The documentation must show the lines of the samples that the scenarios test.
#[test]
fn the_pages_show_the_guards_that_are_tested() {
    const BEGIN: &str = "guarded from here";
    for (page, sample) in [
        ("go/README.md", "go/internal/sample/main.go"),
        ("go/README.md", "../examples/go/nethttp/main.go"),
        ("go/README.md", "../examples/go/connect/main.go"),
        ("../docs/integration.md", "../examples/go/nethttp/main.go"),
        ("python/README.md", "python/tests/sample_aio.py"),
        ("../docs/integration.md", "python/tests/sample_aio.py"),
        ("python/README.md", "python/tests/sample_sync.py"),
        ("python/README.md", "../examples/python/asgi/main.py"),
        ("python/README.md", "../examples/python/django/main.py"),
        ("python/README.md", "../examples/python/fastapi/main.py"),
        ("../docs/integration.md", "../examples/python/fastapi/main.py"),
        ("python/README.md", "../examples/python/flask/main.py"),
        ("node/README.md", "node/test/sample.ts"),
        ("node/README.md", "../examples/node/connect.ts"),
        ("node/README.md", "../examples/node/express.ts"),
        ("node/README.md", "../examples/node/fastify.ts"),
        ("node/README.md", "../examples/node/nest.ts"),
        ("../docs/integration.md", "../examples/node/express.ts"),
        ("java/README.md", "java/client/src/test/java/latchkey/sample/Sample.java"),
        ("../docs/integration.md", "../crates/latchkey-client/examples/guarded/main.rs"),
        ("../docs/integration.md", "../crates/latchkey-client/examples/guarded_axum.rs"),
    ] {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let read = |name: &str| fs::read_to_string(clients.join(name)).unwrap();
        let (page_text, sample_text) = (read(page), read(sample));
        let (_, shown) = sample_text.split_once(BEGIN).unwrap_or_else(|| panic!("{sample} has no guard"));
        let shown: Vec<_> = shown.lines().skip(1).take_while(|line| !line.contains("to here")).collect();
        let margin =
            shown.iter().filter(|line| !line.is_empty()).map(|line| line.len() - line.trim_start().len());
        let margin = margin.min().unwrap();
        let shown: Vec<_> = shown.iter().map(|line| line.get(margin..).unwrap_or_default()).collect();
        assert!(shown.len() < 10, "{sample} takes {} lines", shown.len());
        let shown = shown.join("\n");
        assert!(page_text.contains(&shown), "{page} does not have the lines of {sample}:\n{shown}");
    }
}

/// Each client is packaged separately.
#[test]
fn every_client_carries_the_licence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let licence = fs::read_to_string(root.join("LICENSE")).unwrap();
    for client in ["go", "go/latchkeyconnect", "python", "node", "java"] {
        let own = fs::read_to_string(root.join("clients").join(client).join("LICENSE")).unwrap();
        assert_eq!(own, licence, "{client}");
    }
}
