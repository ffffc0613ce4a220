//! The result of an import.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
};

use serde_json::{Value, json};

use super::{CommandError, account::Violation};
use crate::{cli::output::Output, grpc::pb};

/// The counts of an import, and the refused accounts. A violation that many lines have in common is stored once.
#[derive(Default)]
pub(super) struct Report {
    pub(super) added: u64,
    pub(super) present: u64,
    pub(super) skipped: u64,
    /// Line, username and index of the violation.
    refused: Vec<(u64, String, usize)>,
    violations: Vec<Violation>,
    indexes: HashMap<Violation, usize>,
    /// Whether the whole file was read and sent.
    pub(super) complete: bool,
}

impl Report {
    pub(super) fn refuse(&mut self, line: u64, username: String, violation: Violation) {
        let next = self.violations.len();
        let index = *self.indexes.entry(violation.clone()).or_insert(next);
        if index == next {
            self.violations.push(violation);
        }
        self.refused.push((line, username, index));
    }

    pub(super) fn add_response(&mut self, response: pb::ImportAccountsResponse) {
        self.added += response.added;
        self.present += response.present;
        for pb::RefusedAccount { line, username, field, description } in response.refusals {
            self.refuse(line, username, Violation { field, reason: description });
        }
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    pub(super) fn total(&self) -> u64 {
        self.added + self.present + self.refused.len() as u64
    }

    /// The refused accounts in the order of the file.
    fn sorted(&self) -> Vec<RefusedAccount<'_>> {
        let mut accounts: Vec<_> = self
            .refused
            .iter()
            .map(|(line, username, violation)| RefusedAccount {
                line: *line,
                username,
                violation: &self.violations[*violation],
            })
            .collect();
        accounts.sort_by_key(|account| account.line);
        accounts
    }

    /// Prints the report. With a `file`, the refused accounts are written there, one per line.
    pub(super) fn print(
        &self,
        output: &Output,
        dry_run: bool,
        file: Option<std::fs::File>,
    ) -> Result<(), CommandError> {
        let refused = self.sorted();
        let to_file = file.is_some();
        if let Some(file) = file {
            write(file, output, &refused)
                .map_err(|error| CommandError::Failed(format!("failed to write the report: {error}")))?;
        }
        let value = json!({
            "added": self.added,
            "present": self.present,
            "skipped": self.skipped,
            "refused": refused.iter().map(RefusedAccount::json).collect::<Vec<_>>(),
            "complete": self.complete,
            "dry_run": dry_run,
        });
        output.print_done(&value, || {
            let added = if dry_run { "to be added" } else { "added" };
            let mut text =
                format!("{added} {}, present {}, refused {}", self.added, self.present, self.refused());
            if self.skipped > 0 {
                let _ = write!(text, ", skipped {}", self.skipped);
            }
            for account in refused.iter().filter(|_| !to_file) {
                let _ = write!(text, "\n{}", account.text());
            }
            text
        })
    }
}

struct RefusedAccount<'a> {
    line: u64,
    username: &'a str,
    violation: &'a Violation,
}

impl RefusedAccount<'_> {
    fn json(&self) -> Value {
        let Violation { field, reason } = self.violation;
        json!({ "line": self.line, "username": self.username, "field": field, "reason": reason })
    }

    /// `line 17 (alice): roles must ...`
    fn text(&self) -> String {
        let mut text = format!("line {}", self.line);
        if !self.username.is_empty() {
            let _ = write!(text, " ({})", printable(self.username));
        }
        let gap = if self.violation.field.is_empty() { "" } else { " " };
        let _ =
            write!(text, ": {}{gap}{}", printable(&self.violation.field), printable(&self.violation.reason));
        text
    }
}

/// Replaces control characters, so that a file cannot control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

fn write(file: std::fs::File, output: &Output, refused: &[RefusedAccount<'_>]) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    for account in refused {
        if output.is_json() {
            writeln!(file, "{}", account.json())?;
        } else {
            writeln!(file, "{}", account.text())?;
        }
    }
    file.flush()
}
