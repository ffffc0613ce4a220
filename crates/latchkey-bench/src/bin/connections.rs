//! Measures the resident memory of connections with one idle watch each, and how much of it remains after they close.
//!
//! Starts a server of the binary that was built beside this one, on an embedded store. `make connections` builds both.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use latchkey::grpc::pb::{WatchSessionResponse, watch_session_response::Verdict};
use latchkey_bench::{
    Result, core_pinning::CorePinning, processes::LatchkeyServer, seed, support::client::Client,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tonic::Streaming;

/// Connections that are opened at the same time.
const CONCURRENT: usize = 64;
/// How long the resident memory has to stay the same before it counts.
const SETTLED: Duration = Duration::from_secs(2);
/// The longest wait for that.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures the memory of connections with one idle watch each.
#[derive(Parser)]
struct Arguments {
    /// Number of connections. Each takes a file descriptor of this program and two of the limit of the server.
    #[arg(long, default_value_t = 9_000)]
    connections: usize,
    /// All connections are opened and closed this many times.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Do not pin the server to one core.
    #[arg(long)]
    all_cores: bool,
}

/// An open watch; its connection is closed when it is dropped.
type Watch = (Client, Streaming<WatchSessionResponse>);

async fn open(server: &LatchkeyServer, token: &str) -> Result<Watch> {
    let client = Client::connect(server.process.grpc, "").await;
    let mut stream = client.watch_stream(token).await?;
    match stream.message().await?.and_then(|first| first.verdict) {
        Some(Verdict::Session(_)) => Ok((client, stream)),
        other => Err(format!("a watch began with {other:?}").into()),
    }
}

/// The resident memory of the server once it no longer changes.
async fn settled(server: &LatchkeyServer) -> Result<u64> {
    let begun = Instant::now();
    let (mut resident, mut since) = (0, begun);
    loop {
        let now =
            server.process.resident_bytes().ok_or("this system does not tell the memory of a process")?;
        if now != resident {
            (resident, since) = (now, Instant::now());
        }
        if since.elapsed() > SETTLED || begun.elapsed() > PATIENCE {
            return Ok(resident);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn measure(arguments: &Arguments) -> Result<Value> {
    let pinning = CorePinning::set_up();
    let data = tempfile::tempdir()?;
    let signer = seed::signer(data.path())?;
    let tokens = {
        let (registers, _database) = seed::embedded(data.path()).await?;
        seed::open_sessions(&registers, &signer, arguments.connections, "bench", &[]).await?
    };
    let limit = (arguments.connections + 100).to_string();
    let settings = [
        ("SERVER__MAX_CONNECTIONS", limit.as_str()),
        ("SERVER__MAX_WATCHES", limit.as_str()),
        ("SERVER__CLIENT_SHARE_PERCENT", "100"),
    ];
    let server = if arguments.all_cores {
        LatchkeyServer::start_on_all_cores_with(data, None, &pinning, &settings).await?
    } else {
        LatchkeyServer::start_on(data, None, &pinning, &settings).await?
    };
    let started = settled(&server).await?;
    // What the first watch allocates for all.
    drop(open(&server, &tokens[0]).await?);
    let mut rounds = Vec::new();
    for _ in 0..arguments.rounds {
        let before = settled(&server).await?;
        let begun = Instant::now();
        let opening = stream::iter(&tokens).map(|token| open(&server, token)).buffer_unordered(CONCURRENT);
        let watches: Vec<Watch> = opening.try_collect().await?;
        let seconds = begun.elapsed().as_secs_f64();
        let open = settled(&server).await?;
        drop(watches);
        let closed = settled(&server).await?;
        let count = arguments.connections as u64;
        rounds.push(json!({
            "resident_kib_before": before / 1024,
            "resident_kib_open": open / 1024,
            "resident_kib_closed": closed / 1024,
            "bytes_a_connection": open.saturating_sub(before) / count,
            "seconds_to_open": seconds,
        }));
    }
    Ok(json!({
        "connections": arguments.connections,
        "resident_kib_started": started / 1024,
        "rounds": rounds,
    }))
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "prints the result")]
async fn main() -> ExitCode {
    match measure(&Arguments::parse()).await {
        Ok(result) => {
            println!("{result:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
