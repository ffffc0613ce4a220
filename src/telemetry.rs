//! Logs: text on a terminal, JSON otherwise, on standard error.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::config::{Log, LogFormat};

/// Whatever level is asked for, these stay below it: at `trace` they would print headers and frames, and
/// with them tokens and keys.
const QUIET: [&str; 9] = [
    "h2=info",
    "hyper=info",
    "hyper_util=info",
    "tower=info",
    "tonic=info",
    "axum=info",
    "redis=info",
    "sqlx=warn",
    "rustls=info",
];

/// Begins to log. An error is one sentence that names the key.
pub fn start(log: &Log) -> Result<(), String> {
    let filter = filter(log)?;
    let terminal = stderr().is_terminal();
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(true);
    let started = if text {
        builder.with_ansi(terminal).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    started.map_err(|error| format!("cannot log: {error}"))
}

/// Whether [`start`] would accept the settings.
pub fn check(log: &Log) -> Result<(), String> {
    filter(log).map(|_| ())
}

fn filter(log: &Log) -> Result<EnvFilter, String> {
    // A single word that is no level would be taken for the name of a module, and nothing else be logged.
    if !log.level.contains(['=', ',']) && log.level.parse::<LevelFilter>().is_err() {
        return Err(format!("log.level: {} is not one of off, error, warn, info, debug, trace", log.level));
    }
    let mut filter = EnvFilter::try_new(&log.level)
        .map_err(|error| format!("log.level: {error}; use error, warn, info, debug or trace"))?;
    for directive in QUIET {
        filter = filter.add_directive(directive.parse().map_err(|error| format!("log.level: {error}"))?);
    }
    Ok(filter)
}
