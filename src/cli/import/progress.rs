//! How far an import has come, for a person at a terminal.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use super::report::Report;
use crate::cli::output::{self, Output};

/// A bar on standard error, where that is a terminal and a person reads the answer; otherwise nothing.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Of so many bytes, where that is known.
    pub(super) fn new(output: &Output, bytes: Option<u64>) -> Self {
        if output.is_json() || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (bar, template) = match bytes {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{bar:30} {percent:>3} %  {binary_bytes_per_sec}  {eta} left  {msg}",
            ),
            None => (ProgressBar::no_length(), "{spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}"),
        };
        Self(ProgressStyle::with_template(template).ok().map(|style| bar.with_style(style)))
    }

    /// Everything up to `offset` is done.
    pub(super) fn reached(&self, offset: u64, report: &Report) {
        if let Self(Some(bar)) = self {
            bar.set_message(format!("{} accounts, {} refused", report.total(), report.refused()));
            bar.set_position(offset);
        }
    }

    /// Says something above the bar.
    pub(super) fn remark(&self, sentence: &str) {
        match self {
            Self(Some(bar)) => bar.println(sentence),
            Self(None) => output::remark(sentence),
        }
    }

    pub(super) fn finish(&self) {
        if let Self(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}
