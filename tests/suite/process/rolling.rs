//! Rolling restarts: two servers on one Redis are restarted in turn under load. Clients that repeat what is safe to
//! repeat see no failed call. Other clients see only failures of calls that found no server.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use h2::client;
use http::{Request, StatusCode};
use latchkey_client::{
    Client as Validator, Guard, Login, Scope, ValidateOptions,
    proto::{ValidateRequest, validate_response},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};
use tonic::{ConnectError, Status};
use tower::ServiceExt as _;

use super::{
    raw::{END_HEADERS, Frame, GOAWAY, HEADERS, PING, SETTINGS, Socket, frame, request},
    serve,
};
use crate::support::{
    client::PASSWORD, process::Process, redis::RedisServer, replicas::all_settings, running::Running,
};

/// The number of times that each server is restarted.
const ROUNDS: usize = 2;
/// The number of concurrent Validate calls.
const WORKERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(4);
/// The pause of the task that logs in and out.
const LOGIN_PAUSE: Duration = Duration::from_millis(50);
/// The number of sessions that are validated.
const SESSIONS: usize = 8;
/// A busy machine must not look like a failed restart.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Two servers that share Redis, accounts and keys and keep their addresses.
struct Pair {
    redis: RedisServer,
    data: TempDir,
    /// The gRPC and HTTP addresses of each.
    addresses: [[SocketAddr; 2]; 2],
    settings: &'static [(&'static str, &'static str)],
    processes: [Option<Process>; 2],
}

impl Pair {
    async fn start(settings: &'static [(&'static str, &'static str)]) -> Self {
        let addresses = [[free_address(), free_address()], [free_address(), free_address()]];
        let data = tempfile::tempdir().unwrap();
        let mut pair =
            Self { redis: RedisServer::start(), data, addresses, settings, processes: [None, None] };
        for replica in 0..2 {
            pair.launch(replica).await;
        }
        pair
    }

