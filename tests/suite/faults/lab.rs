//! One or two servers under load, while something fails.

use std::{
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, LogoutScope, RejectionReason, validate_response::Verdict};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt as _;

use super::{
    record::{Answer, Call, Number, Request, check, outage},
    report::Outcome,
};
use crate::{
    process::generation,
    support::{
        client::{Client, LOGIN, login_request},
        preload::Preload,
        process::{Process, command},
    },
};

/// How long the calls of a lab may fail after a failure has ended.
const PATIENCE: Duration = Duration::from_mins(1);
/// The time limit of the clients, longer than any of the server.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The `max_staleness` of the cached reads.
const STALENESS: Duration = Duration::from_secs(1);
/// The calls in a row that have to succeed before a lab counts as recovered.
const STREAK: usize = 4;
/// How long the load goes on before the failure and after the recovery.
const STEADY: Duration = Duration::from_millis(700);
/// Old tokens that are still validated.
const TOKENS: usize = 4;

/// How a lab is set up.
#[derive(Clone, Copy)]
pub(super) struct Options<'a> {
    pub(super) url: &'a str,
    /// The store of the last server, if it has another.
    pub(super) last_url: Option<&'a str>,
    pub(super) settings: &'a [(&'a str, &'a str)],
    pub(super) processes: usize,
    pub(super) users: usize,
    /// Controls the clock and the disk of the servers.
    pub(super) preload: Option<&'a Preload>,
    /// Reasons of rejections that the failure explains.
    pub(super) tolerated: &'static [RejectionReason],
}

impl<'a> Options<'a> {
    /// Two servers on this store.
    pub(super) fn on(url: &'a str) -> Self {
        Self { url, last_url: None, settings: &[], processes: 2, users: 8, preload: None, tolerated: &[] }
    }
}

/// Servers, and clients that log in and out and validate until the lab is finished.
pub(super) struct Lab {
    pub(super) processes: Vec<Process>,
    load: Arc<Load>,
    working: JoinSet<()>,
    tolerated: &'static [RejectionReason],
    /// When the failure began and when another primary was elected, since the start of the load.
    failed_at: Duration,
    elected_at: Option<Duration>,
    recovered: bool,
    /// The last, because the servers use it.
    data: TempDir,
}

struct Load {
    clients: RwLock<Vec<Client>>,
    users: Vec<User>,
    start: Instant,
    is_over: AtomicBool,
}

struct User {
    name: String,
    /// The latest tokens, the newest last.
    tokens: Mutex<Vec<(Number, String)>>,
    writes: Lane,
    reads: Lane,
    cached_reads: Lane,
}

/// Calls that are made one after the other.
#[derive(Default)]
struct Lane {
    calls: Mutex<Vec<Call>>,
    /// The number of calls since the last that failed.
    streak: AtomicUsize,
}

impl Lane {
    fn push(&self, call: Call) -> bool {
        let has_failed = call.has_failed();
        if has_failed {
            self.streak.store(0, Ordering::Relaxed);
        } else {
            self.streak.fetch_add(1, Ordering::Relaxed);
        }
        self.calls.lock().unwrap().push(call);
        has_failed
    }
}

impl User {
    fn lanes(&self) -> [&Lane; 3] {
        [&self.writes, &self.reads, &self.cached_reads]
    }

    /// Chooses the newest token or an older one.
    fn token(&self) -> Option<(Number, String)> {
        let tokens = self.tokens.lock().unwrap();
        let back = if rand::random() { 0 } else { rand::random_range(0..tokens.len().max(1)) };
        tokens.iter().nth_back(back).cloned()
    }
}

impl Lab {
    /// Starts servers and load, and waits until everything works.
    pub(super) async fn start(options: Options<'_>) -> Self {
        let count = options.processes;
        Self::start_with_preloads(options, count).await
    }

    /// Starts several servers, of which only the first has its clock and disk controlled.
    pub(super) async fn start_with_one_preloaded(options: Options<'_>) -> Self {
        Self::start_with_preloads(options, 1).await
    }

