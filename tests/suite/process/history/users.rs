//! Users whose clients make random calls, and the histories of these calls.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, LogoutScope, RejectionReason, validate_response::Verdict};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::checker::{Answer, Ask, Call, Number, SessionState};
use crate::{
    process::{claims, generation},
    support::client::{Client, login_request},
};

/// The number of clients of each user.
pub const CLIENTS: usize = 3;
/// The most calls of each client. The checker takes 128 calls of a user.
const CALLS: usize = 38;
/// Logins of one user: so many ended sessions are remembered one by one, each with its reason.
const LOGINS: u8 = 16;
/// Calls of one user whose effect is not known, about: each doubles what the checker has to think of.
const UNKNOWN: usize = 8;
/// How many of the latest tokens are validated at the end.
const LAST_TOKENS: usize = 6;

/// The connections to the servers.
pub struct Ways {
    /// Direct connections to both servers.
    pub straight: Vec<Client>,
    /// Connections to both servers that are disturbed, if there are any.
    pub troubled: Vec<Client>,
}

/// What all clients of a run have in common.
pub struct Run {
    pub ways: Ways,
    pub seed: u64,
    pub start: Instant,
    /// The longest pause of a client between two calls, in milliseconds.
    pub pause: u64,
    pub over: AtomicBool,
    pub errors: Errors,
}

/// The errors of calls that took no disturbed way: their number, the longest time and a message by code.
#[derive(Default)]
pub struct Errors(pub Mutex<BTreeMap<String, (usize, Duration, String)>>);

impl Errors {
    fn insert(&self, status: &Status, took: Duration) {
        let mut errors = self.0.lock().unwrap();
        let (count, longest, message) = errors.entry(format!("{:?}", status.code())).or_default();
        *count += 1;
        if took > *longest {
            (*longest, *message) = (took, status.message().to_owned());
        }
    }

    /// Whether there were others than `UNAVAILABLE`.
    pub fn other_than_unavailable(&self) -> bool {
        self.0.lock().unwrap().keys().any(|code| *code != format!("{:?}", Code::Unavailable))
    }
}

/// One user and the history of its clients.
pub struct User {
    pub name: String,
    id: String,
    pub calls: Mutex<Vec<Call>>,
    /// All tokens of the user, the newest last.
    tokens: Mutex<Vec<(Number, String)>>,
    logins: AtomicU8,
    unknown: AtomicUsize,
}

impl User {
    pub async fn new(name: String, client: &Client) -> Self {
        Self {
            id: client.user(&name).await,
            name,
            calls: Mutex::default(),
            tokens: Mutex::default(),
            logins: AtomicU8::new(0),
            unknown: AtomicUsize::new(0),
        }
    }

    /// Chooses the newest token or any other.
    fn token(&self, random: &mut StdRng) -> Option<(Number, String)> {
        let tokens = self.tokens.lock().unwrap();
        let back = if random.random() { 0 } else { random.random_range(0..tokens.len().max(1)) };
        tokens.iter().nth_back(back).cloned()
    }

    /// Makes random calls on both servers as one of the clients of the user. The seed decides which.
    pub async fn work(self: Arc<Self>, run: Arc<Run>, user: u64, client: u64) {
        let mut random = StdRng::seed_from_u64(run.seed ^ (user << 8) ^ client);
        let mut has_failed = false;
        for _ in 0..CALLS {
            if run.over.load(Ordering::Relaxed) {
                break;
            }
            sleep(Duration::from_millis(random.random_range(0..=run.pause))).await;
            let careful = self.unknown.load(Ordering::Relaxed) >= UNKNOWN;
            let token = self.token(&mut random);
            // After a failure most calls only ask whether it is over.
            let asks_only = has_failed && (careful || random.random_range(0..4) > 0);
            let (ask, token) = match (random.random_range(0..20), token) {
                (_, Some((number, token))) if asks_only => (Ask::Validate(number), token),
                // Without a token only a login asks, whose effect is not known if it fails.
                (_, None) if asks_only => {
                    sleep(Duration::from_millis(random.random_range(20..200))).await;
                    has_failed = false;
                    continue;
                }
                (0..5, token) | (_, token @ None) => {
                    let number = self.logins.fetch_add(1, Ordering::Relaxed);
                    match token {
                        _ if number < LOGINS => (Ask::Login(number), String::new()),
                        Some((number, token)) => (Ask::Validate(number), token),
                        None => continue,
                    }
                }
                (5..15, Some((number, token))) => (Ask::Validate(number), token),
                (15..18, Some((number, token))) => (Ask::Logout(number), token),
                _ => (Ask::EndSessions, String::new()),
            };
            let troubled = !careful && !run.ways.troubled.is_empty() && random.random_range(0..4) == 0;
            let clients = if troubled { &run.ways.troubled } else { &run.ways.straight };
            let client = &clients[random.random_range(0..clients.len())];
            let patience = if !careful && random.random_range(0..12) == 0 {
                Duration::from_millis(random.random_range(0..60))
            } else {
                Duration::from_mins(1)
            };
            has_failed = !self.record(&run, client, ask, &token, patience, troubled).await;
            if has_failed {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                // The next call waits until the failure may be over.
                sleep(Duration::from_millis(random.random_range(20..200))).await;
            }
        }
    }

