//! Promises P1, P2 and P6 together: the answers of two servers are linearizable, whatever fails in Redis and on the way
//! to it, and nothing that was acknowledged is lost.
//!
//! A run prints its seed. `SEED=` repeats the calls and the failures of a run, but not how they interleave.

#![expect(clippy::print_stdout, reason = "libtest shows what a failed test has printed")]

mod checker;
mod lab;
mod losses;
mod users;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use rand::{SeedableRng as _, rngs::StdRng};
use rstest::rstest;
use tokio::{task::JoinSet, time::sleep};

use self::{
    checker::{Answer, Ask, Call, Complaint, SessionState, check},
    lab::{
        Fault::{self, Duplicate, Kill, Links, MoveSlots, Partition, Pause, Promote},
        Lab,
        Shape::{self, Cluster, Sentinel, Single},
    },
    users::{CLIENTS, Errors, Run, User, Ways},
};
use crate::support::redis::Flavour::{self, Redis, Valkey};

/// One in so many histories may be too hard for the checker.
const HARD: usize = 50;

/// How long the clients work before the first failure.
const WARM_UP: Duration = Duration::from_secs(1);

struct Plan {
    flavour: Flavour,
    shape: Shape,
    faults: &'static [Fault],
    durability: &'static str,
    /// The number of users at a time, and how many times others follow them.
    users: usize,
    waves: usize,
    /// The longest pause of a client between two calls, in milliseconds.
    pause: u64,
    /// The faults are repeated until all users have finished.
    repeats: bool,
}

/// What the histories of a run say.
#[derive(Debug, Default)]
struct Findings {
    users: usize,
    calls: usize,
    unanswered: usize,
    /// Logins without an answer that took effect.
    came_true: usize,
    /// The most states that the checker visited for one user.
    hardest: usize,
    /// Users whose history is too hard for the checker.
    too_hard: usize,
    /// Users who saw the effect of a call that was never acknowledged, and later saw it undone.
    undone: usize,
}

#[expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "the seed of a test is no setting of the product"
)]
fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().filter(|seed| !seed.is_empty());
    seed.map_or_else(rand::random, |seed| seed.parse().expect("SEED is a number"))
}

/// Runs a plan and checks every history.
async fn run(plan: Plan) -> Option<Findings> {
    let seed = seed();
    println!("SEED={seed}");
    let mut lab = Lab::start(plan.flavour, plan.shape, &[("SESSIONS__DURABILITY", plan.durability)]).await?;
    let troubled =
        if plan.faults.contains(&Links) { lab.clients_through_proxies().await } else { Vec::new() };
    let ways = Ways { straight: lab.clients().await, troubled };
    let names = (0..plan.users * plan.waves).map(|number| format!("user{number}"));
    let users: Vec<_> = stream::iter(names)
        .map(|name| async { Arc::new(User::new(name, &ways.straight[0]).await) })
        .buffered(4)
        .collect()
        .await;
    let run = Arc::new(Run {
        ways,
        seed,
        start: Instant::now(),
        pause: plan.pause,
        over: AtomicBool::new(false),
        errors: Errors::default(),
    });

    let working = tokio::spawn({
        let (run, users) = (Arc::clone(&run), users.clone());
        async move {
            for (wave, users) in (0_u64..).zip(users.chunks(plan.users)) {
                let mut working = JoinSet::new();
                for (number, user) in (wave * 100_000..).zip(users) {
                    for client in 0..CLIENTS {
                        working.spawn(Arc::clone(user).work(Arc::clone(&run), number, client as u64));
                    }
                }
                working.join_all().await;
            }
        }
    });
    let mut random = StdRng::seed_from_u64(seed);
    sleep(WARM_UP).await;
    for (number, fault) in plan.faults.iter().cycle().enumerate() {
        if if plan.repeats { working.is_finished() } else { number == plan.faults.len() } {
            break;
        }
        let begun = run.start.elapsed();
        lab.inject(*fault, &mut random).await;
        println!("{fault:?} from {begun:?} to {:?}", run.start.elapsed());
    }
    run.over.store(true, Ordering::Relaxed);
    working.await.unwrap();
    for client in &run.ways.straight {
        client.until_serving().await;
    }
    stream::iter(&users).for_each_concurrent(16, |user| user.finish(&run)).await;
    println!("{:?} {:?} {}: {:?}", plan.flavour, plan.shape, plan.durability, run.start.elapsed());

    let findings = findings(&users);
    println!("{findings:?}");
    println!("errors: {:?}", run.errors.0.lock().unwrap());
    assert!(!run.errors.other_than_unavailable() || plan.faults.contains(&Links), "SEED={seed}");
    assert!(findings.too_hard * HARD <= findings.users, "SEED={seed}: {findings:?}");
    Some(findings)
}

