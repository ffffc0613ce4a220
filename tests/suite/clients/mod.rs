//! The guards of `clients/`, each in front of a real server in its language, against the real Latchkey.
//!
//! One file of scenarios is for all of them (`clients/scenarios.json`), and this is what plays it, so that no
//! language has a reading of its own. `make test-clients` builds the samples and names one of them in
//! `LATCHKEY_TEST_GUARD`; without it there is nothing to test here, and the test is not run.

mod compare;
mod guarded;
mod play;
mod scenario;
mod streams;

use std::{collections::BTreeSet, fs, path::Path};

use latchkey::domain::rejection::Reason;

use self::{
    play::Play,
    scenario::{Scenarios, Step},
};

const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/scenarios.json");

fn scenarios() -> Scenarios {
    serde_json::from_str(&fs::read_to_string(SCENARIOS).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-clients builds the servers that this calls"]
async fn the_guard_gives_every_verdict_of_the_scenarios() {
    #[expect(clippy::disallowed_methods, reason = "a setting of the test, not of Latchkey")]
    let command = std::env::var("LATCHKEY_TEST_GUARD").unwrap();
    let scenarios = scenarios();
    let mut play = Play::begin(&scenarios.settings, &command).await;
    for (number, scenario) in scenarios.all.iter().enumerate() {
        play.scenario(number, scenario).await;
    }
}

#[test]
fn the_scenarios_have_every_reason() {
    let wanted: BTreeSet<_> = Reason::ALL.map(Reason::name).into();
    let has = |step: Step| match step {
        Step::Call { expect, .. } => expect.reason,
        _ => None,
    };
    let steps = scenarios().all.into_iter().flat_map(|scenario| scenario.steps);
    let found: BTreeSet<_> = steps.filter_map(has).collect();
    let missing: Vec<_> = wanted.iter().filter(|reason| !found.contains(**reason)).collect();
    assert!(missing.is_empty(), "no scenario has {missing:?}");
}

/// The lines that the page shows are those of the sample, which the scenarios run.
#[test]
fn the_pages_show_the_guards_that_are_tested() {
    const BEGIN: &str = "guarded from here";
    for (page, sample) in [
        ("go/README.md", "go/internal/sample/main.go"),
        ("python/README.md", "python/tests/sample_aio.py"),
        ("../docs/integration.md", "python/tests/sample_aio.py"),
        ("python/README.md", "python/tests/sample_sync.py"),
        ("node/README.md", "node/test/sample.ts"),
        ("java/README.md", "java/src/test/java/latchkey/sample/Sample.java"),
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
