//! A client that learns the moment its session ends, and why: what an app does instead of asking over and
//! over. Read this first, then write yours.
//!
//! ```console
//! $ cargo run --example watch -- alice --device Laptop
//! ```

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Parser;
use latchkey_client::proto::{self as pb, RejectionReason, auth_service_client::AuthServiceClient};
use pb::{validate_response::Verdict, watch_session_response::Verdict as State};
use tonic::{Code, Status, transport::Channel, transport::Endpoint};
use tonic_types::StatusExt as _;

/// Logs in, and waits for the end of the session.
#[derive(Parser)]
struct Options {
    /// Who logs in. The password is asked for, or read from standard input.
    user: String,
    /// Where the server is.
    #[arg(long, env = "LATCHKEY_SERVER", default_value = "127.0.0.1:50051")]
    server: String,
    /// What this client calls itself.
    #[arg(long, default_value = "Laptop")]
    device: String,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "it is a program for the terminal")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) => {
            eprintln!("{}", status.message());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "it is a program for the terminal")]
async fn run(options: Options) -> Result<(), Status> {
    let mut client = AuthServiceClient::new(connect(&options.server).await?);
    let request = pb::LoginRequest {
        password: password(&options.user)?,
        username: options.user,
        device: options.device,
        ..Default::default()
    };
    let login = client.login(request).await?.into_inner();
    let session = login.session.unwrap_or_default();
    println!("logged in on {} at {} UTC", session.device, &clock(session.issued_at)[..5]);

    println!("watching; log in elsewhere to see what happens");
    let end = end_of_session(&mut client, &login.token).await?;
    let why = match end.reason() {
        RejectionReason::Replaced if !end.by_device.is_empty() => format!("replaced by {}", end.by_device),
        _ => end.message,
    };
    println!("{}  {why}", clock(end.at));
    // Two apps that both log in again by themselves throw each other out for ever.
    let next = if end.terminal { "must not: show a button" } else { "may" };
    println!("log in again by itself? an app {next}");
    Ok(())
}

/// Waits until the session has ended. A stream that breaks says nothing about the session, so it is opened
/// again: its first message or its error tells how things stand.
async fn end_of_session(
    client: &mut AuthServiceClient<Channel>,
    token: &str,
) -> Result<pb::Rejection, Status> {
    let mut pause = Duration::from_millis(250);
    loop {
        let status = match watch(client, token).await {
            Ok(rejection) => return Ok(rejection),
            Err(status) => status,
        };
        match status.code() {
            // It ended while nobody watched. Validate says all there is to say about that.
            Code::Unauthenticated => return verdict(client, token).await?.ok_or(status),
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled => {}
            _ => return Err(status),
        }
        // The server may say when to come back. Otherwise wait longer every time; and not all clients of a
        // server that restarts should come back in the same moment.
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        tokio::time::sleep(asked.unwrap_or(pause).mul_f64(rand::random_range(1.0..1.5))).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

async fn watch(client: &mut AuthServiceClient<Channel>, token: &str) -> Result<pb::Rejection, Status> {
    let request = pb::WatchSessionRequest { token: token.to_owned() };
    let mut stream = client.watch_session(request).await?.into_inner();
    // First comes the session as it is, then nothing for as long as it lives, and last the rejection.
    while let Some(message) = stream.message().await? {
        if let Some(State::Rejection(rejection)) = message.verdict {
            return Ok(rejection);
        }
    }
    Err(Status::unavailable("the stream ended early"))
}

async fn verdict(
    client: &mut AuthServiceClient<Channel>,
    token: &str,
) -> Result<Option<pb::Rejection>, Status> {
    let request = pb::ValidateRequest { token: token.to_owned(), ..Default::default() };
    Ok(match client.validate(request).await?.into_inner().verdict {
        Some(Verdict::Rejection(rejection)) => Some(rejection),
        Some(Verdict::Session(_)) | None => None,
    })
}

fn password(user: &str) -> Result<String, Status> {
    let typed = if io::stdin().is_terminal() {
        rpassword::prompt_password(format!("Password of {user}: "))
    } else {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line.trim_end_matches(['\r', '\n']).to_owned())
    };
    typed.map_err(|error| Status::invalid_argument(format!("there is no password: {error}")))
}

async fn connect(server: &str) -> Result<Channel, Status> {
    let unreachable = |_| Status::unavailable(format!("no server answers at {server}"));
    let address = format!("http://{}", server.trim_start_matches("http://"));
    let endpoint = Endpoint::from_shared(address).map_err(unreachable)?;
    // Only this notices that the network is gone, on a stream that says nothing for hours.
    endpoint.http2_keep_alive_interval(Duration::from_secs(20)).connect().await.map_err(unreachable)
}

/// The time of day, in UTC.
fn clock(at: Option<prost_types::Timestamp>) -> String {
    let at = at.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()[11..19].to_owned()
}