fn findings(users: &[Arc<User>]) -> Findings {
    let mut findings = Findings::default();
    for user in users {
        let history = user.calls.lock().unwrap();
        findings.users += usize::from(!history.is_empty());
        findings.calls += history.len();
        findings.unanswered += history.iter().filter(|call| call.answer.is_none()).count();
        findings.came_true += came_true(&history);
        match check(&history) {
            Ok(states) => findings.hardest = findings.hardest.max(states),
            Err(Complaint::TooHard) => findings.too_hard += 1,
            Err(complaint) => {
                if check(&without_undone(&history)).is_err() {
                    let mut calls = history.clone();
                    calls.sort_by_key(|call| call.begun);
                    panic!("{}: {complaint:#?} in {calls:#?}", user.name);
                }
                if findings.undone == 0 {
                    println!("{}: {complaint:?}", user.name);
                }
                findings.undone += 1;
            }
        }
    }
    findings
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

/// Leaves out the answers that only read what a call without an answer may have written: a primary that fails may take
/// a commit with it that no replica has, and that was never acknowledged.
fn without_undone(calls: &[Call]) -> Vec<Call> {
    let is_lost = |ask: Ask| calls.iter().any(|call| call.answer.is_none() && call.ask == ask);
    let is_any_lost = calls.iter().any(|call| call.answer.is_none());
    let may_be_undone = |call: &Call| match (call.ask, call.answer) {
        (Ask::Validate(_) | Ask::Logout(_), Some((_, Answer::Stood(SessionState::Replaced { by })))) => {
            is_lost(Ask::Login(by))
        }
        (Ask::Validate(of) | Ask::Logout(of), Some((_, Answer::Stood(SessionState::LoggedOut)))) => {
            is_lost(Ask::Logout(of))
        }
        (Ask::Validate(_) | Ask::Logout(_), Some((_, Answer::Stood(SessionState::Kicked)))) => {
            is_lost(Ask::EndSessions)
        }
        (Ask::EndSessions, Some((_, Answer::Ended(0)))) => is_any_lost,
        _ => false,
    };
    calls.iter().filter(|call| !may_be_undone(call)).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answers_of_two_servers_are_linearizable() {
    let plan = Plan {
        flavour: Redis,
        shape: Single,
        faults: &[Links],
        durability: "primary",
        users: 40,
        waves: 2,
        pause: 20,
        repeats: true,
    };
    let findings = run(plan).await.unwrap();
    assert_eq!(findings.undone, 0);
    assert!(findings.calls > findings.users * 40, "the histories are too short");
    assert!(findings.unanswered > findings.users / 4 && findings.came_true > 0, "no answer was lost");
}

#[rstest]
#[case::killed(Redis, Sentinel, &[Kill])]
#[case::cut_off(Valkey, Sentinel, &[Partition])]
#[case::promoted(Redis, Sentinel, &[Promote, Duplicate])]
#[case::stopped(Redis, Cluster, &[Pause])]
#[case::moved(Redis, Cluster, &[MoveSlots, Duplicate])]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_linearizable_while_the_primary_changes(
    #[case] flavour: Flavour,
    #[case] shape: Shape,
    #[case] faults: &'static [Fault],
) {
    let plan = Plan {
        flavour,
        shape,
        faults,
        durability: "replicas:1",
        users: 30,
        waves: 3,
        pause: 300,
        repeats: false,
    };
    let Some(findings) = run(plan).await else { return };
    assert!(findings.calls > findings.users * 10, "the histories are too short");
}

/// `make histories` prints what it finds.
#[rstest]
#[case::single(Redis, Single, "primary", &[Links, Duplicate, Pause])]
#[case::sentinel(Redis, Sentinel, "replicas:1", &[Kill, Partition, Promote, Pause, Duplicate])]
#[case::valkey(Valkey, Sentinel, "replicas:1", &[Kill, Partition, Promote, Pause, Duplicate])]
#[case::cluster(Redis, Cluster, "replicas:1", &[Kill, MoveSlots, Partition, Promote, Pause, Duplicate])]
#[case::valkey_cluster(Valkey, Cluster, "replicas:1", &[Kill, MoveSlots, Partition, Promote, Pause, Duplicate])]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes; make histories runs it"]
async fn answers_of_thousands_of_users_are_linearizable(
    #[case] flavour: Flavour,
    #[case] shape: Shape,
    #[case] durability: &'static str,
    #[case] faults: &'static [Fault],
) {
    let plan = Plan { flavour, shape, faults, durability, users: 100, waves: 20, pause: 300, repeats: true };
    let Some(findings) = run(plan).await else { return };
    assert!(findings.calls > findings.users * 40, "the histories are too short");
}
