//! More logins than the hashing threads can process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::grpc::pb;
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::parts;
use crate::support::{
    client::{Client, is_live, login_request},
    server::{Server, Store},
};

/// One thread, and hashes of the default cost.
const ONE_THREAD: [(&str, &str); 5] = [
    ("PASSWORD__THREADS", "1"),
    ("PASSWORD__MEMORY_KIB", "19456"),
    ("PASSWORD__ITERATIONS", "2"),
    ("PASSWORD__QUEUE", "256"),
    // Creating the users takes long on a busy machine.
    ("SERVER__REQUEST_TIMEOUT", "5m"),
];

const USERS: usize = 30;

async fn server(more: &[(&str, &str)]) -> Server {
    let server = Server::with(Store::Embedded, &[&ONE_THREAD, more].concat()).await;
    for number in 0..USERS {
        server.client.user(&format!("user{number}")).await;
    }
    server
}

async fn login(
    client: Client,
    number: usize,
    deadline: Duration,
    from: Option<String>,
) -> Result<(), Status> {
    let mut request = Request::new(login_request(&format!("user{}", number % USERS), ""));
    request.set_timeout(deadline);
    if let Some(from) = from {
        request.metadata_mut().insert("x-forwarded-for", from.parse().unwrap());
    }
    client.auth.clone().login(request).await.map(drop)
}

/// Measures the logins per second that the threads can process, with two clients that wait for each answer.
async fn capacity(server: &Server) -> f64 {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..2 {
        let client = server.client.clone();
        clients.spawn(async move {
            for round in 0..15 {
                login(client.clone(), 2 * round + number, Duration::from_secs(10), None).await.unwrap();
            }
        });
    }
    clients.join_all().await;
    30.0 / begun.elapsed().as_secs_f64()
}

/// The outcome of a flood of logins.
struct Flood {
    /// The logins per second that the threads can process.
    capacity: f64,
    sent: usize,
    done: u32,
    shed: u32,
    /// The number of hashes that were computed.
    hashes: u32,
    took: Duration,
}

impl Flood {
    /// Relates a number to what the threads can process in that time.
    fn of_capacity(&self, count: u32) -> f64 {
        f64::from(count) / (self.capacity * self.took.as_secs_f64())
    }

    fn check(&self) {
        assert!(self.done * 10 >= self.hashes * 6, "{} of {} hashes were of use", self.done, self.hashes);
        assert!(self.of_capacity(self.hashes) > 0.15, "the thread was idle");
        assert!(self.shed > 0, "no login was shed");
    }
}

