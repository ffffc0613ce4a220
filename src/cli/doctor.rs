//! `latchkey doctor`

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde_json::json;

use super::{CommandError, Common, output};
use crate::app::doctor::{self, Finding, Severity};

/// The width of the first columns.
const SEVERITY_WIDTH: usize = 11;
const CHECK_WIDTH: usize = 20;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey doctor\n  latchkey doctor --config latchkey.toml --problems\n  latchkey doctor --output json | jq '.findings[] | select(.severity == \"error\")'\n\nRun it as the user of the server and with its configuration. Exit codes: 0 without errors, 1 with errors, 3 if the only errors are that a store or the server does not answer."
)]
pub(super) struct Doctor {
    /// Print only warnings, errors and what was not checked
    #[arg(long)]
    problems: bool,
}

impl Doctor {
    pub(super) async fn run(&self, common: &Common) -> Result<(), CommandError> {
        let (config, errors) = common.config_with_errors();
        let mut findings = doctor::examine(config.as_ref(), common.config.as_deref(), &errors).await;
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let outages = findings.iter().filter(|finding| finding.is_outage).count();
        let not_checked = count(Severity::NotChecked);
        if self.problems {
            findings.retain(|finding| finding.severity != Severity::Ok);
        }
        let value = json!({
            "findings": findings.iter().map(|finding| json!({
                "check": finding.check,
                "severity": finding.severity.name(),
                "message": finding.message,
                "remedy": finding.remedy,
                "outage": finding.is_outage,
            })).collect::<Vec<_>>(),
            "errors": errors,
            "warnings": warnings,
            "not_checked": not_checked,
        });
        common.output().print(&value, || {
            let mut text: String = findings.iter().map(line).collect();
            let _ = write!(text, "errors: {errors}, warnings: {warnings}, not checked: {not_checked}");
            text
        })?;
        let message = format!("errors were found: {errors}");
        match errors {
            0 => Ok(()),
            _ if outages == errors => Err(CommandError::Unavailable(message)),
            _ => Err(CommandError::Failed(message)),
        }
    }
}

/// A finding as a line, with the remedy in a second one.
fn line(finding: &Finding) -> String {
    let (name, color) = match finding.severity {
        Severity::Ok => ("ok", AnsiColor::Green),
        Severity::NotChecked => ("not checked", AnsiColor::Cyan),
        Severity::Warning => ("warning", AnsiColor::Yellow),
        Severity::Error => ("error", AnsiColor::Red),
    };
    let style = if output::is_terminal() { Style::new().fg_color(Some(color.into())) } else { Style::new() };
    let Finding { check, message, remedy, .. } = finding;
    let mut text = format!("{style}{name:<SEVERITY_WIDTH$}{style:#}  {check:<CHECK_WIDTH$}  {message}\n");
    if !remedy.is_empty() {
        let _ = writeln!(text, "{:1$}remedy: {remedy}", "", SEVERITY_WIDTH + CHECK_WIDTH + 4);
    }
    text
}
