//! The progress bar of an import.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use super::report::Report;
use crate::cli::output::{self, Output};

/// A bar on standard error if that is a terminal and the output is not JSON.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// `size` is the size of the file in bytes, if known.
    pub(super) fn new(output: &Output, size: Option<u64>) -> Self {
        if output.is_json() || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (bar, template) = match size {
            Some(size) => {
                (ProgressBar::new(size), "{bar:30} {percent:>3} %  {binary_bytes_per_sec}  {eta} left  {msg}")
            }
            None => (ProgressBar::no_length(), "{spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}"),
        };
        Self(ProgressStyle::with_template(template).ok().map(|style| bar.with_style(style)))
    }

    /// Shows that the file is imported up to `offset`.
    pub(super) fn advance(&self, offset: u64, report: &Report) {
        if let Self(Some(bar)) = self {
            bar.set_message(format!("{} accounts, {} refused", report.total(), report.refused()));
            bar.set_position(offset);
        }
    }

    /// Prints a line above the bar.
    pub(super) fn note(&self, message: &str) {
        match self {
            Self(Some(bar)) => bar.println(message),
            Self(None) => output::note(message),
        }
    }

    pub(super) fn finish(&self) {
        if let Self(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}
