//! Promises P1 and P2 together: the answers of two servers are linearizable, even with lost answers and broken
//! connections.

mod checker;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, LogoutScope, RejectionReason, validate_response::Verdict};
use tokio::{task::JoinSet, time::timeout};
use tonic::Status;

use self::checker::{Answer, Ask, Call, Number, SessionState, check};
use super::{claims, generation};
use crate::support::{
    client::{Client, login_request},
    proxy::{Proxy, ProxyMode},
    redis::RedisServer,
    replicas::Replicas,
};

/// The number of concurrent users, and of rounds with new ones.
const USERS: usize = 40;
const ROUNDS: usize = 6;
/// The number of clients of each user.
const CLIENTS: usize = 3;
/// The number of calls of each client.
const CALLS: usize = 20;
/// Logins of one user: so many ended sessions are remembered one by one, each with its reason.
const LOGINS: u8 = 16;
/// Calls of one user whose effect is not known, about: each doubles what the checker has to think of.
const UNKNOWN: usize = 8;

/// The connections to the servers.
struct Ways {
    /// Direct connections to both servers.
    straight: Vec<Client>,
    /// Connections to both servers through proxies that stall, drop responses and disconnect.
    troubled: Vec<Client>,
}

/// One user and the history of its clients.
struct User {
    name: String,
    id: String,
    calls: Mutex<Vec<Call>>,
    /// All tokens of the user, the newest last.
    tokens: Mutex<Vec<(Number, String)>>,
    logins: AtomicU8,
    unknown: AtomicUsize,
}

impl User {
    async fn new(name: String, client: &Client) -> Self {
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
    fn token(&self) -> Option<(Number, String)> {
        let tokens = self.tokens.lock().unwrap();
        let back = if rand::random() { 0 } else { rand::random_range(0..tokens.len().max(1)) };
        tokens.iter().nth_back(back).cloned()
    }

    /// Makes random calls on both servers.
    async fn work(&self, ways: &Ways, start: Instant) {
        for _ in 0..CALLS {
            let (ask, token) = match (rand::random_range(0..20), self.token()) {
                (0..5, _) | (_, None) => {
                    let number = self.logins.fetch_add(1, Ordering::Relaxed);
                    if number >= LOGINS {
                        continue;
                    }
                    (Ask::Login(number), String::new())
                }
                (5..15, Some((number, token))) => (Ask::Validate(number), token),
                (15..18, Some((number, token))) => (Ask::Logout(number), token),
                _ => (Ask::EndSessions, String::new()),
            };
            let careful = self.unknown.load(Ordering::Relaxed) >= UNKNOWN;
            let troubled = !careful && rand::random_range(0..4) == 0;
            let clients = if troubled { &ways.troubled } else { &ways.straight };
            let client = &clients[rand::random_range(0..clients.len())];
            let patience = if !careful && rand::random_range(0..12) == 0 {
                Duration::from_millis(rand::random_range(0..60))
            } else {
                Duration::from_mins(1)
            };

            let begun = start.elapsed();
            let told = timeout(patience, self.call(client, ask, &token)).await;
            let answered = start.elapsed();
            let answer = match told {
                Ok(Ok(answer)) => Some((nanos(answered), answer)),
                // Even an error does not prove that the call had no effect.
                Ok(Err(_)) | Err(_) => None,
            };
            if answer.is_some() || !matches!(ask, Ask::Validate(_)) {
                self.calls.lock().unwrap().push(Call { ask, begun: nanos(begun), answer });
            }
            if answer.is_none() {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                // The next call waits until the failure is over.
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..100))).await;
            }
        }
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

