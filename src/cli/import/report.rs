//! What became of the accounts of a file.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
};

use serde_json::{Value, json};

use super::{Failure, account::FieldError};
use crate::{cli::output::Output, grpc::pb};

/// Counts, and what was refused. A reason is kept once, however many lines it is the reason for.
#[derive(Default)]
pub(super) struct Report {
    pub(super) added: u64,
    pub(super) present: u64,
    pub(super) skipped: u64,
    refused: Vec<(u64, String, usize)>,
    flaws: Vec<FieldError>,
    known: HashMap<FieldError, usize>,
    /// Whether all of the file was read and sent.
    pub(super) complete: bool,
}

impl Report {
    pub(super) fn refuse(&mut self, line: u64, username: String, flaw: FieldError) {
        let next = self.flaws.len();
        let index = *self.known.entry(flaw.clone()).or_insert(next);
        if index == next {
            self.flaws.push(flaw);
        }
        self.refused.push((line, username, index));
    }

    pub(super) fn count(&mut self, answer: pb::ImportAccountsResponse) {
        self.added += answer.added;
        self.present += answer.present;
        for pb::RefusedAccount { line, username, field, description } in answer.refusals {
            self.refuse(line, username, FieldError { field, reason: description });
        }
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    pub(super) fn total(&self) -> u64 {
        self.added + self.present + self.refused.len() as u64
    }

    /// What was refused, in the order of the file.
    fn refusals(&self) -> Vec<Refused<'_>> {
        let refusals = self.refused.iter();
        let mut refusals: Vec<_> = refusals
            .map(|(line, username, flaw)| Refused { line: *line, username, flaw: &self.flaws[*flaw] })
            .collect();
        refusals.sort_by_key(|refusal| refusal.line);
        refusals
    }

    /// Prints it; what was refused goes into `file` where there is one, a line each.
    pub(super) fn print(
        &self,
        output: &Output,
        dry_run: bool,
        file: Option<std::fs::File>,
    ) -> Result<(), Failure> {
        let refusals = self.refusals();
        let to_file = file.is_some();
        if let Some(file) = file {
            write(file, output, &refusals)
                .map_err(|error| Failure::Refused(format!("the report cannot be written: {error}")))?;
        }
        let value = json!({
            "added": self.added,
            "present": self.present,
            "skipped": self.skipped,
            "refused": refusals.iter().map(Refused::json).collect::<Vec<_>>(),
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
            for refusal in refusals.iter().filter(|_| !to_file) {
                let _ = write!(text, "\n{}", refusal.text());
            }
            text
        })
    }
}

/// What was refused, and why.
struct Refused<'a> {
    line: u64,
    username: &'a str,
    flaw: &'a FieldError,
}

impl Refused<'_> {
    fn json(&self) -> Value {
        let FieldError { field, reason } = self.flaw;
        json!({ "line": self.line, "username": self.username, "field": field, "reason": reason })
    }

    /// `line 17 (alice): roles must ...`
    fn text(&self) -> String {
        let mut text = format!("line {}", self.line);
        if !self.username.is_empty() {
            let _ = write!(text, " ({})", harmless(self.username));
        }
        let gap = if self.flaw.field.is_empty() { "" } else { " " };
        let _ = write!(text, ": {}{gap}{}", harmless(&self.flaw.field), harmless(&self.flaw.reason));
        text
    }
}

/// What a file says, fit for a terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

fn write(file: std::fs::File, output: &Output, refusals: &[Refused<'_>]) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    for refusal in refusals {
        if output.is_json() {
            writeln!(file, "{}", refusal.json())?;
        } else {
            writeln!(file, "{}", refusal.text())?;
        }
    }
    file.flush()
}