    async fn start_with_preloads(options: Options<'_>, preloaded: usize) -> Self {
        let data = tempfile::tempdir().unwrap();
        let start = |number| {
            let last_url = options.last_url.filter(|_| number + 1 == options.processes);
            let options = Options { url: last_url.unwrap_or(options.url), ..options };
            start_process(&data, &options, number < preloaded)
        };
        let processes: Vec<_> = (0..options.processes).map(start).collect();
        let mut clients = Vec::new();
        for process in &processes {
            let client = process.client().await;
            for service in ["", LOGIN] {
                client.until_service(service, ServingStatus::Serving, PATIENCE).await;
            }
            clients.push(client);
        }
        let mut users = Vec::new();
        for number in 0..options.users {
            let name = format!("user{number}");
            clients[0].user(&name).await;
            users.push(User {
                name,
                tokens: Mutex::default(),
                writes: Lane::default(),
                reads: Lane::default(),
                cached_reads: Lane::default(),
            });
        }
        let load = Arc::new(Load {
            clients: RwLock::new(clients),
            users,
            start: Instant::now(),
            is_over: AtomicBool::new(false),
        });
        let mut working = JoinSet::new();
        for number in 0..options.users {
            working.spawn(Arc::clone(&load).write(number));
            working.spawn(Arc::clone(&load).read(number, Duration::ZERO));
            working.spawn(Arc::clone(&load).read(number, STALENESS));
        }
        let mut lab = Self {
            processes,
            load,
            working,
            tolerated: options.tolerated,
            failed_at: Duration::ZERO,
            elected_at: None,
            recovered: true,
            data,
        };
        lab.until_recovered().await;
        assert!(lab.recovered, "the servers do not work before anything fails");
        lab.go_on(STEADY).await;
        lab
    }

    /// The failure begins now.
    pub(super) fn fail(&mut self) {
        self.failed_at = self.load.start.elapsed();
    }

    /// Another primary was elected.
    pub(super) fn elected(&mut self, at: Instant) {
        self.elected_at = Some(at.saturating_duration_since(self.load.start));
    }

    /// Lets the load go on for this long.
    pub(super) async fn go_on(&self, time: Duration) {
        assert!(!self.load.is_over(), "the load has ended");
        tokio::time::sleep(time).await;
    }