/// Injects failures into a proxy until all clients have finished.
async fn trouble(proxies: &[Proxy], over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let proxy = &proxies[rand::random_range(0..proxies.len())];
        let pause = |millis: std::ops::Range<u64>| {
            tokio::time::sleep(Duration::from_millis(rand::random_range(millis)))
        };
        match rand::random_range(0..4) {
            0 => {
                // The call takes effect and its answer is lost.
                proxy.set(ProxyMode::DropResponses);
                pause(5..40).await;
                proxy.set(ProxyMode::Disconnect);
            }
            1 => proxy.set(ProxyMode::Disconnect),
            _ => proxy.set(ProxyMode::Stall),
        }
        pause(1..40).await;
        proxy.set(ProxyMode::Forward);
        pause(50..250).await;
    }
}

/// Finds logins without an answer that later answers mention.
fn came_true(calls: &[Call]) -> usize {
    let lost = calls.iter().filter(|call| call.answer.is_none());
    let numbers = lost.filter_map(|call| match call.ask {
        Ask::Login(number) => Some(number),
        _ => None,
    });
    let speaks_of = |number| {
        calls.iter().filter_map(|call| call.answer).any(|(_, answer)| match answer {
            Answer::Opened { displaced, .. } => displaced == Some(number),
            Answer::Stood(fate) => fate == SessionState::Replaced { by: number },
            Answer::Ended(_) => false,
        })
    };
    numbers.filter(|number| speaks_of(*number)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answers_of_two_servers_are_linearizable() {
    let redis = RedisServer::start();
    let to_redis = Proxy::to(redis.port).await;
    let urls = [redis.url(), format!("redis://{}", to_redis.address)];
    // An interrupted login counts as failed, and this test interrupts many.
    let settings = [("THROTTLE__FREE_ATTEMPTS", "100"), ("THROTTLE__ADDRESS_FAILURES", "0")];
    let replicas = Replicas::on(redis, [&urls[0], &urls[1]], &settings).await;
    let mut proxies = vec![to_redis];
    let mut troubled = Vec::new();
    for process in &replicas.processes {
        let proxy = Proxy::to(process.grpc.port()).await;
        troubled.push(Client::connect(proxy.address, &process.client().await.admin_key).await);
        proxies.push(proxy);
    }
    let ways = Arc::new(Ways { straight: replicas.clients(2).await, troubled });

    let over = Arc::new(AtomicBool::new(false));
    let (proxies, still) = (Arc::new(proxies), Arc::clone(&over));
    let troubling = tokio::spawn({
        let proxies = Arc::clone(&proxies);
        async move { trouble(&proxies, &still).await }
    });
    let start = Instant::now();
    let mut histories = Vec::new();
    for round in 0..ROUNDS {
        let mut working = JoinSet::new();
        for number in 0..USERS {
            let user = Arc::new(User::new(format!("user{round}x{number}"), &ways.straight[0]).await);
            for _ in 0..CLIENTS {
                let (user, ways) = (Arc::clone(&user), Arc::clone(&ways));
                working.spawn(async move { user.work(&ways, start).await });
            }
            histories.push(user);
        }
        working.join_all().await;
    }
    over.store(true, Ordering::Relaxed);
    troubling.await.unwrap();
    let took = start.elapsed();

    let checking = Instant::now();
    let (mut calls, mut unanswered, mut true_all_the_same, mut hardest) = (0, 0, 0, 0);
    for user in &histories {
        let history = user.calls.lock().unwrap();
        let states = check(&history).unwrap_or_else(|complaint| panic!("{}: {complaint:#?}", user.name));
        hardest = hardest.max(states);
        calls += history.len();
        unanswered += history.iter().filter(|call| call.answer.is_none()).count();
        true_all_the_same += came_true(&history);
    }
    println!(
        "{calls} calls of {} users in {took:?}, checked in {:?}, the hardest history with {hardest} states: {unanswered} calls were not answered, and at least {true_all_the_same} logins among these took effect",
        histories.len(),
        checking.elapsed(),
    );
    assert!(calls > USERS * ROUNDS * 40 && unanswered > USERS * ROUNDS / 4, "the history is too short");
    assert!(true_all_the_same > 0, "no answer was lost");
}
