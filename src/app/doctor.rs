//! `latchkey doctor`: examines a configuration, its files, its stores and this machine. Changes nothing, and works beside a
//! running server and without one.

mod files;
mod machine;
mod secrets;
mod stores;

use std::path::Path;

use super::{
    components::{Errors, check_config, check_missing_keys},
    security_warnings,
};
use crate::config::{Config, ConfigError};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The check found no problem.
    Ok,
    /// It could not be examined, or was not, for a reason.
    NotChecked,
    /// It works, and something can go wrong.
    Warning,
    /// It does not work, or sessions or secrets are in danger now.
    Error,
}

impl Severity {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotChecked => "not_checked",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was examined, such as `sessions.persistence`. The names are stable.
    pub check: &'static str,
    /// The severity.
    pub severity: Severity,
    /// A sentence for people that describes the result.
    pub message: String,
    /// What helps; empty if nothing is wrong.
    pub remedy: String,
    /// Whether the error is that a store or server does not answer, so that it may pass by itself.
    pub is_outage: bool,
}

/// Collects findings.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(Severity::Ok, check, message, "");
    }

    fn not_checked(&mut self, check: &'static str, why: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::NotChecked, check, why, remedy);
    }

    fn warning(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, check, message, remedy);
    }

    fn error(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, check, message, remedy);
    }

    /// Adds an error of something that does not answer.
    fn outage(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        let (severity, message, remedy) = (Severity::Error, message.into(), remedy.into());
        self.0.push(Finding { check, severity, message, remedy, is_outage: true });
    }

    fn add(
        &mut self,
        severity: Severity,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (message, remedy) = (message.into(), remedy.into());
        self.0.push(Finding { check, severity, message, remedy, is_outage: false });
    }
}

/// Examines everything that a configuration describes. `file` is the configuration file, and `errors` are those of the
/// configuration itself.
pub async fn examine(config: Option<&Config>, file: Option<&Path>, errors: &[ConfigError]) -> Vec<Finding> {
    let mut found = Findings::default();
    let mut all = Errors(errors.iter().map(ToString::to_string).collect());
    if let Some(config) = config {
        check_config(config, &mut all);
        check_missing_keys(config, false, &mut all).await;
    }
    for error in &all.0 {
        let remedy = "correct the setting or the file that it names; `latchkey serve --print-defaults` explains the settings";
        found.error("configuration", error, remedy);
    }
    if all.0.is_empty() {
        found.ok("configuration", "the settings and the files that they name are valid");
    }
    let Some(config) = config else {
        found.not_checked("everything_else", "there is no valid configuration", "correct the errors above");
        return found.0;
    };
    let server = machine::server(config, &mut found).await;
    files::data_directory(config, &mut found);
    files::keys(config, &mut found);
    files::certificates(config, &mut found);
    secrets::configuration_file(file, &mut found);
    secrets::strength(config, &mut found);
    network(config, &mut found);
    machine::descriptors(config, &mut found);
    machine::memory(config, &mut found);
    stores::sessions(config, server, &mut found).await;
    stores::accounts(config, &mut found).await;
    stores::callers(config, &mut found).await;
    found.0
}

fn network(config: &Config, found: &mut Findings) {
    let warnings = security_warnings::warnings(config, config.listen.grpc, config.listen.http);
    if warnings.is_empty() {
        found.ok("network", "no port and no store is reached over a network without TLS");
    }
    for warning in warnings {
        let (danger, remedy) = warning.advice.split_once(": ").unwrap_or((warning.advice, ""));
        found.warning("network", format!("{}: {danger}", warning.setting), remedy);
    }
}
