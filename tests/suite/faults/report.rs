//! What callers saw of failures, and the table of it in `docs/operations.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use latchkey::grpc::pb::RejectionReason;

use super::{
    Scenario,
    record::{Answer, Call, Request},
};

const HEADER: &str =
    "| failure | what callers see | how long | what is lost | how it recovers |\n|---|---|---|---|---|\n";

/// Answers that take longer are mentioned.
const SLOW: Duration = Duration::from_millis(750);

/// What happened in one run of a scenario.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// How often each status was answered.
    pub(super) statuses: BTreeMap<String, usize>,
    /// Reasons of rejections that the failure explains, with their number.
    pub(super) rejections: BTreeMap<String, usize>,
    /// The longest time until an error was answered.
    pub(super) slowest_error: Duration,
    /// The longest time until a verdict or the outcome of a write was answered.
    pub(super) slowest_answer: Duration,
    /// The longest time for which calls of one user failed.
    pub(super) writes: Duration,
    pub(super) reads: Duration,
    pub(super) cached_reads: Duration,
    /// The time until another primary was elected.
    pub(super) election: Option<Duration>,
    /// The time from then until the last user could log in again.
    pub(super) after_election: Option<Duration>,
    pub(super) logins: usize,
    pub(super) logouts: usize,
    pub(super) lost_logins: usize,
    pub(super) lost_logouts: usize,
    pub(super) wrong: Vec<String>,
    pub(super) recovered: bool,
    /// A program is missing.
    pub(super) skipped: bool,
}

impl Outcome {
    pub(super) fn skipped() -> Self {
        Self { skipped: true, ..Self::default() }
    }

    /// Counts a call. Errors before the failure count, too.
    pub(super) fn count(&mut self, call: &Call, failed_at: Duration, tolerated: &[RejectionReason]) {
        if call.ended >= failed_at && !call.has_failed() {
            self.slowest_answer = self.slowest_answer.max(call.ended.saturating_sub(call.begun));
        }
        match &call.answer {
            Answer::Failed(status) => {
                *self.statuses.entry(status.clone()).or_default() += 1;
                if call.ended >= failed_at {
                    self.slowest_error = self.slowest_error.max(call.ended.saturating_sub(call.begun));
                }
            }
            Answer::Rejected(reason) if tolerated.contains(reason) => {
                *self.rejections.entry(reason.as_str_name().replace("REJECTION_REASON_", "")).or_default() +=
                    1;
            }
            Answer::Opened { .. } => self.logins += 1,
            Answer::Live | Answer::Rejected(_) => {
                self.logouts += usize::from(call.request == Request::Logout);
            }
        }
    }

    /// Says which promises were broken that hold on a busy machine, too.
    pub(super) fn broken_promises(&self, scenario: &Scenario) -> Vec<String> {
        let mut broken = if scenario.may_be_wrong { Vec::new() } else { self.wrong.clone() };
        let unexpected: Vec<_> = self
            .statuses
            .iter()
            .filter(|(status, _)| !scenario.statuses.contains(&status.as_str()))
            .collect();
        if !unexpected.is_empty() {
            broken.push(format!("unexpected statuses: {unexpected:?}"));
        }
        if !scenario.loses && (self.lost_logins, self.lost_logouts) != (0, 0) {
            broken.push(format!("{} logins and {} logouts are lost", self.lost_logins, self.lost_logouts));
        }
        if !self.recovered {
            broken.push("it did not recover".to_owned());
        }
        broken
    }

    /// Says which limits of time were missed.
    fn missed_limits(&self, scenario: &Scenario) -> Vec<String> {
        let mut missed = Vec::new();
        if let Some(limit) = scenario.error_limit
            && self.slowest_error >= limit
        {
            missed.push(format!("an error took {:?}, not less than {limit:?}", self.slowest_error));
        }
        if let (Some(limit), Some(after)) = (scenario.login_limit, self.after_election)
            && after > limit
        {
            missed.push(format!("logins began {after:?} after the election, not within {limit:?}"));
        }
        missed
    }

    /// The median of several runs: the middle of all times, and the sum of all that must not happen.
    fn median(runs: &[Self]) -> Self {
        let middle = |of: &dyn Fn(&Self) -> Duration| {
            let mut times: Vec<_> = runs.iter().map(of).collect();
            times.sort_unstable();
            times[times.len() / 2]
        };
        let optional = |of: &dyn Fn(&Self) -> Option<Duration>| {
            runs.iter().all(|run| of(run).is_some()).then(|| middle(&|run| of(run).unwrap_or_default()))
        };
        let sum = |of: &dyn Fn(&Self) -> usize| runs.iter().map(of).sum();
        let merged = |of: &dyn Fn(&Self) -> &BTreeMap<String, usize>| {
            let mut all = BTreeMap::new();
            for (name, count) in runs.iter().flat_map(of) {
                *all.entry(name.clone()).or_default() += count;
            }
            all
        };
        Self {
            statuses: merged(&|run| &run.statuses),
            rejections: merged(&|run| &run.rejections),
            slowest_error: middle(&|run| run.slowest_error),
            slowest_answer: middle(&|run| run.slowest_answer),
            writes: middle(&|run| run.writes),
            reads: middle(&|run| run.reads),
            cached_reads: middle(&|run| run.cached_reads),
            election: optional(&|run| run.election),
            after_election: optional(&|run| run.after_election),
            logins: sum(&|run| run.logins),
            logouts: sum(&|run| run.logouts),
            lost_logins: sum(&|run| run.lost_logins),
            lost_logouts: sum(&|run| run.lost_logouts),
            wrong: runs.iter().flat_map(|run| run.wrong.clone()).collect(),
            recovered: runs.iter().all(|run| run.recovered),
            skipped: false,
        }
    }

