//! The fault lab: what callers see while something fails, for how long, what is lost, and how it recovers.
//!
//! Several clients log in, log out and validate over one or two servers, each call is recorded (`lab`), and the answers
//! are checked against what had been acknowledged before (`record`). Some scenarios are ordinary tests, which assert only
//! what holds on a busy machine. `make faults` runs all of them, asserts limits of time as well, and writes the table in
//! `docs/operations.md` (`report`).

#![expect(clippy::print_stdout, reason = "libtest shows what a failed test has printed")]

mod cluster;
mod host;
mod lab;
mod record;
mod report;
mod sentinel;
mod single;

use std::{
    collections::BTreeSet,
    env,
    io::{Write as _, stderr},
    panic::AssertUnwindSafe,
    sync::LazyLock,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::LocalBoxFuture};
use tokio::sync::Mutex;

use self::{
    lab::{Lab, Options},
    report::{Outcome, Report},
};
use crate::support::redis::RedisServer;

/// The status of an outage.
const USUAL: &str = "UNAVAILABLE";
/// An error has to be answered within this time.
const ERROR_LIMIT: Duration = Duration::from_millis(600);
/// The limit where only writes are held up: a login makes several, each with a limit of its own.
const WRITE_ERROR_LIMIT: Option<Duration> = Some(Duration::from_secs(3));
/// All users have to be able to log in within this time after the election of another primary.
const LOGIN_LIMIT: Option<Duration> = Some(Duration::from_secs(1));

/// A failure.
struct Scenario {
    /// Selects it.
    name: &'static str,
    /// What fails, as an operator would say it.
    failure: &'static str,
    recovery: &'static str,
    /// The statuses that callers may see.
    statuses: &'static [&'static str],
    /// Whether sessions may be lost.
    loses: bool,
    /// Whether verdicts may be wrong, because Latchkey cannot know better. The table has their number.
    may_be_wrong: bool,
    /// The longest time until an error is answered.
    error_limit: Option<Duration>,
    /// The longest time from the election of another primary until all users can log in.
    login_limit: Option<Duration>,
    run: fn() -> LocalBoxFuture<'static, Outcome>,
}

/// Returns a scenario that keeps all promises.
const fn scenario(
    name: &'static str,
    failure: &'static str,
    run: fn() -> LocalBoxFuture<'static, Outcome>,
) -> Scenario {
    Scenario {
        name,
        failure,
        recovery: "",
        statuses: &[USUAL],
        loses: false,
        may_be_wrong: false,
        error_limit: Some(ERROR_LIMIT),
        login_limit: None,
        run,
    }
}

static SCENARIOS: LazyLock<Vec<Scenario>> = LazyLock::new(|| {
    let single = single::SCENARIOS.into_iter();
    single.chain(sentinel::SCENARIOS).chain(cluster::SCENARIOS).chain(host::SCENARIOS).collect()
});

/// Runs one scenario and asserts what has to hold on a busy machine, too.
async fn holds(name: &str) {
    // One at a time: many topologies at once would only show what a machine without processors does.
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
    let outcome = (scenario.run)().await;
    let broken = outcome.broken_promises(scenario);
    assert!(broken.is_empty(), "{}: {broken:#?}", scenario.failure);
    println!("{}: {outcome:?}", scenario.failure);
    assert!(outcome.logins > 20 && outcome.logouts > 0, "there was no load: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verdict_is_wrong_when_the_primary_of_sentinels_is_killed() {
    holds("sentinel_master_killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verdict_is_wrong_when_the_primary_of_sentinels_hangs_and_comes_back() {
    holds("sentinel_master_hangs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verdict_is_wrong_when_one_server_is_alone_with_the_old_primary() {
    holds("sentinel_split").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verdict_is_wrong_when_a_primary_of_a_cluster_is_killed() {
    holds("cluster_master_killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verdict_is_wrong_while_hash_slots_move() {
    holds("cluster_resharding").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verdict_is_wrong_when_a_replica_is_promoted_by_hand() {
    holds("promoted_by_hand").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verdict_is_wrong_when_all_servers_of_a_cluster_are_killed_and_restarted() {
    holds("cluster_all_killed").await;
}

/// `LATCHKEY_TEST_FAULTS` holds parts of the names of scenarios, and `LATCHKEY_TEST_FAULTS_RUNS` how often each is run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten minutes and needs a machine that does nothing else; `make faults` runs it"]
async fn every_failure_is_survived_and_documented() {
    let variable =
        |name: &str| env::var_os(name).map(|value| value.into_string().unwrap()).unwrap_or_default();
    let selected = variable("LATCHKEY_TEST_FAULTS");
    let selected: Vec<_> = selected.split_whitespace().collect();
    let runs = variable("LATCHKEY_TEST_FAULTS_RUNS").parse().unwrap_or(1);
    let say = |text: String| stderr().write_all(text.as_bytes()).unwrap();
    let mut report = Report::default();
    let scenarios = SCENARIOS
        .iter()
        .filter(|scenario| selected.is_empty() || selected.iter().any(|part| scenario.name.contains(part)));
    for scenario in scenarios {
        let mut outcomes = Vec::new();
        for run in 1..=runs {
            let begun = Instant::now();
            match AssertUnwindSafe((scenario.run)()).catch_unwind().await {
                Ok(outcome) => {
                    say(format!(
                        "{} ({run} of {runs}) {:.1?}: {outcome:?}\n",
                        scenario.name,
                        begun.elapsed()
                    ));
                    outcomes.push(outcome);
                }
                Err(_) => report.broken.push(format!("{}: a panic", scenario.name)),
            }
        }
        report.add(scenario, &outcomes);
        report.write(&SCENARIOS);
    }
    assert!(report.broken.is_empty(), "{:#?}", report.broken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_with_different_stores_give_wrong_verdicts() {
    let stores = [(); 2].map(|()| RedisServer::start());
    let [url, last_url] = stores.each_ref().map(RedisServer::url);
    let lab = Lab::start(Options { last_url: Some(&last_url), ..Options::on(&url) }).await;
    lab.go_on(Duration::from_secs(1)).await;
    let outcome = lab.finish().await;
    assert!(outcome.wrong.len() > 5 && outcome.lost_logins > 5, "{outcome:?}");
}

#[test]
fn every_failure_of_the_lab_is_in_the_table() {
    let failures: BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.failure.to_owned()).collect();
    assert_eq!(failures.len(), SCENARIOS.len(), "a failure is listed twice");
    assert_eq!(report::documented(), failures, "`make faults` writes docs/operations.md");
}
