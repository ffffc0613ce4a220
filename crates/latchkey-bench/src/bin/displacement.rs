//! Measures the time from a login until the client that it displaced is notified: two servers on one Redis, the login on the
//! one, the `WatchSession` of the displaced session on the other. Every event is checked.
//!
//! Starts a Redis server of its own, and two servers of the binary that was built beside this one. `make displacement` builds
//! both.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics has failed; tests may unwrap anyway")]

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use clap::Parser;
use latchkey::grpc::pb::{RejectionReason, WatchSessionResponse, watch_session_response::Verdict};
use latchkey_bench::{
    Result,
    processes::{CHEAP_PASSWORDS, ServerProcess, built_binary, serve_command, variables},
    support::{
        client::{Client, login_request},
        redis::RedisServer,
    },
};
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tonic::Streaming;

/// The time limit of each step; beyond it the measurement has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of connections to each server, like that many services that log users in.
const CONNECTIONS: usize = 4;

/// Measures how long a displaced client takes to learn of it.
#[derive(Parser)]
struct Arguments {
    /// Number of displacements to measure.
    #[arg(long, default_value_t = 10_000)]
    displacements: u32,
    /// Number of users, who are displaced in turn.
    #[arg(long, default_value_t = 100)]
    users: u32,
    /// Displacements per second, over all users. Choose a rate below the limit of the servers.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// The server binary. The default is the one that was built beside this program.
    #[arg(long)]
    latchkey: Option<PathBuf>,
}

fn start_server(program: &Path, data: &Path, redis: &RedisServer) -> Result<ServerProcess> {
    let mut command = serve_command(program.to_owned());
    command.env("LATCHKEY_DATA_DIR", data).env("LATCHKEY_SESSIONS__URL", redis.url());
    command.envs(variables(&CHEAP_PASSWORDS)).env("LATCHKEY_SESSION__KICK_WAR_CHANGES", "0");
    ServerProcess::start(command, Command::spawn)
}

async fn connect(server: &ServerProcess, admin_key: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(server.grpc, admin_key).await);
    }
    clients[0].until_serving().await;
    clients
}

/// The times of one displacement, in microseconds.
struct Sample {
    /// From sending the login to its response.
    login: i64,
    /// From sending the login to the event.
    sent_to_event: i64,
    /// From the response to the event; negative if the event came first.
    answered_to_event: i64,
}

/// A watched session; the task returns the last message, and when it came.
type Watch = JoinHandle<Result<(Instant, WatchSessionResponse)>>;

/// Opens a stream, and waits for its end in the background.
async fn watch(client: &Client, token: &str) -> Result<Watch> {
    let opened = async {
        let mut stream = client.watch_stream(token).await?;
        Ok::<_, tonic::Status>((stream.message().await?, stream))
    };
    let (first, stream) = within_timeout("opening a watch", opened).await??;
    match first.and_then(|first| first.verdict) {
        Some(Verdict::Session(_)) => Ok(tokio::spawn(last_message(stream))),
        other => Err(format!("a watch began with {other:?}").into()),
    }
}

async fn last_message(
    mut stream: Streaming<WatchSessionResponse>,
) -> Result<(Instant, WatchSessionResponse)> {
    let last = stream.message().await;
    let came = Instant::now();
    match last {
        Ok(Some(last)) => match stream.message().await {
            Ok(None) => Ok((came, last)),
            other => Err(format!("after the last message came {other:?}").into()),
        },
        other => Err(format!("instead of the last message came {other:?}").into()),
    }
}

async fn within_timeout<T>(step: &str, future: impl Future<Output = T>) -> Result<T> {
    Ok(timeout(STEP_TIMEOUT, future)
        .await
        .map_err(|_| format!("{step} took longer than {STEP_TIMEOUT:?}"))?)
}

/// Logs a user in again and again, each time on the other server.
async fn displace(
    name: String,
    clients: [Client; 2],
    displacements: u32,
    begin: Instant,
    interval: Duration,
) -> Result<Vec<Sample>> {
    let log_in = async |number: u32| {
        // The session is watched on the server that opened it; the next login goes to the other one.
        let client = &clients[number as usize % 2];
        let device = format!("login {number}");
        let sent = Instant::now();
        let answer = within_timeout("a login", client.try_login(login_request(&name, &device))).await?;
        let answered = Instant::now();
        let token = answer.map_err(|status| format!("a login failed: {status}"))?.token;
        Ok::<_, latchkey_bench::Error>((sent, answered, client, token))
    };
    let (.., client, token) = log_in(0).await?;
    let mut watched = watch(client, &token).await?;
    let mut samples = Vec::new();
    for number in 1..=displacements {
        sleep_until(begin + interval * number).await;
        let (sent, answered, client, token) = log_in(number).await?;
        let (came, last) = within_timeout("the event", watched).await???;
        match last.verdict {
            Some(Verdict::Rejection(rejection))
                if rejection.reason() == RejectionReason::Replaced
                    && rejection.by_device == format!("login {number}") => {}
            other => return Err(format!("login {number} notified the displaced client of {other:?}").into()),
        }
        samples.push(Sample {
            login: micros(sent, answered),
            sent_to_event: micros(sent, came),
            answered_to_event: micros(answered, came),
        });
        watched = watch(client, &token).await?;
    }
    Ok(samples)
}

