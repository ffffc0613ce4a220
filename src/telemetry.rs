//! Logs on standard error: text on a terminal, JSON otherwise. Logging never waits for the reader of standard error.
//! Traces and metrics can go to a collector, see [`traces`] and [`metrics`].

mod filter;
mod format;
mod metrics;
mod otlp;
mod traces;
mod writer;

use std::{
    fs::File,
    io::{IsTerminal as _, Write, stderr},
    os::fd::AsFd as _,
    sync::{Arc, OnceLock},
    time::{Duration, UNIX_EPOCH},
};

use serde_json::json;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    layer::SubscriberExt as _,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use self::{
    filter::{LogFilter, TraceFilter},
    format::JsonLines,
    writer::LogWriter,
};
pub use self::{
    metrics::MetricsExport,
    otlp::check as check_otlp,
    traces::{flush_spans, spans_lost},
};
use crate::{
    config::{Log, LogFormat, Otlp},
    domain::ports::Clock as _,
    isolation::panics,
    store::clock::SystemClock,
};

static WRITER: OnceLock<Arc<LogWriter>> = OnceLock::new();
static LEVEL: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Directives that limit the libraries whatever `log.level` is: at `trace` they would log headers and frames, and with them
/// tokens and keys.
const LIBRARY_LEVELS: [&str; 9] = [
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

/// Starts logging, including panics, and tracing, if it is configured. Requires a runtime. An error is one line that names
/// the configuration key.
pub fn start(log: &Log, otlp: &Otlp) -> Result<(), String> {
    let (events, level) = reload::Layer::new(filter(log)?);
    let is_terminal = stderr().is_terminal();
    let as_text = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let report = Box::new(move |lost| report(lost, as_text));
    let writer =
        LogWriter::start(output(), report).map_err(|error| format!("failed to start logging: {error}"))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Arc::clone(&writer))
        .with_target(true)
        // Internal errors are printed on standard error, which can block or panic.
        .log_internal_errors(false);
    let filter = LogFilter { events, traces: otlp.traces() };
    let lines = if as_text {
        lines.with_ansi(is_terminal).with_filter(filter).boxed()
    } else {
        lines.json().event_format(JsonLines::new()).with_filter(filter).boxed()
    };
    let mut layers = vec![lines];
    if otlp.traces() {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(traces::start(otlp)?)
            .with_context_activation(false)
            .with_level(false)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        layers.push(layer.with_filter(TraceFilter).boxed());
    }
    let started = tracing_subscriber::registry().with(layers).try_init();
    started.map_err(|error| format!("failed to start logging: {error}"))?;
    WRITER.get_or_init(|| writer);
    LEVEL.get_or_init(|| level);
    panics::install_hook();
    Ok(())
}

/// Uses another log level from now on.
pub fn set_level(log: &Log) -> Result<(), String> {
    let filter = filter(log)?;
    match LEVEL.get() {
        Some(level) => level.reload(filter).map_err(|error| format!("log.level: {error}")),
        None => Ok(()),
    }
}

/// Waits until all log lines are written, at most this long.
pub fn flush(limit: Duration) {
    if let Some(writer) = WRITER.get() {
        writer.flush(limit);
    }
}

/// The number of log lines that were lost since the start of the process.
pub fn lines_lost() -> u64 {
    WRITER.get().map_or(0, |writer| writer.lost())
}

/// Standard error without its lock, for which everybody who prints there would wait.
fn output() -> Box<dyn Write + Send> {
    match stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(stderr()),
    }
}

/// Formats the line that reports lost lines. The subscriber cannot log it, because its lines can be lost.
fn report(lost: u64, as_text: bool) -> Vec<u8> {
    let now = Duration::from_micros(SystemClock.now().as_micros());
    let now = humantime::format_rfc3339_micros(UNIX_EPOCH + now);
    let message = "log lines were lost: writing them failed, or the reader of standard error was too slow";
    let line = if as_text {
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

/// Checks the configuration without starting to log.
pub fn check(log: &Log) -> Result<(), String> {
    filter(log).map(|_| ())
}

fn filter(log: &Log) -> Result<EnvFilter, String> {
    // tracing takes a single unknown word for the name of a module, and would log nothing else.
    if !log.level.contains(['=', ',']) && log.level.parse::<LevelFilter>().is_err() {
        return Err(format!(
            "log.level: \"{}\" is not one of off, error, warn, info, debug, trace",
            log.level
        ));
    }
    let mut filter = EnvFilter::try_new(&log.level).map_err(|error| {
        format!("log.level: \"{}\" is invalid: {error}; use error, warn, info, debug or trace", log.level)
    })?;
    for directive in LIBRARY_LEVELS {
        filter = filter.add_directive(directive.parse().map_err(|error| format!("log.level: {error}"))?);
    }
    Ok(filter)
}
