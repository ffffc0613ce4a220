//! The output of commands: text for people, JSON for programs, colours only on a terminal.

use std::{
    ffi::OsString,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::CommandError;
use crate::grpc::pb;

/// How long to wait until an error message is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Text for people.
    Text,
    /// JSON for programs, one value per line.
    Json,
}

impl Format {
    /// The format that these arguments ask for, if they could not be parsed.
    pub(super) fn of_arguments(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let is_json = arguments.iter().any(|argument| argument == "--output=json")
            || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
        if is_json { Self::Json } else { Self::Text }
    }
}

/// Prints data on standard output.
pub(super) struct Output {
    format: Format,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints a value as JSON or as text.
    pub(super) fn print(&self, value: &Value, text: impl FnOnce() -> String) -> Result<(), CommandError> {
        self.try_print(value, text).map_err(|error| write_error(&error))
    }

    /// [`Self::print`] for the result of a change, which an output error does not undo.
    pub(super) fn print_done(
        &self,
        value: &Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), CommandError> {
        self.try_print(value, text).map_err(|error| {
            let message = write_error(&error).message();
            CommandError::Failed(format!("{message}. The command itself succeeded"))
        })
    }

    /// [`Self::print`] with the error of the write.
    pub(super) fn try_print(&self, value: &Value, text: impl FnOnce() -> String) -> io::Result<()> {
        let line = match self.format {
            Format::Json => value.to_string(),
            Format::Text => text(),
        };
        write(&format!("{}\n", line.trim_end()))
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }
}

pub(super) fn write(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

pub(super) fn write_error(error: &io::Error) -> CommandError {
    CommandError::Failed(format!("cannot write to standard output: {error}"))
}

/// Prints a line on standard error.
pub(super) fn note(message: &str) {
    let _ = writeln!(anstream::stderr(), "{message}");
}

/// Prints an error on standard error. Waits at most [`WRITE_TIMEOUT`] if nobody reads it.
pub(super) fn print_error(error: &CommandError, format: Format) {
    let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
    let text = match format {
        Format::Json => format!("{}\n", error.json()),
        Format::Text => error.lines().iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{red}error:{red:#} {line}");
            text
        }),
    };
    let written = in_background(move || {
        let _ = anstream::stderr().write_all(text.as_bytes());
    });
    let _ = written.recv_timeout(WRITE_TIMEOUT);
}

/// Runs a write that may block, in a thread of its own. The receiver is notified of its end.
pub(super) fn in_background(print: impl FnOnce() + Send + 'static) -> Receiver<()> {
    let (done, printed) = sync_channel(1);
    let printing = move || {
        print();
        let _ = done.send(());
    };
    // If no thread can be started, nothing is printed, and the receiver sees that the sender is gone.
    let _ = thread::Builder::new().name("output".into()).spawn(printing);
    printed
}

/// Whether standard output and standard error are the same file, as with `2>&1`.
pub(super) fn is_also_standard_error() -> bool {
    let identity = |file: BorrowedFd<'_>| rustix::fs::fstat(file).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let output = identity(io::stdout().as_fd());
    // Pipes, sockets and files are told apart in this way; a closed one is none.
    output.is_some() && output == identity(io::stderr().as_fd())
}

pub(super) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Formats a time as RFC 3339; empty without one.
pub(super) fn time(timestamp: Option<&prost_types::Timestamp>) -> String {
    timestamp.map_or_else(String::new, |timestamp| {
        let since = Duration::new(
            u64::try_from(timestamp.seconds).unwrap_or_default(),
            u32::try_from(timestamp.nanos).unwrap_or_default(),
        );
        humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since).to_string()
    })
}

/// A session as JSON, with the field names of the protocol.
pub(super) fn session_json(session: &pb::Session) -> Value {
    json!({
        "session_id": session.session_id,
        "user_id": session.user_id,
        "username": session.username,
        "slot": session.slot,
        "device": session.device,
        "roles": session.roles,
        "issued_at": time(session.issued_at.as_ref()),
        "expires_at": time(session.expires_at.as_ref()),
        "idle_expires_at": time(session.idle_expires_at.as_ref()),
    })
}

/// A session as lines of text.
pub(super) fn session_text(session: &pb::Session) -> String {
    fields(&[
        ("user", format!("{} ({})", session.username, session.user_id)),
        ("roles", session.roles.join(", ")),
        ("session", session.session_id.clone()),
        ("slot", session.slot.clone()),
        ("device", session.device.clone()),
        ("issued", time(session.issued_at.as_ref())),
        ("expires", time(session.expires_at.as_ref())),
        ("if unused", time(session.idle_expires_at.as_ref())),
    ])
}

/// A rejection as JSON, with the field names of the protocol.
pub(super) fn rejection_json(rejection: &pb::Rejection) -> Value {
    json!({
        "reason": reason(rejection),
        "at": time(rejection.at.as_ref()),
        "by_device": rejection.by_device,
        "message": rejection.message,
        "terminal": rejection.terminal,
    })
}

pub(super) fn rejection_text(rejection: &pb::Rejection) -> String {
    let mut text = format!("{}: {}", reason(rejection), rejection.message);
    if rejection.at.is_some() {
        let _ = write!(text, " ({})", time(rejection.at.as_ref()));
    }
    text
}

pub(super) fn reason(rejection: &pb::Rejection) -> &'static str {
    let name = rejection.reason().as_str_name();
    name.strip_prefix("REJECTION_REASON_").unwrap_or(name)
}

/// An account as JSON, with the field names of the protocol.
pub(super) fn account_json(account: &pb::Account) -> Value {
    json!({
        "user_id": account.user_id,
        "username": account.username,
        "roles": account.roles,
        "disabled": account.disabled,
        "disabled_until": account.disabled_until.as_ref().map(|until| time(Some(until))),
        "created_at": time(account.created_at.as_ref()),
    })
}

/// An account as lines of text.
pub(super) fn account_text(account: &pb::Account) -> String {
    fields(&[
        ("user", account.username.clone()),
        ("id", account.user_id.clone()),
        ("roles", account.roles.join(", ")),
        ("state", state(account)),
        ("created", time(account.created_at.as_ref())),
    ])
}

pub(super) fn state(account: &pb::Account) -> String {
    match (account.disabled, account.disabled_until.as_ref()) {
        (false, _) => "enabled".into(),
        (true, None) => "disabled".into(),
        (true, until) => format!("disabled until {}", time(until)),
    }
}

pub(super) fn join_lines(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join("\n")
}

/// Formats names and values, one pair per line. Empty values are left out.
pub(super) fn fields(pairs: &[(&str, String)]) -> String {
    let bold = if is_terminal() { Style::new().bold() } else { Style::new() };
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "{bold}{name:<10}{bold:#} {value}");
    }
    text
}

/// The failed logins of a username.
pub(super) fn throttle_json(throttle: &pb::LoginThrottle) -> Value {
    json!({
        "failures": throttle.failures,
        "locked": throttle.locked,
        "next_attempt_at": throttle.next_attempt_at.as_ref().map(|at| time(Some(at))),
    })
}

/// [`throttle_json`] as text; empty without failed logins.
pub(super) fn throttle_text(throttle: &pb::LoginThrottle) -> String {
    if throttle.failures == 0 {
        return String::new();
    }
    let until = match (&throttle.next_attempt_at, throttle.locked) {
        (_, true) => "; locked until `latchkey account unlock`".to_owned(),
        (Some(at), false) => format!("; the next attempt is allowed at {}", time(Some(at))),
        (None, false) => String::new(),
    };
    fields(&[("logins", format!("{} failed in a row{until}", throttle.failures))])
}
