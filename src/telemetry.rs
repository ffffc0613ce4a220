//! Logs: text on a terminal, JSON otherwise, on standard error, written so that nobody ever waits for whoever reads
//! them.

mod writer;

use std::{
    fs::File,
    io::{IsTerminal as _, Write, stderr},
    os::fd::AsFd as _,
    sync::{Arc, OnceLock},
    time::{Duration, UNIX_EPOCH},
};

use serde_json::json;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use self::writer::LogWriter;
use crate::{
    config::{Log, LogFormat},
    domain::ports::Clock as _,
    isolation::panics,
    store::clock::SystemClock,
};

/// What is being logged to.
static WRITER: OnceLock<Arc<LogWriter>> = OnceLock::new();

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

/// Starts logging, panics included. An error is one sentence that names the key.
pub fn start(log: &Log) -> Result<(), String> {
    let filter = filter(log)?;
    let terminal = stderr().is_terminal();
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let report = Box::new(move |lost| report(lost, text));
    let writer = LogWriter::start(output(), report).map_err(|error| format!("cannot log: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Arc::clone(&writer))
        .with_target(true)
        // It would print on standard error, which can block or panic.
        .log_internal_errors(false);
    let started = if text {
        builder.with_ansi(terminal).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    started.map_err(|error| format!("cannot log: {error}"))?;
    WRITER.get_or_init(|| writer);
    panics::install_hook();
    Ok(())
}

/// Waits until everything that was logged is written, at most this long.
pub fn flush(limit: Duration) {
    if let Some(writer) = WRITER.get() {
        writer.flush(limit);
    }
}

/// Log lines that could not be written, since the process began.
pub fn lines_lost() -> u64 {
    WRITER.get().map_or(0, |writer| writer.lost())
}

/// Standard error, without the lock that everybody else who prints there would wait for.
fn output() -> Box<dyn Write + Send> {
    match stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(stderr()),
    }
}

/// The line that reports lost lines. Made here and not by the subscriber, whose lines can be lost.
fn report(lost: u64, text: bool) -> Vec<u8> {
    let now = Duration::from_micros(SystemClock.now().as_micros());
    let now = humantime::format_rfc3339_micros(UNIX_EPOCH + now);
    let message = "log lines were lost: writing them failed, or whoever reads them was too slow";
    let line = if text {
        format!("{now} ERROR {}: {message} log.lines_lost={lost}\n", module_path!())
    } else {
        let fields = json!({
            "timestamp": now.to_string(),
            "level": "ERROR",
            "message": message,
            "log.lines_lost": lost,
            "target": module_path!(),
        });
        format!("{fields}\n")
    };
    line.into_bytes()
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
