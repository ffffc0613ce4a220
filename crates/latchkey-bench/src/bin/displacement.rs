//! Measures how long after a login the client that it displaced knows: two servers on one Redis, the login on
//! the one, the `WatchSession` of the displaced session open on the other. Every event is checked.
//!
//! Starts a Redis server of its own, which needs `redis-server` on the PATH, or its path in
//! `LATCHKEY_TEST_REDIS_SERVER`; and two servers of the binary that was built beside this example.
//! `make displacement` builds both.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "made of what the tests are made of")]

#[path = "../../../../tests/suite/support/client.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod client;
#[path = "../../../../tests/suite/support/redis.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod redis;

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use clap::Parser;
use latchkey::grpc::pb::{RejectionReason, WatchSessionResponse, watch_session_response::Verdict};
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tonic::Streaming;

use client::{Client, login_request};
use redis::RedisServer;

/// How long any one thing may take; beyond it the measurement has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections to each server, as of so many services that let users log in.
const CONNECTIONS: usize = 4;

/// How long a displaced client takes to learn of it.
#[derive(Parser)]
struct Arguments {
    /// How many displacements to measure.
    #[arg(long, default_value_t = 10_000)]
    displacements: u32,
    /// Users who are displaced in turn.
    #[arg(long, default_value_t = 100)]
    users: u32,
    /// Displacements a second, over all users. What a server at its limit takes is another question.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Print JSON in place of a table.
    #[arg(long)]
    json: bool,
    /// The binary to measure. By default the one that was built beside this example.
    #[arg(long)]
    latchkey: Option<PathBuf>,
}

/// A `latchkey serve` of our own.
struct Server {
    child: Child,
    grpc: SocketAddr,
}

impl Server {
    fn start(latchkey: &Path, data: &Path, redis: &RedisServer) -> Result<Self, String> {
        let mut command = Command::new(latchkey);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LATCHKEY_"))
        {
            command.env_remove(name);
        }
        let settings = [
            ("DATA_DIR", data.to_string_lossy().as_ref()),
            ("LISTEN__GRPC", "127.0.0.1:0"),
            ("LISTEN__HTTP", "127.0.0.1:0"),
            ("SESSIONS__URL", &redis.url()),
            ("PASSWORD__ALLOW_WEAK", "true"),
            ("PASSWORD__MEMORY_KIB", "8"),
            ("PASSWORD__ITERATIONS", "1"),
            ("SESSION__KICK_WAR_CHANGES", "0"),
            ("LOG__LEVEL", "warn"),
        ]
        .map(|(name, value)| (format!("LATCHKEY_{name}"), value.to_owned()));
        command.arg("serve").envs(settings).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("{}: {error}; `make displacement` builds it", latchkey.display()))?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        // `Latchkey 0.1.0 listens on 127.0.0.1:1 (gRPC) and 127.0.0.1:2 (HTTP)`
        match line.split_whitespace().find_map(|word| word.parse().ok()) {
            Some(grpc) => Ok(Self { child, grpc }),
            None => Err(format!("{} does not serve: {line}{read:?}", latchkey.display())),
        }
    }

    async fn clients(&self, admin_key: &str) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Client::connect(self.grpc, admin_key).await);
        }
        clients[0].until_serving().await;
        clients
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One displacement, in microseconds.
struct Sample {
    /// From sending the login to its answer.
    login: i64,
    /// From sending the login to the event.
    from_sent: i64,
    /// From the answer to the event; negative where the event came first.
    from_answered: i64,
}

/// A session that is watched: when the last message came, and what it said.
type Watch = JoinHandle<Result<(Instant, WatchSessionResponse), String>>;

/// Opens a stream, and waits for its end in the background.
async fn watch(client: &Client, token: &str) -> Result<Watch, String> {
    let opened = async {
        let mut stream = client.watch_stream(token).await?;
        Ok::<_, tonic::Status>((stream.message().await?, stream))
    };
    let (first, stream) = within("opening a watch", opened).await?.map_err(|status| status.to_string())?;
    match first.and_then(|first| first.verdict) {
        Some(Verdict::Session(_)) => Ok(tokio::spawn(end(stream))),
        other => Err(format!("a watch began with {other:?}")),
    }
}

async fn end(mut stream: Streaming<WatchSessionResponse>) -> Result<(Instant, WatchSessionResponse), String> {
    let last = stream.message().await;
    let came = Instant::now();
    match last {
        Ok(Some(last)) => match stream.message().await {
            Ok(None) => Ok((came, last)),
            other => Err(format!("after the last message came {other:?}")),
        },
        other => Err(format!("in place of the last message came {other:?}")),
    }
}

async fn within<T>(what: &str, doing: impl Future<Output = T>) -> Result<T, String> {
    timeout(PATIENCE, doing).await.map_err(|_| format!("{what} took longer than {PATIENCE:?}"))
}

