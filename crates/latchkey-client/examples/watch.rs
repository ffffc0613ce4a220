//! Logs in and waits for the end of the session.
//!
//! An app does the same instead of polling: Latchkey reports the end of the session, and the reason, at once.
//!
//! ```console
//! $ cargo run -p latchkey-client --example watch -- alice --device Laptop
//! ```

use std::{
    error::Error,
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Parser;
use latchkey_client::{
    Client, Login, Reason, Rejection, ValidateOptions, Verdict, error_reason,
    proto::{WatchSessionRequest, watch_session_response},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Logs in and waits for the end of the session.
#[derive(Parser)]
struct Options {
    /// The username. The password is read from the terminal or from standard input.
    user: String,
    /// The address of Latchkey.
    #[arg(long, env = "LATCHKEY_SERVER", default_value = "127.0.0.1:50051")]
    server: String,
    /// The name of this client.
    #[arg(long, default_value = "Laptop")]
    device: String,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "the example reports errors on the terminal")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the example reports the session on the terminal")]
async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(&options.server)?;
    let password = read_password(&options.user)?;
    let login = client.login(Login::new(options.user, password, options.device)).await;
    let login = login.map_err(|status| match error_reason(&status) {
        Some(_) => status.message().to_owned(),
        None => format!("no server answers at {}: {}", options.server, status.message()),
    })?;
    let session = &login.identity;
    println!("logged in on {} at {} UTC", session.device, &time_of_day(session.issued_at)[..5]);

    println!("watching; log in elsewhere to see what happens");
    let end = wait_for_end(&client, &login.token).await.map_err(|status| status.message().to_owned())?;
    let time = time_of_day(end.at.unwrap_or(SystemTime::UNIX_EPOCH));
    let explanation = match end.reason {
        Reason::Replaced if !end.by_device.is_empty() => format!("replaced by {}", end.by_device),
        _ => end.message,
    };
    println!("{time}  {explanation}");
    // Two apps that both log in again by themselves would displace each other forever.
    let next = if end.terminal { "must not: show a button" } else { "may" };
    println!("log in again by itself? an app {next}");
    Ok(())
}

/// Watches the session until it ends. A failed stream says nothing about the session, so it is opened again.
async fn wait_for_end(client: &Client, token: &str) -> Result<Rejection, Status> {
    let mut backoff = Duration::from_millis(250);
    loop {
        let status = match watch(client, token).await {
            Ok(rejection) => return Ok(rejection),
            Err(status) => status,
        };
        match status.code() {
            // The session ended while it was not watched. Validate returns the complete rejection.
            Code::Unauthenticated => match client.validate(token, ValidateOptions::default()).await {
                Ok(Verdict::Rejected(rejection)) => return Ok(rejection),
                Ok(Verdict::Live(_)) => return Err(status),
                Err(_) => {}
            },
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled => {}
            _ => return Err(status),
        }
        // The jitter keeps the clients of a restarted server from returning at the same moment.
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let delay = retry_after.unwrap_or(backoff).mul_f64(rand::random_range(1.0..1.5));
        tokio::time::sleep(delay).await;
        backoff = (backoff * 2).min(Duration::from_secs(10));
    }
}

/// Watches the session over one stream. The first message is the session, the last one is the rejection.
async fn watch(client: &Client, token: &str) -> Result<Rejection, Status> {
    let request = WatchSessionRequest { token: token.to_owned() };
    let mut stream = client.auth().watch_session(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        if let Some(watch_session_response::Verdict::Rejection(rejection)) = message.verdict {
            return Ok(rejection.into());
        }
    }
    Err(Status::unavailable("the stream has ended without a rejection"))
}

fn read_password(user: &str) -> Result<String, Box<dyn Error>> {
    let password = if io::stdin().is_terminal() {
        rpassword::prompt_password(format!("Password of {user}: "))
    } else {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line.trim_end_matches(['\r', '\n']).to_owned())
    };
    password.map_err(|error| format!("failed to read the password: {error}").into())
}

/// Formats the time of day in UTC, such as `14:18:12`.
fn time_of_day(time: SystemTime) -> String {
    prost_types::Timestamp::from(time).to_string()[11..19].to_owned()
}