    /// Starts a server and waits until it serves.
    async fn launch(&mut self, replica: usize) {
        let (url, [grpc, http]) = (self.redis.url(), self.addresses[replica].map(|it| it.to_string()));
        let listen = [("LISTEN__GRPC", &*grpc), ("LISTEN__HTTP", &*http)];
        let settings = all_settings(&url, &[&listen, self.settings].concat());
        let process = Process::start(self.data.path(), &settings);
        // Over HTTP, because connections of the gRPC port are those of the clients under test.
        let begun = Instant::now();
        while process.get("/readyz?service=latchkey.v1.AuthService/Login").await.0 != 200 {
            assert!(begun.elapsed() < TIMEOUT, "{}", process.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.processes[replica] = Some(process);
    }

    /// Restarts each server in turn, each as soon as the other one has calls again. Returns how long they drained.
    async fn roll(&mut self, rounds: usize) -> Vec<Duration> {
        let mut drains = Vec::new();
        for replica in (0..2).cycle().take(2 * rounds) {
            self.until_called(replica).await;
            let process = self.processes[replica].take().unwrap();
            let begun = Instant::now();
            process.terminate();
            let wait = move || (process.wait(Duration::from_secs(15)), begun.elapsed());
            let ((code, output), took) = tokio::task::spawn_blocking(wait).await.unwrap();
            assert_eq!(code, Some(0), "{output}");
            assert!(output.contains("stopped") && !output.contains("did not finish"), "{output}");
            drains.push(took);
            self.launch(replica).await;
        }
        self.until_called(0).await;
        self.until_called(1).await;
        drains
    }

    /// Waits until a server that may have been restarted has had a connection for a while, so that its clients call it.
    async fn until_called(&self, replica: usize) {
        const POLLS: u32 = 10;
        let begun = Instant::now();
        let mut polls = 0;
        while polls < POLLS {
            polls = if clients_of(self.addresses[replica][0]).is_empty() { 0 } else { polls + 1 };
            assert!(begun.elapsed() < TIMEOUT * 2, "nobody calls replica {replica}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn targets(&self) -> String {
        let [[first, _], [second, _]] = self.addresses;
        format!("{first},{second}")
    }

    /// Opens sessions of different users and returns their tokens. Creates another user, `guest`, without a session.
    async fn tokens(&self) -> Vec<String> {
        let client = self.processes[0].as_ref().unwrap().client().await;
        let mut tokens = Vec::new();
        for number in 0..SESSIONS {
            let name = format!("user{number}");
            client.user(&name).await;
            tokens.push(client.login(&name, "").await.token);
        }
        client.user("guest").await;
        drop(client);
        while !clients_of(self.addresses[0][0]).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokens
    }
}

/// Returns an address whose port no other program takes while its server restarts: one below the ports that systems
/// choose themselves.
fn free_address() -> SocketAddr {
    let candidates =
        std::iter::repeat_with(|| SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_000..30_000))));
    candidates.take(1000).find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

/// Returns the remote ends of the open connections of a server.
fn clients_of(address: SocketAddr) -> Vec<String> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{:04X}", address.port());
    let remote = |socket: &str| {
        let mut columns = socket.split_whitespace().skip(1);
        let (address, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
        (address == local && state == "01").then(|| remote.to_owned())
    };
    sockets.lines().filter_map(remote).collect()
}

/// How a client validates.
enum Way {
    Repeating,
    /// Each call is sent once, through the generated client.
    Once,
    /// By a guard, over a stream.
    Guarded(Router),
}

/// The calls of a client and those that failed.
struct Load {
    way: Way,
    stopped: AtomicBool,
    validations: AtomicU64,
    logins: AtomicU64,
    slowest_ms: AtomicU64,
    /// The number of failures by their description.
    failures: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Starts the calls of a Rust client.
    async fn start(pair: &Pair, way: fn(&Validator) -> Way) -> (Arc<Self>, JoinSet<()>) {
        let tokens: Arc<[String]> = pair.tokens().await.into();
        let mut client = Validator::connect(&pair.targets()).unwrap().with_timeout(TIMEOUT);
        let way = way(&client);
        if matches!(way, Way::Once) {
            client = client.without_retries();
        }
        let load = Arc::new(Self {
            way,
            stopped: AtomicBool::new(false),
            validations: AtomicU64::new(0),
            logins: AtomicU64::new(0),
            slowest_ms: AtomicU64::new(0),
            failures: Mutex::default(),
            wrong: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for first in 0..WORKERS {
            tasks.spawn(Arc::clone(&load).validate_often(client.clone(), Arc::clone(&tokens), first));
        }
        tasks.spawn(Arc::clone(&load).log_in_and_out(client));
        (load, tasks)
    }

    /// Ends the calls. No verdict may have been wrong.
    async fn end(&self, tasks: JoinSet<()>, drains: &[Duration]) {
        self.stopped.store(true, Relaxed);
        tasks.join_all().await;
        report(
            match self.way {
                Way::Repeating => "Rust, with retries",
                Way::Once => "Rust, without retries",
                Way::Guarded(_) => "Rust, guard",
            },
            drains,
            &format!(
                "{} Validate (slowest {} ms), {} logins, failures {:?}",
                self.validations.load(Relaxed),
                self.slowest_ms.load(Relaxed),
                self.logins.load(Relaxed),
                self.failures.lock().unwrap()
            ),
        );
        assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
    }

    fn goes_on(&self) -> bool {
        !self.stopped.load(Relaxed)
    }

    fn failed(&self, method: &str, error: &str) {
        *self.failures.lock().unwrap().entry(format!("{method}: {error}")).or_default() += 1;
    }

    /// Validates a token. Returns whether it is live, or `None` if that failed.
    async fn validate(&self, client: &Validator, token: &str) -> Option<bool> {
        let begun = Instant::now();
        let result = match &self.way {
            Way::Repeating => {
                let verdict = client.validate(token, ValidateOptions::default()).await;
                verdict.map(|verdict| verdict.is_live()).map_err(|error| error.to_string())
            }
            Way::Once => {
                let message = ValidateRequest { token: token.into(), ..Default::default() };
                let answer = client.auth().validate(message).await;
                let is_live = |verdict| matches!(verdict, Some(validate_response::Verdict::Session(_)));
                answer.map(|answer| is_live(answer.into_inner().verdict)).map_err(|status| describe(&status))
            }
            Way::Guarded(app) => {
                let request = Request::get("/").header("authorization", format!("Bearer {token}"));
                let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
                match response.status() {
                    StatusCode::OK => Ok(true),
                    StatusCode::UNAUTHORIZED => Ok(false),
                    status => Err(status.to_string()),
                }
            }
        };
        self.slowest_ms.fetch_max(begun.elapsed().as_millis().try_into().unwrap(), Relaxed);
        self.validations.fetch_add(1, Relaxed);
        result.map_err(|error| self.failed("Validate", &error)).ok()
    }

    async fn validate_often(self: Arc<Self>, client: Validator, tokens: Arc<[String]>, first: usize) {
        let mut number = first;
        while self.goes_on() {
            let token = &tokens[number % tokens.len()];
            if self.validate(&client, token).await == Some(false) {
                self.wrong
                    .lock()
                    .unwrap()
                    .push(format!("the token of user{} is dead", number % tokens.len()));
            }
            number += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Logs in and out, and validates the token after both.
    async fn log_in_and_out(self: Arc<Self>, client: Validator) {
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            tokio::time::sleep(LOGIN_PAUSE).await;
            let login =
                Login { idempotency_key: format!("login-{number}"), ..Login::new("guest", PASSWORD, "") };
            self.logins.fetch_add(1, Relaxed);
            let token = match client.login(login).await {
                Ok(opened) => opened.token,
                Err(status) => {
                    self.failed("Login", &describe(&status));
                    continue;
                }
            };
            if self.validate(&client, &token).await == Some(false) {
                self.wrong.lock().unwrap().push(format!("the session of login {number} is dead"));
            }
            match client.logout(&token, Scope::This).await {
                Ok(_) if self.validate(&client, &token).await == Some(true) => {
                    self.wrong
                        .lock()
                        .unwrap()
                        .push(format!("the session of login {number} outlived its logout"));
                }
                Ok(_) => {}
                Err(status) => self.failed("Logout", &describe(&status)),
            }
        }
    }
}

const NO_SERVER: &str = "no server listens";
const CLOSING: &str = "not sent, because the connection is closing";

/// Describes why a call failed. tonic has the same codes for calls that were not sent as for broken connections.
fn describe(status: &Status) -> String {
    let mut source = status.source();
    while let Some(error) = source {
        let unsent = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        let refused =
            error.downcast_ref::<h2::Error>().is_some_and(|error| error.is_go_away() && error.is_remote());
        if error.is::<ConnectError>() {
            return NO_SERVER.into();
        }
        if unsent || refused {
            return CLOSING.into();
        }
        source = error.source();
    }
    format!("{status:?}")
}

/// Restarts the servers while a Rust client calls them, and returns what the client saw.
async fn roll_under_load(way: fn(&Validator) -> Way) -> Arc<Load> {
    let mut pair = Pair::start(&[]).await;
    let (load, tasks) = Load::start(&pair, way).await;
    let drains = pair.roll(ROUNDS).await;
    load.end(tasks, &drains).await;
    load
}

/// Shows figures that the tests do not check, with `--nocapture`.
#[expect(clippy::print_stderr, reason = "it is for the person who runs the test")]
fn report(client: &str, drains: &[Duration], text: &str) {
    eprintln!("rolling: {client}: {} restarts, drains {drains:.2?}: {text}", drains.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_all_replicas_in_turn_fail_no_call_of_a_client_that_repeats() {
    let load = roll_under_load(|_| Way::Repeating).await;
    assert_eq!(*load.failures.lock().unwrap(), BTreeMap::new());
    assert!(load.validations.load(Relaxed) > 500 && load.logins.load(Relaxed) > 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_all_replicas_in_turn_fail_no_request_behind_a_guard() {
    let guarded = |client: &Validator| {
        Way::Guarded(Router::new().fallback(async || "welcome").layer(Guard::new(client.clone())))
    };
    let load = roll_under_load(guarded).await;
    assert_eq!(*load.failures.lock().unwrap(), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_retries_only_calls_fail_that_were_not_sent() {
    let load = roll_under_load(|_| Way::Once).await;
    let failures = load.failures.lock().unwrap();
    let is_unsent = |failure: &&String| failure.ends_with(NO_SERVER) || failure.ends_with(CLOSING);
    assert!(failures.keys().all(|failure| is_unsent(&failure)), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_reach_their_maximum_age_fail_no_call_of_a_client_that_repeats() {
    let pair = Pair::start(&[("SERVER__CONNECTION_AGE", "100ms")]).await;
    let (load, tasks) = Load::start(&pair, |_| Way::Repeating).await;
    // The client has one connection to each server at a time, each from another port.
    let mut seen = BTreeSet::new();
    let begun = Instant::now();
    while seen.len() < 20 {
        assert!(begun.elapsed() < TIMEOUT * 2, "only {} connections", seen.len());
        seen.extend(pair.addresses.iter().flat_map(|[grpc, _]| clients_of(*grpc)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    load.end(tasks, &[]).await;
    assert_eq!(*load.failures.lock().unwrap(), BTreeMap::new());
}

/// `make test-clients` names a program in `LATCHKEY_TEST_ROLLING`, with a mode in which no call may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-clients builds the clients that this runs"]
async fn restarts_of_all_replicas_in_turn_fail_no_call_of_another_client() {
    #[expect(clippy::disallowed_methods, reason = "a setting of the test, not of Latchkey")]
    let program = std::env::var("LATCHKEY_TEST_ROLLING").unwrap();
    let mut pair = Pair::start(&[]).await;
    let tokens = pair.tokens().await.join("\n");
    let mut words = program.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg(pair.targets());
    let mut client = Running::start(command, &tokens);
    assert_eq!(client.line(), "ready");
    let drains = pair.roll(ROUNDS + 1).await;
    client.interrupt();
    let result: Value = serde_json::from_str(&client.line()).unwrap();
    report(&program, &drains, &result.to_string());
    assert!(result["validates"].as_u64().unwrap() > 500, "{result}");
    assert_eq!(result["failures"], serde_json::json!({}));
}

/// Sends a Validate call over a new connection at once, as some clients do, and returns its status.
async fn validate_over(socket: TcpStream) -> Result<Status, h2::Error> {
    let (requests, connection) = client::handshake(socket).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post("http://latchkey/latchkey.v1.AuthService/Validate")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut message) = requests.ready().await?.send_request(request, false)?;
    message.send_data(Bytes::from_static(&[0, 0, 0, 0, 3, 10, 1, b'x']), true)?;
    let mut body = response.await?.into_body();
    while let Some(data) = body.data().await {
        data?;
    }
    let trailers = body.trailers().await?.unwrap();
    connection.abort();
    Ok(Status::from_header_map(&trailers).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_over_connections_that_are_being_established_are_answered_when_the_server_stops() {
    const CONNECTIONS: usize = 64;
    let (process, _client, _data) = serve(&[]).await;
    // Its connection is accepted, but it has sent nothing yet.
    let late = TcpStream::connect(process.grpc).await.unwrap();
    process.get("/livez").await;

    // While the process is stopped, the system completes the connections of these clients, which then send their calls.
    process.signal("STOP");
    let mut calls = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let socket = TcpStream::connect(process.grpc).await.unwrap();
        calls.spawn(validate_over(socket));
    }
    process.terminate();
    process.signal("CONT");
    let begun = Instant::now();
    while TcpStream::connect(process.grpc).await.is_ok() {
        assert!(begun.elapsed() < TIMEOUT, "the port is still open");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    calls.spawn(validate_over(late));
    for status in calls.join_all().await {
        let status = status.expect("the server answers");
        assert_eq!(status.code(), tonic::Code::Ok, "{status:?}");
    }
    let (code, output) = tokio::task::spawn_blocking(move || process.wait(TIMEOUT)).await.unwrap();
    assert_eq!(code, Some(0), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_a_call_with_its_acknowledgement_gets_the_last_goaway_and_no_reset() {
    let (process, _client, _data) = serve(&[]).await;
    let mut socket = Socket::connect(process.grpc).await;
    socket.first(&[SETTINGS]).await;
    process.terminate();
    let last_stream = |goaway: &Frame| u32::from_be_bytes(goaway.payload[..4].try_into().unwrap());
    let goaway = socket.first(&[GOAWAY]).await;
    assert_eq!((last_stream(&goaway), goaway.code()), (u32::MAX >> 1, 0));
    let ping = socket.first(&[PING]).await;
    let call = frame(HEADERS, END_HEADERS, 1, &request(&[]));
    socket.send(&[frame(PING, 1, 0, &ping.payload), call].concat()).await;
    let goaway = socket.first(&[GOAWAY]).await;
    assert_eq!((last_stream(&goaway), goaway.code()), (0, 0), "the call may be repeated");
    assert!(socket.next().await.is_none());

    // The client is still busy sending. A reset would answer the first frame and fail the second.
    for _ in 0..2 {
        let call = frame(HEADERS, END_HEADERS, 3, &request(&[]));
        socket.0.write_all(&call).await.expect("the connection is not reset");
    }
    drop(socket);
    let (code, output) = tokio::task::spawn_blocking(move || process.wait(TIMEOUT)).await.unwrap();
    assert_eq!(code, Some(0), "{output}");
}