/// One user who logs in again and again, each time on the other server.
async fn user(
    name: String,
    clients: [Client; 2],
    displacements: u32,
    begin: Instant,
    interval: Duration,
) -> Result<Vec<Sample>, String> {
    let log_in = async |number: u32| {
        // Where the session was opened it is watched, too: the next login goes to the other server.
        let client = &clients[number as usize % 2];
        let device = format!("login {number}");
        let sent = Instant::now();
        let answer = within("a login", client.try_login(login_request(&name, &device))).await?;
        let answered = Instant::now();
        let token = answer.map_err(|status| format!("a login failed: {status}"))?.token;
        Ok::<_, String>((sent, answered, client, token))
    };
    let (.., client, token) = log_in(0).await?;
    let mut watched = watch(client, &token).await?;
    let mut samples = Vec::new();
    for number in 1..=displacements {
        sleep_until(begin + interval * number).await;
        let (sent, answered, client, token) = log_in(number).await?;
        let event = within("the event", watched).await?.map_err(|error| error.to_string())?;
        let (came, last) = event?;
        match last.verdict {
            Some(Verdict::Rejection(rejection))
                if rejection.reason() == RejectionReason::Replaced
                    && rejection.by_device == format!("login {number}") => {}
            other => return Err(format!("displaced by login {number}, a client was told {other:?}")),
        }
        samples.push(Sample {
            login: micros(sent, answered),
            from_sent: micros(sent, came),
            from_answered: micros(answered, came),
        });
        watched = watch(client, &token).await?;
    }
    Ok(samples)
}

fn micros(from: Instant, to: Instant) -> i64 {
    let between = |from, to: Instant| i64::try_from(to.duration_since(from).as_micros()).unwrap_or(i64::MAX);
    if to >= from { between(from, to) } else { -between(to, from) }
}

async fn measure(arguments: &Arguments) -> Result<(Vec<Sample>, Duration), String> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("latchkey"));
    let latchkey = arguments.latchkey.clone().or_else(beside).ok_or("cannot tell where the binary is")?;
    let data = tempfile::tempdir().map_err(|error| error.to_string())?;
    let redis = RedisServer::start();
    // One after the other: the first makes the keys.
    let servers =
        [Server::start(&latchkey, data.path(), &redis)?, Server::start(&latchkey, data.path(), &redis)?];
    let admin_key =
        std::fs::read_to_string(data.path().join("admin.key")).map_err(|error| error.to_string())?;
    let clients = [servers[0].clients(&admin_key).await, servers[1].clients(&admin_key).await];

    let each = arguments.displacements.div_ceil(arguments.users);
    for number in 0..arguments.users {
        clients[0][0].user(&format!("user{number}")).await;
    }
    // Each at its own time, so that displacements come one by one.
    let step = Duration::from_secs(1) / arguments.rate;
    let begin = Instant::now() + Duration::from_secs(1);
    let mut users = JoinSet::new();
    for number in 0..arguments.users {
        let ways = clients.each_ref().map(|clients| clients[number as usize % CONNECTIONS].clone());
        let interval = step * arguments.users;
        users.spawn(user(format!("user{number}"), ways, each, begin + step * number, interval));
    }
    let mut samples = Vec::new();
    let measuring = async {
        while let Some(done) = users.join_next().await {
            samples.extend(done.map_err(|error| error.to_string())??);
        }
        Ok::<_, String>(())
    };
    let planned = step * arguments.users * each;
    timeout(planned * 2 + Duration::from_mins(1), measuring)
        .await
        .map_err(|_| format!("not done after twice the {planned:?} that it should take"))??;
    Ok((samples, begin.elapsed()))
}

/// The percentiles of one measure, by the nearest rank.
fn percentiles(samples: &[Sample], of: fn(&Sample) -> i64) -> Value {
    let mut sorted: Vec<_> = samples.iter().map(of).collect();
    sorted.sort_unstable();
    let rank = |per_mille: usize| sorted[(sorted.len() * per_mille).div_ceil(1000).saturating_sub(1)];
    json!({
        "count": sorted.len(), "min": sorted[0],
        "p50": rank(500), "p90": rank(900), "p99": rank(990), "max": rank(1000),
    })
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if [arguments.displacements, arguments.users, arguments.rate].contains(&0) {
        eprintln!("--displacements, --users and --rate must be at least 1");
        return ExitCode::from(2);
    }
    let (samples, took) = match measure(&arguments).await {
        Ok(measured) => measured,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let measures = [
        ("login_sent_to_event", "Login sent to event", percentiles(&samples, |sample| sample.from_sent)),
        (
            "login_answered_to_event",
            "Login answered to event",
            percentiles(&samples, |sample| sample.from_answered),
        ),
        ("login_sent_to_answered", "Login sent to answered", percentiles(&samples, |sample| sample.login)),
    ];
    let early = samples.iter().filter(|sample| sample.from_answered < 0).count();
    let (count, users) = (samples.len(), arguments.users);
    let conditions = "two servers on one Redis, the login on the one, the watch on the other; all on this machine; passwords hashed with Argon2id at 8 KiB and one pass (password.allow_weak), kick wars off";
    if arguments.json {
        let mut result = json!({
            "displacements": count, "users": users, "seconds": took.as_secs_f64(), "unit": "us",
            "events_before_the_answer": early, "conditions": conditions,
        });
        for (key, _, percentiles) in measures {
            result[key] = percentiles;
        }
        println!("{result:#}");
        return ExitCode::SUCCESS;
    }
    println!("{count} displacements of {users} users in {:.1} s, every event checked", took.as_secs_f64());
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
