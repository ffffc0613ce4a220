//! `latchkey serve`

use std::{fmt::Write as _, io::Write as _, sync::Arc, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{CommandError, Common, output};
use crate::{
    app::App,
    config::{self, Config},
    store::clock::SystemClock,
    telemetry,
};

/// How long to wait for the last log lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey serve\n  latchkey serve --config latchkey.toml --check\n  LATCHKEY_SESSIONS__URL=redis://127.0.0.1 latchkey serve\n\nSignals: SIGTERM and SIGINT drain and stop the server; SIGHUP reloads signing keys and certificates."
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
        let config = Config { allow_new_keys: self.allow_new_keys, ..common.config()? };
        if self.check {
            App::check(&config).await.map_err(|error| CommandError::Failed(error.to_string()))?;
            output::note("the settings are good");
            return Ok(());
        }
        telemetry::start(&config.log).map_err(CommandError::Failed)?;
        // Registered first, so that a signal during a slow start is not lost.
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hangup = listen(SignalKind::hangup())?;

        let result = match App::start(&config, Arc::new(SystemClock)).await {
            Err(error) => Err(CommandError::Failed(error.to_string())),
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
                            tracing::info!("SIGHUP: reloading signing keys and certificates");
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
        telemetry::flush(FLUSH_TIMEOUT);
        result
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, CommandError> {
    signal(kind).map_err(|error| CommandError::Failed(format!("cannot listen for signals: {error}")))
}

/// Prints the addresses, which are only known now for port 0, and on a terminal the next commands to type. Writes in a thread of
/// its own, because a reader of standard output may have stopped reading.
fn print_addresses(app: &App, config: &Config) {
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
    if output::is_terminal() {
        // The program may not be on the PATH, as with `cargo run`.
        let latchkey = std::env::args().next().unwrap_or_else(|| "latchkey".to_owned());
        let _ = writeln!(
            text,
            "\nNext, in another terminal:\n  {latchkey} account add alice\n  {latchkey} login alice"
        );
        if !config.tls.is_on() {
            let _ = writeln!(text, "  grpcurl -plaintext {} list", app.grpc);
        }
        let _ = writeln!(text);
    }
    output::in_background(move || {
        let mut stdout = anstream::stdout();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    });
}