fn micros(from: Instant, to: Instant) -> i64 {
    let between = |from, to: Instant| i64::try_from(to.duration_since(from).as_micros()).unwrap_or(i64::MAX);
    if to >= from { between(from, to) } else { -between(to, from) }
}

async fn measure(arguments: &Arguments) -> Result<(Vec<Sample>, Duration)> {
    let program = match &arguments.latchkey {
        Some(program) => program.clone(),
        None => built_binary("latchkey")?,
    };
    let data = tempfile::tempdir()?;
    let redis = RedisServer::start();
    // The first server creates the keys that the second reads.
    let servers =
        [start_server(&program, data.path(), &redis)?, start_server(&program, data.path(), &redis)?];
    let admin_key = std::fs::read_to_string(data.path().join("admin.key"))?;
    let clients = [connect(&servers[0], &admin_key).await, connect(&servers[1], &admin_key).await];

    let per_user = arguments.displacements.div_ceil(arguments.users);
    for number in 0..arguments.users {
        clients[0][0].user(&format!("user{number}")).await;
    }
    // The users begin one after the other, so that displacements are evenly spaced.
    let step = Duration::from_secs(1) / arguments.rate;
    let begin = Instant::now() + Duration::from_secs(1);
    let mut users = JoinSet::new();
    for number in 0..arguments.users {
        let clients = clients.each_ref().map(|clients| clients[number as usize % CONNECTIONS].clone());
        let interval = step * arguments.users;
        users.spawn(displace(format!("user{number}"), clients, per_user, begin + step * number, interval));
    }
    let mut samples = Vec::new();
    let measuring = async {
        while let Some(done) = users.join_next().await {
            samples.extend(done??);
        }
        Ok::<_, latchkey_bench::Error>(())
    };
    let planned = step * arguments.users * per_user;
    timeout(planned * 2 + Duration::from_mins(1), measuring)
        .await
        .map_err(|_| format!("the displacements took more than twice the planned {planned:?}"))??;
    Ok((samples, begin.elapsed()))
}

/// Percentiles by nearest rank.
fn percentiles(samples: &[Sample], value: fn(&Sample) -> i64) -> Value {
    let mut sorted: Vec<_> = samples.iter().map(value).collect();
    sorted.sort_unstable();
    let rank = |per_mille: usize| sorted[(sorted.len() * per_mille).div_ceil(1000).saturating_sub(1)];
    json!({
        "count": sorted.len(), "min": sorted[0],
        "p50": rank(500), "p90": rank(900), "p99": rank(990), "max": rank(1000),
    })
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "prints the result")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if [arguments.displacements, arguments.users, arguments.rate].contains(&0) {
        eprintln!("--displacements, --users and --rate must be at least 1");
        return ExitCode::from(2);
    }
    let (samples, duration) = match measure(&arguments).await {
        Ok(measured) => measured,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let measures = [
        ("login_sent_to_event", "Login sent to event", percentiles(&samples, |sample| sample.sent_to_event)),
        (
            "login_answered_to_event",
            "Login answered to event",
            percentiles(&samples, |sample| sample.answered_to_event),
        ),
        ("login_sent_to_answered", "Login sent to answered", percentiles(&samples, |sample| sample.login)),
    ];
    let early = samples.iter().filter(|sample| sample.answered_to_event < 0).count();
    let (count, users) = (samples.len(), arguments.users);
    let conditions = "two servers on one Redis, the login on the one, the watch on the other; all on this machine; passwords hashed with Argon2id at 8 KiB and one pass (password.allow_weak), kick wars off";
    if arguments.json {
        let mut result = json!({
            "displacements": count, "users": users, "seconds": duration.as_secs_f64(), "unit": "us",
            "events_before_the_answer": early, "conditions": conditions,
        });
        for (key, _, percentiles) in measures {
            result[key] = percentiles;
        }
        println!("{result:#}");
        return ExitCode::SUCCESS;
    }
    println!(
        "{count} displacements of {users} users in {:.1} s, every event checked",
        duration.as_secs_f64()
    );
    println!("({conditions})\n");
    println!(
        "{:<26}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "microseconds", "count", "min", "p50", "p90", "p99", "max"
    );
    for (_, name, percentiles) in measures {
        print!("{name:<26}{:>8}", percentiles["count"].to_string());
        for column in ["min", "p50", "p90", "p99", "max"] {
            print!("{:>9}", percentiles[column].to_string());
        }
        println!();
    }
    println!(
        "\n{early} events came before the answer to the login: the time from the answer is negative then"
    );
    ExitCode::SUCCESS
}