    /// Validates the latest tokens on both servers.
    pub async fn finish(&self, run: &Run) {
        let tokens: Vec<_> = self.tokens.lock().unwrap().iter().rev().take(LAST_TOKENS).cloned().collect();
        for (index, (number, token)) in tokens.iter().enumerate() {
            let client = &run.ways.straight[index % run.ways.straight.len()];
            self.record(run, client, Ask::Validate(*number), token, Duration::from_mins(1), false).await;
        }
    }

    /// Makes a call and records it. Returns whether there was an answer.
    async fn record(
        &self,
        run: &Run,
        client: &Client,
        ask: Ask,
        token: &str,
        patience: Duration,
        troubled: bool,
    ) -> bool {
        let begun = run.start.elapsed();
        let told = timeout(patience, self.call(client, ask, token)).await;
        let answered = run.start.elapsed();
        let answer = match told {
            Ok(Ok(answer)) => Some((nanos(answered), answer)),
            // Even an error does not prove that the call had no effect.
            Ok(Err(status)) => {
                if !troubled {
                    run.errors.insert(&status, answered.saturating_sub(begun));
                }
                None
            }
            Err(_) => None,
        };
        if answer.is_some() || !matches!(ask, Ask::Validate(_)) {
            self.calls.lock().unwrap().push(Call { ask, begun: nanos(begun), answer });
        }
        answer.is_some()
    }

    async fn call(&self, client: &Client, ask: Ask, token: &str) -> Result<Answer, Status> {
        Ok(match ask {
            Ask::Login(number) => {
                let answer = client.try_login(login_request(&self.name, &number.to_string())).await?;
                let opened = Answer::Opened {
                    generation: generation(&answer.token),
                    displaced: displaced(&answer.displaced),
                };
                self.tokens.lock().unwrap().push((number, answer.token));
                opened
            }
            Ask::Validate(_) => Answer::Stood(match client.try_validate(token).await? {
                Verdict::Session(session) if claims(token)["jti"] == session.session_id => SessionState::Live,
                Verdict::Session(_) => SessionState::Other,
                Verdict::Rejection(rejection) => fate(&rejection),
            }),
            Ask::Logout(_) => {
                let message = pb::LogoutRequest { token: token.into(), scope: LogoutScope::This.into() };
                let answer = client.auth.clone().logout(message).await?.into_inner();
                Answer::Stood(match (answer.ended, &answer.rejection) {
                    (1, None) => SessionState::Live,
                    (0, Some(rejection)) => fate(rejection),
                    _ => SessionState::Other,
                })
            }
            Ask::EndSessions => {
                let message = pb::EndSessionsRequest { user_id: self.id.clone(), ..Default::default() };
                Answer::Ended(client.try_end(message).await?)
            }
        })
    }
}

/// The name of the device identifies a login.
fn displaced(sessions: &[pb::DisplacedSession]) -> Option<Number> {
    match sessions {
        [] => None,
        [session] => session.device.parse().ok(),
        _ => Some(Number::MAX),
    }
}

fn fate(rejection: &pb::Rejection) -> SessionState {
    match rejection.reason() {
        RejectionReason::Replaced => {
            rejection.by_device.parse().map_or(SessionState::Other, |by| SessionState::Replaced { by })
        }
        RejectionReason::LoggedOut => SessionState::LoggedOut,
        RejectionReason::Kicked => SessionState::Kicked,
        _ => SessionState::Other,
    }
}

fn nanos(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap()
}