/// Sends a multiple of the logins that can be processed for a few seconds, each with a deadline that equals the time
/// of a number of hashes.
#[expect(clippy::print_stdout, reason = "the figures are of interest")]
async fn flood(server: &Server, times: f64, hashes: f64, from: impl Fn(usize) -> Option<String>) -> Flood {
    let capacity = capacity(server).await;
    let deadline = Duration::from_secs_f64(hashes / capacity);
    let pause = Duration::from_secs_f64(1.0 / (times * capacity));
    let before = server.app.engine.passwords().hasher().hashes();
    let begun = Instant::now();
    let mut logins = JoinSet::new();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        logins.spawn(login(server.client.clone(), sent, deadline, from(sent)));
        sent += 1;
        tokio::time::sleep_until((begun + pause * u32::try_from(sent).unwrap()).into()).await;
    }
    let (mut done, mut shed) = (0, 0);
    for outcome in logins.join_all().await {
        match outcome {
            Ok(()) => done += 1,
            Err(status) if status.code() == Code::ResourceExhausted => {
                assert_eq!(parts(&status).1, "OVERLOADED", "{status:?}");
                assert!(
                    status.get_details_retry_info().unwrap().retry_delay.unwrap() >= Duration::from_secs(1)
                );
                shed += 1;
            }
            // The deadline may end the call in the client or on the server.
            Err(status) => {
                let late = [Code::DeadlineExceeded, Code::Cancelled];
                assert!(late.contains(&status.code()), "{status:?}");
            }
        }
    }
    let hashes = u32::try_from(server.app.engine.passwords().hasher().hashes() - before).unwrap();
    let flood = Flood { capacity, sent, done, shed, hashes, took: begun.elapsed() };
    println!(
        "capacity {:.1}/s; deadline {deadline:?}; {} sent in {:.1} s; {} done in time, {} shed, {} hashes; goodput {:.2}",
        flood.capacity,
        flood.sent,
        flood.took.as_secs_f64(),
        flood.done,
        flood.shed,
        flood.hashes,
        flood.of_capacity(flood.done),
    );
    flood
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_overload_hashes_are_computed_only_for_waiting_clients() {
    let server = server(&[]).await;
    // On an idle machine the deadlines are about a second and less than half of that.
    for hashes in [40.0, 15.0] {
        flood(&server, 3.0, hashes, |_| None).await.check();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_overload_from_many_addresses_hashes_are_computed_only_for_waiting_clients() {
    let server = server(&[]).await;
    let each = |number| Some(format!("198.51.{}.{}", 100 + number / 250, number % 250));
    flood(&server, 3.0, 40.0, each).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_address_leaves_other_addresses_their_share() {
    let server = server(&[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    // This is a fraction of the queue.
    let deadline = Duration::from_secs_f64(40.0 / capacity(&server).await);
    let others = tokio::spawn({
        let (client, stop) = (server.client.clone(), Arc::clone(&stop));
        async move {
            let (mut done, mut sent) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let from = Some(format!("203.0.113.{}", sent % 5));
                done += usize::from(login(client.clone(), sent, deadline, from).await.is_ok());
                sent += 1;
            }
            (done, sent)
        }
    });
    // Without a trusted proxy all logins come from one address.
    flood(&server, 3.0, 300.0, |_| None).await;
    stop.store(true, Ordering::Relaxed);
    let (done, sent) = others.await.unwrap();
    println!("of the others {done} of {sent} got in");
    assert!(sent > 5 && done * 10 >= sent * 8, "of the others {done} of {sent} got in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_logins_leave_streams_for_validate_on_the_same_connection() {
    let slow = [("PASSWORD__ITERATIONS", "10"), ("SERVER__MAX_STREAMS", "32")];
    let server = server(&slow).await;
    let token = server.client.login("user0", "").await.token;
    let waiting = Arc::new(AtomicBool::new(true));
    let mut logins = JoinSet::new();
    for number in 0..200 {
        logins.spawn(login(server.client.clone(), number, Duration::from_mins(2), None));
    }
    let all = tokio::spawn({
        let waiting = Arc::clone(&waiting);
        async move {
            let outcomes = logins.join_all().await;
            waiting.store(false, Ordering::Relaxed);
            outcomes
        }
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let begun = Instant::now();
        let verdict = timeout(Duration::from_mins(1), server.client.validate(&token)).await.expect("in time");
        assert!(is_live(&verdict) || waiting.load(Ordering::Relaxed));
        slowest = slowest.max(begun.elapsed());
        assert!(waiting.load(Ordering::Relaxed), "the verdict came after the logins ({slowest:?})");
    }
    println!("the slowest of 20 verdicts took {slowest:?}");
    let outcomes = all.await.unwrap();
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let shed = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    for status in shed {
        assert_eq!(parts(status).1, "OVERLOADED", "{status:?}");
    }
    assert!(done > 0, "none got in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_cannot_be_met_costs_no_hash_and_no_attempt() {
    let server = server(&[("PASSWORD__ITERATIONS", "20")]).await;
    // The server learns the duration of a hash from the first login.
    server.client.login("user1", "").await;
    let before = server.app.engine.passwords().hasher().hashes();
    let message = pb::LoginRequest { password: "wrong".into(), ..login_request("user0", "") };
    for _ in 0..20 {
        let mut request = Request::new(message.clone());
        request.set_timeout(Duration::from_millis(2));
        let status = server.client.auth.clone().login(request).await.unwrap_err();
        let late = [Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled];
        assert!(late.contains(&status.code()), "{status:?}");
    }
    assert_eq!(server.app.engine.passwords().hasher().hashes(), before);
    server.until_settled("user0").await;
    server.client.login("user0", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_before_its_hash_begins_makes_no_attempt() {
    let server = server(&[("PASSWORD__ITERATIONS", "30")]).await;
    let passwords = server.app.engine.passwords().hasher();
    let before = passwords.hashes();
    let mut busy = JoinSet::new();
    for number in 1..4 {
        busy.spawn(login(server.client.clone(), number, Duration::from_mins(2), None));
    }
    let until = async |condition: &dyn Fn() -> bool| {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    until(&|| passwords.hashes() > before && passwords.under_way() == 3).await;
    let mut guesses = JoinSet::new();
    for _ in 0..10 {
        let client = server.client.clone();
        let message = pb::LoginRequest { password: "wrong".into(), ..login_request("user0", "") };
        guesses.spawn(async move { client.try_login(message).await });
    }
    until(&|| passwords.under_way() > 3 + 5).await;
    guesses.shutdown().await;
    for outcome in busy.join_all().await {
        outcome.unwrap();
    }
    // These logins count neither as failures nor as attempts.
    server.until_settled("user0").await;
    assert_eq!(passwords.hashes() - before, 3);
    server.client.login("user0", "").await;
}