    /// Waits until all calls of all users succeed again.
    pub(super) async fn until_recovered(&mut self) {
        let lanes = || self.load.users.iter().flat_map(User::lanes);
        for lane in lanes() {
            lane.streak.store(0, Ordering::Relaxed);
        }
        let begun = Instant::now();
        while lanes().any(|lane| lane.streak.load(Ordering::Relaxed) < STREAK) {
            if begun.elapsed() > PATIENCE {
                self.recovered = false;
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Replaces a server by another on the same data.
    pub(super) async fn restart(&mut self, number: usize, options: &Options<'_>) {
        self.processes[number].kill();
        let process = start_process(&self.data, options, true);
        let client = process.client().await;
        self.processes[number] = process;
        self.load.clients.write().unwrap()[number] = client;
    }

    /// Ends the load and says what happened.
    pub(super) async fn finish(mut self) -> Outcome {
        self.until_recovered().await;
        self.go_on(STEADY).await;
        for process in &self.processes {
            let client = process.client().await;
            let begun = Instant::now();
            while self.recovered && client.serving("").await != ServingStatus::Serving {
                self.recovered = begun.elapsed() < PATIENCE;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.load.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.working.join_next().await {
            ended.unwrap();
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome { recovered: self.recovered, ..Outcome::default() };
        let mut slowest_user = Duration::ZERO;
        for user in &self.load.users {
            let [writes, reads, cached_reads] = user.lanes().map(|lane| lane.calls.lock().unwrap());
            let findings = check(&writes, &[&reads, &cached_reads], self.tolerated);
            outcome.wrong.extend(findings.wrong.into_iter().map(|wrong| format!("{}: {wrong}", user.name)));
            outcome.lost_logins += findings.lost_logins.len();
            outcome.lost_logouts += findings.lost_logouts.len();
            for call in writes.iter().chain(reads.iter()).chain(cached_reads.iter()) {
                outcome.count(call, self.failed_at, self.tolerated);
            }
            for (lane, longest) in [
                (&writes, &mut outcome.writes),
                (&reads, &mut outcome.reads),
                (&cached_reads, &mut outcome.cached_reads),
            ] {
                *longest = (*longest).max(outage(lane, self.failed_at));
            }
            if let Some(elected_at) = self.elected_at {
                let logins =
                    writes.iter().filter(|call| call.request == Request::Login && !call.has_failed());
                let next = logins.map(|call| call.ended).find(|ended| *ended > elected_at);
                slowest_user =
                    slowest_user.max(next.map_or(PATIENCE, |ended| ended.saturating_sub(elected_at)));
            }
        }
        outcome.election = self.elected_at.map(|at| at.saturating_sub(self.failed_at));
        outcome.after_election = self.elected_at.map(|_| slowest_user);
        outcome
    }
}

fn start_process(data: &TempDir, options: &Options<'_>, is_preloaded: bool) -> Process {
    let mut serve = command(data.path(), options.settings);
    serve.env("LATCHKEY_SESSIONS__URL", options.url).env("LATCHKEY_LOG__LEVEL", "warn").arg("serve");
    if let (true, Some(preload)) = (is_preloaded, options.preload) {
        serve.envs(preload.environment());
    }
    Process::launch(serve, data.path())
}

impl Load {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn client(&self) -> Client {
        let clients = self.clients.read().unwrap();
        clients[rand::random_range(0..clients.len())].clone()
    }

    /// Makes a call and records it. Returns whether it has failed.
    async fn record(
        &self,
        lane: &Lane,
        login: Number,
        request: Request,
        call: impl Future<Output = Result<Answer, Status>>,
    ) -> bool {
        let begun = self.start.elapsed();
        let answer = match timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => Answer::Failed(name(&status)),
            Err(_) => Answer::Failed("no answer".to_owned()),
        };
        lane.push(Call { login, request, begun, ended: self.start.elapsed(), answer })
    }

    /// Logs a user in and out.
    async fn write(self: Arc<Self>, number: usize) {
        let user = &self.users[number];
        let (mut login, mut has_failed) = (0, false);
        while !self.is_over() {
            let pause = if has_failed { 15..30 } else { 60..120 };
            tokio::time::sleep(Duration::from_millis(rand::random_range(pause))).await;
            let newest = user.tokens.lock().unwrap().last().cloned();
            let client = self.client();
            if let Some((of, token)) = newest
                && !has_failed
                && rand::random_range(0..4) == 0
            {
                let message = pb::LogoutRequest { token, scope: LogoutScope::This.into() };
                let call = async {
                    let answer = client.auth.clone().logout(message).await?.into_inner();
                    Ok(match answer.rejection {
                        None => Answer::Live,
                        Some(rejection) => Answer::Rejected(rejection.reason()),
                    })
                };
                has_failed = self.record(&user.writes, of, Request::Logout, call).await;
                continue;
            }
            let mut opened = None;
            let call = async {
                let answer = client.try_login(login_request(&user.name, &login.to_string())).await?;
                let generation = generation(&answer.token);
                opened = Some(answer.token);
                Ok(Answer::Opened { generation })
            };
            has_failed = self.record(&user.writes, login, Request::Login, call).await;
            if let Some(token) = opened {
                let mut tokens = user.tokens.lock().unwrap();
                tokens.push((login, token));
                let surplus = tokens.len().saturating_sub(TOKENS);
                tokens.drain(..surplus);
            }
            login += 1;
        }
    }

    /// Validates the tokens of a user.
    async fn read(self: Arc<Self>, number: usize, staleness: Duration) {
        let user = &self.users[number];
        let lane = if staleness.is_zero() { &user.reads } else { &user.cached_reads };
        let max_staleness = Some(staleness.try_into().unwrap());
        while !self.is_over() {
            tokio::time::sleep(Duration::from_millis(rand::random_range(25..60))).await;
            let Some((login, token)) = user.token() else { continue };
            let client = self.client();
            let message = pb::ValidateRequest { token, max_staleness, ..Default::default() };
            let call = async {
                let answer = client.auth.clone().validate(message).await?.into_inner();
                Ok(match answer.verdict.unwrap() {
                    Verdict::Session(_) => Answer::Live,
                    Verdict::Rejection(rejection) => Answer::Rejected(rejection.reason()),
                })
            };
            self.record(lane, login, Request::Validate { staleness }, call).await;
        }
    }
}

/// Names a status as callers know it, with the reason if it is not the usual one.
fn name(status: &Status) -> String {
    let code = match status.code() {
        Code::Unavailable => "UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Cancelled => "CANCELLED",
        Code::Internal => "INTERNAL",
        Code::Unknown => "UNKNOWN",
        other => return format!("{other:?}"),
    };
    match status.get_details_error_info() {
        Some(info) if info.reason == "STORE_UNAVAILABLE" => code.to_owned(),
        Some(info) => format!("{code} ({})", info.reason),
        None => format!("{code} (no connection)"),
    }
}
