//! Promises P1 and P2 as one: whatever clients on two servers are told, through lost answers and broken
//! connections, could have been told by one slot that is asked one thing after the other.

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

use self::checker::{Answer, Ask, Call, ImportOutcome, Number, check};
use super::{claims, generation};
use crate::support::{
    client::{Client, login_request},
    proxy::{Mood, Proxy},
    redis::RedisServer,
    replicas::Replicas,
};

/// Users at a time, and how often others take their place.
const USERS: usize = 40;
const ROUNDS: usize = 6;
/// Clients of one user.
const CLIENTS: usize = 3;
/// Calls of each client.
const CALLS: usize = 20;
/// Logins of one user: so many ended sessions are remembered one by one, each with its reason.
const LOGINS: u8 = 16;
/// Calls of one user whose effect is not known, about: each doubles what the checker has to think of.
const UNKNOWN: usize = 8;

/// Where clients find the servers.
struct Ways {
    /// To both.
    straight: Vec<Client>,
    /// To both, through proxies that fall silent, swallow answers and hang up.
    troubled: Vec<Client>,
}

/// One user, and what the clients were told.
struct User {
    name: String,
    id: String,
    calls: Mutex<Vec<Call>>,
    /// Every token that was given out, the newest last.
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

    /// Now the newest, now any other.
    fn token(&self) -> Option<(Number, String)> {
        let tokens = self.tokens.lock().unwrap();
        let back = if rand::random() { 0 } else { rand::random_range(0..tokens.len().max(1)) };
        tokens.iter().nth_back(back).cloned()
    }

    /// Does what clients do, now here and now there.
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
                // Not even a refusal says that nothing happened.
                Ok(Err(_)) | Err(_) => None,
            };
            if answer.is_some() || !matches!(ask, Ask::Validate(_)) {
                self.calls.lock().unwrap().push(Call { ask, begun: nanos(begun), answer });
            }
            if answer.is_none() {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                // Until the trouble is over, or it would be the same again.
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
                Verdict::Session(session) if claims(token)["jti"] == session.session_id => {
                    ImportOutcome::Live
                }
                Verdict::Session(_) => ImportOutcome::Other,
                Verdict::Rejection(rejection) => fate(&rejection),
            }),
            Ask::Logout(_) => {
                let message = pb::LogoutRequest { token: token.into(), scope: LogoutScope::This.into() };
                let answer = client.auth.clone().logout(message).await?.into_inner();
                Answer::Stood(match (answer.ended, &answer.rejection) {
                    (1, None) => ImportOutcome::Live,
                    (0, Some(rejection)) => fate(rejection),
                    _ => ImportOutcome::Other,
                })
            }
            Ask::EndSessions => {
                let message = pb::EndSessionsRequest { user_id: self.id.clone(), ..Default::default() };
                Answer::Ended(client.try_end(message).await?)
            }
        })
    }
}

/// A login is known by the name of its device.
fn displaced(sessions: &[pb::DisplacedSession]) -> Option<Number> {
    match sessions {
        [] => None,
        [session] => session.device.parse().ok(),
        _ => Some(Number::MAX),
    }
}

fn fate(rejection: &pb::Rejection) -> ImportOutcome {
    match rejection.reason() {
        RejectionReason::Replaced => {
            rejection.by_device.parse().map_or(ImportOutcome::Other, |by| ImportOutcome::Replaced { by })
        }
        RejectionReason::LoggedOut => ImportOutcome::LoggedOut,
        RejectionReason::Kicked => ImportOutcome::Kicked,
        _ => ImportOutcome::Other,
    }
}

fn nanos(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap()
}

/// Makes trouble on one of the ways until nobody works any more.
async fn trouble(proxies: &[Proxy], over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let proxy = &proxies[rand::random_range(0..proxies.len())];
        let pause = |millis: std::ops::Range<u64>| {
            tokio::time::sleep(Duration::from_millis(rand::random_range(millis)))
        };
        match rand::random_range(0..4) {
            0 => {
                // What was asked happens, and nobody is told.
                proxy.set(Mood::SwallowsAnswers);
                pause(5..40).await;
                proxy.set(Mood::HangsUp);
            }
            1 => proxy.set(Mood::HangsUp),
            _ => proxy.set(Mood::Silent),
        }
        pause(1..40).await;
        proxy.set(Mood::Carries);
        pause(50..250).await;
    }
}

/// Logins that nobody was told of, and of which later answers speak all the same.
fn came_true(calls: &[Call]) -> usize {
    let lost = calls.iter().filter(|call| call.answer.is_none());
    let numbers = lost.filter_map(|call| match call.ask {
        Ask::Login(number) => Some(number),
        _ => None,
    });
    let speaks_of = |number| {
        calls.iter().filter_map(|call| call.answer).any(|(_, answer)| match answer {
            Answer::Opened { displaced, .. } => displaced == Some(number),
            Answer::Stood(fate) => fate == ImportOutcome::Replaced { by: number },
            Answer::Ended(_) => false,
        })
    };
    numbers.filter(|number| speaks_of(*number)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_two_servers_answer_could_be_that_of_one_slot_asked_one_call_after_the_other() {
    let redis = RedisServer::start();
    let to_redis = Proxy::to(redis.port).await;
    let urls = [redis.url(), format!("redis://{}", to_redis.address)];
    // A login that lost its way while its password was checked counts as failed, and here they are many.
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
    assert!(calls > USERS * ROUNDS * 40 && unanswered > USERS * ROUNDS / 4, "there was too little to check");
    assert!(true_all_the_same > 0, "no answer was lost on its way");
}
