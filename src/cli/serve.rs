//! `latchkey serve`

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{CommandError, Common, output};
use crate::{
    app::{App, StartError},
    config::{self, ClientCertificate, Config},
    store::clock::SystemClock,
    telemetry,
};

/// How long to wait for the last log lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait for the last spans to be exported.
const SPANS_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey serve\n  latchkey serve --config latchkey.toml --check\n  LATCHKEY_SESSIONS__URL=redis://127.0.0.1 latchkey serve\n\nSignals: SIGTERM and SIGINT drain and stop the server; SIGHUP reloads the log level, signing keys and certificates."
)]
pub(super) struct Serve {
    /// Check the configuration and the files that it names, then exit.
    #[arg(long)]
    check: bool,
    /// Create missing signing keys and a missing admin key although there are accounts, which logs every user out. For one
    /// start after the old keys were lost.
    #[arg(long)]
    allow_new_keys: bool,
    /// Print every configuration key with its default and its meaning, then exit.
    #[arg(long)]
    print_defaults: bool,
}

impl Serve {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        if self.print_defaults {
            return output::write(config::DEFAULTS).map_err(|error| output::write_error(&error));
        }
        if self.check {
            return self.check(common).await;
        }
        // Listens first: without a listener, SIGHUP ends the process.
        let mut hangup = listen(SignalKind::hangup())?;
        let config = Config { allow_new_keys: self.allow_new_keys, ..common.config()? };
        telemetry::start(&config.log, &config.otlp).map_err(CommandError::Failed)?;
        // Registered first, so that a signal during a slow start is not lost.
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;

        let result = match App::start(&config, Arc::new(SystemClock)).await {
            Err(StartError(errors)) => Err(CommandError::Several(errors)),
            Ok(app) => {
                print_addresses(&app, &config);
                let result = loop {
                    tokio::select! {
                        _ = terminate.recv() => break Ok(()),
                        _ = interrupt.recv() => break Ok(()),
                        () = app.failed() => {
                            break Err(CommandError::Unavailable("a port was closed: see the log, and start the server again".into()));
                        }
                        Some(()) = hangup.recv() => {
                            tracing::info!("SIGHUP: reloading the log level, signing keys and certificates");
                            reload_config(common, &config);
                            app.reload();
                        }
                    }
                };
                tracing::info!("draining");
                app.stop().await;
                tracing::info!("stopped");
                result
            }
        };
        telemetry::flush_spans(SPANS_TIMEOUT).await;
        telemetry::flush(FLUSH_TIMEOUT);
        result
    }

    /// Reports all errors at once.
    async fn check(&self, common: &Common) -> Result<(), CommandError> {
        let (config, errors) = common.config_with_errors();
        let mut errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        if let Some(config) = config {
            let config = Config { allow_new_keys: self.allow_new_keys, ..config };
            errors = App::check(&config, errors).await;
        }
        let output = common.output();
        if output.is_json() {
            let value = json!({ "valid": errors.is_empty(), "errors": errors });
            output.print(&value, String::new)?;
        } else if errors.is_empty() {
            output::note("the settings are good");
        }
        if errors.is_empty() { Ok(()) } else { Err(CommandError::Several(errors)) }
    }
}

/// Reads the configuration again and uses its log level. An invalid configuration changes nothing.
fn reload_config(common: &Common, running: &Config) {
    let reloaded = match common.config_with_errors() {
        (Some(newer), errors) if errors.is_empty() => telemetry::set_level(&newer.log).map(|()| newer),
        (_, errors) => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    match reloaded {
        Ok(newer) => {
            tracing::info!(log.level = newer.log.level, "using the log level of the configuration");
            let changed = running.needs_restart(&newer);
            if !changed.is_empty() {
                tracing::warn!(
                    config.keys = changed.join(", "),
                    "these settings have changed and take effect after a restart"
                );
            }
        }
        Err(error) => tracing::error!(
            error.message = error,
            "failed to reload the configuration; keeping the settings in use"
        ),
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, CommandError> {
    signal(kind).map_err(|error| CommandError::Failed(format!("cannot listen for signals: {error}")))
}

/// Prints the addresses, which are only known now for port 0, and on a terminal the next commands to type. Writes in a thread of
/// its own, because a reader of standard output may have stopped reading. Where standard output is also the log, nothing is
/// printed between its lines: the log has the same information.
fn print_addresses(app: &App, config: &Config) {
    let is_terminal = output::is_terminal();
    if !is_terminal && output::is_also_standard_error() {
        return;
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "Latchkey {} listens on {} (gRPC) and {} (HTTP)",
        env!("CARGO_PKG_VERSION"),
        app.grpc,
        app.http
    );
    let _ = writeln!(text, "data and keys   {}", config.data_dir.display());
    let _ = writeln!(text, "admin key       {}", config.admin_key_file().display());
    if is_terminal {
        let commands = next_commands(app.grpc, config);
        if !commands.is_empty() {
            let _ = writeln!(text, "\nNext, in another terminal:\n  {}", commands.join("\n  "));
        }
        let _ = writeln!(text);
    }
    output::in_background(move || {
        let mut stdout = anstream::stdout();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    });
}

/// Commands that work from any directory, without the configuration of this server.
fn next_commands(grpc: SocketAddr, config: &Config) -> Vec<String> {
    if config.tls.client_certificate == ClientCertificate::Required {
        return Vec::new();
    }
    // The program may not be on the PATH, as with `cargo run`.
    let program = std::env::args().next().unwrap_or_else(|| "latchkey".to_owned());
    let program = if program.contains('/') { quoted(&absolute(Path::new(&program))) } else { program };
    let tls = &config.tls;
    let settings = if tls.is_on() {
        let [certificate, key] =
            [&tls.certificate_file, &tls.key_file].map(|file| quoted(&absolute(Path::new(file))));
        format!("LATCHKEY_TLS__CERTIFICATE_FILE={certificate} LATCHKEY_TLS__KEY_FILE={key} ")
    } else {
        String::new()
    };
    let local = if grpc.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
    let ip = if grpc.ip().is_unspecified() { local } else { grpc.ip() };
    let server = SocketAddr::new(ip, grpc.port());
    let key = quoted(&absolute(&config.admin_key_file()));
    let login = format!("{settings}{program} login alice --server {server}");
    // Accounts of another system are not added here.
    let mut commands = if config.accounts.lookup.trim().is_empty() {
        vec![format!("{settings}{program} account add alice --server {server} --key-file {key}"), login]
    } else {
        vec![login]
    };
    if !tls.is_on() && config.server.reflection {
        commands.push(format!("grpcurl -plaintext {server} list"));
    }
    commands
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Quotes a word for a shell, if it needs that.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+,=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_for_the_shell_only_if_needed() {
        assert_eq!(quoted("/var/lib/latchkey"), "/var/lib/latchkey");
        assert_eq!(quoted("/my data/it's"), "'/my data/it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