    fn seen(&self) -> String {
        let mut seen: Vec<_> =
            self.rejections.keys().map(|reason| format!("rejections as {reason}")).collect();
        if !self.statuses.is_empty() {
            let names: Vec<_> = self.statuses.keys().map(|status| format!("`{status}`")).collect();
            seen.push(format!("{} within {}", names.join(", "), shown(self.slowest_error)));
        }
        if self.slowest_answer > SLOW {
            seen.push(format!("answers take up to {}", shown(self.slowest_answer)));
        }
        if !self.wrong.is_empty() {
            seen.push(format!("{} wrong verdicts", self.wrong.len()));
        }
        if seen.is_empty() { "no error".to_owned() } else { seen.join("; ") }
    }

    fn duration(&self) -> String {
        let parts = [("reads", self.reads), ("cached reads", self.cached_reads), ("writes", self.writes)];
        let mut parts: Vec<_> = parts
            .iter()
            .filter(|(_, time)| !time.is_zero())
            .map(|(what, time)| format!("{what} {}", shown(*time)))
            .collect();
        if let (Some(election), Some(after)) = (self.election, self.after_election)
            && !parts.is_empty()
        {
            parts.push(format!(
                "the election took {}, and {} later all users could log in",
                shown(election),
                shown(after)
            ));
        }
        if parts.is_empty() { "—".to_owned() } else { parts.join("; ") }
    }

    fn lost(&self) -> String {
        let mut lost = Vec::new();
        if self.lost_logins > 0 {
            lost.push(format!("{} of {} logins", self.lost_logins, self.logins));
        }
        if self.lost_logouts > 0 {
            lost.push(format!("{} of {} logouts", self.lost_logouts, self.logouts));
        }
        if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") }
    }

    fn row(&self, scenario: &Scenario) -> String {
        let recovery = if self.recovered { scenario.recovery } else { "not within a minute" };
        format!(
            "| {} | {} | {} | {} | {recovery} |",
            scenario.failure,
            self.seen(),
            self.duration(),
            self.lost()
        )
    }
}

fn shown(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Collects the outcomes of all runs.
#[derive(Default)]
pub(super) struct Report {
    rows: BTreeMap<&'static str, String>,
    pub(super) broken: Vec<String>,
}

impl Report {
    /// Adds the runs of one scenario.
    pub(super) fn add(&mut self, scenario: &'static Scenario, runs: &[Outcome]) {
        if runs.iter().any(|run| run.skipped) {
            return;
        }
        for run in runs {
            let broken = run.broken_promises(scenario);
            self.broken.extend(broken.into_iter().map(|broken| format!("{}: {broken}", scenario.name)));
        }
        if !runs.is_empty() {
            let median = Outcome::median(runs);
            let missed = median.missed_limits(scenario);
            self.broken.extend(missed.into_iter().map(|missed| format!("{}: {missed}", scenario.name)));
            self.rows.insert(scenario.failure, median.row(scenario));
        }
    }

    /// Replaces the rows in the document of the scenarios that were run.
    pub(super) fn write(&self, scenarios: &[Scenario]) {
        let (before, table, after) = document();
        let old = rows(&table);
        let mut new = HEADER.to_owned();
        for scenario in scenarios {
            if let Some(row) = self.rows.get(scenario.failure).or(old.get(scenario.failure)) {
                new.push_str(row);
                new.push('\n');
            }
        }
        fs::write(path(), format!("{before}\n\n{new}\n{after}")).unwrap();
    }
}

/// Returns the failures that the table in the document has.
pub(super) fn documented() -> BTreeSet<String> {
    rows(&document().1).into_keys().collect()
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")
}

/// Returns the document up to the table, the table, and the rest.
fn document() -> (String, String, String) {
    let text = fs::read_to_string(path()).unwrap();
    let marker = |edge: &str| format!("<!-- Written by `make faults`: {edge} -->");
    let (begin, end) = (marker("begin"), marker("end"));
    let (before, rest) = text.split_once(&begin).unwrap();
    let (table, after) = rest.split_once(&end).unwrap();
    (format!("{before}{begin}"), table.to_owned(), format!("{end}{after}"))
}

/// Returns the rows of a table by their first cell.
fn rows(table: &str) -> BTreeMap<String, String> {
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.filter_map(|row| Some((row.strip_prefix("| ")?.split_once(" | ")?.0.to_owned(), row.to_owned())))
        .collect()
}
