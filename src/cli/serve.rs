//! `latchkey serve`

use std::{fmt::Write as _, io::Write as _, sync::Arc, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Common, Failure, output};
use crate::{
    app::App,
    config::{self, Config},
    store::clock::SystemClock,
    telemetry,
};

/// How long writing the last log lines may take.
const FLUSH: Duration = Duration::from_secs(1);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey serve\n  latchkey serve --config latchkey.toml --check\n  LATCHKEY_SESSIONS__URL=redis://127.0.0.1 latchkey serve\n\nSignals: SIGTERM and SIGINT finish what is under way and stop; SIGHUP reads signing keys and certificates again."
)]
pub(super) struct Serve {
    /// Check the settings and the files they name, then exit.
    #[arg(long)]
    check: bool,
    /// Make the signing keys and the admin key that are missing, although there are accounts: everybody is logged
    /// out by that. For one start, where the old ones are lost.
    #[arg(long)]
    allow_new_keys: bool,
    /// Print every setting with its default and its meaning, then exit.
    #[arg(long)]
    print_defaults: bool,
}

impl Serve {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        if self.print_defaults {
            return output::write(config::DEFAULTS).map_err(|error| output::write_error(&error));
        }
        let config = Config { allow_new_keys: self.allow_new_keys, ..common.config()? };
        if self.check {
            App::check(&config).await.map_err(|error| Failure::Refused(error.to_string()))?;
            output::note("the settings are good");
            return Ok(());
        }
        telemetry::start(&config.log).map_err(Failure::Refused)?;
        // Before anything else: a signal during a slow start must not be lost.
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hangup = listen(SignalKind::hangup())?;

        let outcome = match App::start(&config, Arc::new(SystemClock)).await {
            Err(error) => Err(Failure::Refused(error.to_string())),
            Ok(app) => {
                greet(&app, &config);
                let outcome = loop {
                    tokio::select! {
                        _ = terminate.recv() => break Ok(()),
                        _ = interrupt.recv() => break Ok(()),
                        () = app.failed() => {
                            break Err(Failure::Unavailable("a port was closed: see the log, and start again".into()));
                        }
                        Some(()) = hangup.recv() => {
                            tracing::info!("SIGHUP: reading signing keys and certificates again");
                            app.reload();
                        }
                    }
                };
                tracing::info!("draining");
                app.stop().await;
                tracing::info!("stopped");
                outcome
            }
        };
        telemetry::flush(FLUSH);
        outcome
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::Refused(format!("cannot listen for signals: {error}")))
}

/// Says where it listens, which with port 0 nobody knows, and what to type next. In a thread of its own, because
/// whoever reads standard output may have stopped reading.
fn greet(app: &App, config: &Config) {
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
        // As it was called, which with `cargo run` is not on the path.
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
    // Fails where nobody reads any more.
    output::in_background(move || {
        let mut stdout = anstream::stdout();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    });
}
