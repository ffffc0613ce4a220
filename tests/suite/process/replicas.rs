//! Promises P1 and P2 with two servers on one Redis: exactly one login survives, and nothing revives.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use latchkey::grpc::pb::{LogoutScope, RejectionReason, validate_response::Verdict};
use tokio::task::JoinSet;

use super::generation;
use crate::support::{client::Client, replicas::Replicas};

/// The number of concurrent logins of one user.
const LOGINS: usize = 1000;
/// The number of Validate calls in the race.
const RACES: u64 = 100_000;
/// The number of users in the race.
const USERS: usize = 10;
/// The number of concurrent Validate calls on each connection.
const VALIDATORS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_concurrent_logins_exactly_one_survives_and_both_replicas_agree() {
    // On a busy machine an attempt may take so long that it counts as a failed one.
    let replicas = Replicas::start(&[("THROTTLE__FREE_ATTEMPTS", "50")]).await;
    let clients = replicas.clients(5).await;
    clients[0].user("alice").await;

    let mut logins = JoinSet::new();
    for number in 0..LOGINS {
        let client = clients[number % clients.len()].clone();
        logins.spawn(async move { client.login("alice", &format!("device {number}")).await.token });
    }
    let tokens = logins.join_all().await;
    let latest = tokens.iter().max_by_key(|token| generation(token)).unwrap();

    for (replica, client) in clients[..2].iter().enumerate() {
        let verdicts: Vec<_> =
            stream::iter(&tokens).map(|token| client.validate(token)).buffered(64).collect().await;
        for (token, verdict) in tokens.iter().zip(verdicts) {
            match verdict {
                Verdict::Session(session) => {
                    assert_eq!(token, latest, "replica {replica} takes {session:?} for the latest");
                }
                Verdict::Rejection(rejection) => {
                    assert_ne!(token, latest, "replica {replica} rejects the latest: {rejection:?}");
                    assert_eq!(rejection.reason(), RejectionReason::Replaced, "replica {replica}");
                }
            }
        }
    }
}

/// A token, and whether the call that ended its session has been answered.
type Handle = (String, Arc<AtomicBool>);

/// The latest tokens of one user, the newest last.
#[derive(Default)]
struct User {
    name: String,
    handles: Mutex<Vec<Handle>>,
}

impl User {
    /// Adds a token that displaces the others.
    fn took_over(&self, token: String) {
        let mut handles = self.handles.lock().unwrap();
        for (_, ended) in handles.iter() {
            ended.store(true, Ordering::SeqCst);
        }
        handles.push((token, Arc::default()));
        let surplus = handles.len().saturating_sub(3);
        handles.drain(..surplus);
    }

    fn newest(&self) -> Option<Handle> {
        self.handles.lock().unwrap().last().cloned()
    }

    /// Chooses the newest token or an older one.
    fn any(&self) -> Option<Handle> {
        let handles = self.handles.lock().unwrap();
        let back = rand::random_range(0..4_usize).saturating_sub(1);
        handles.iter().nth_back(back).or(handles.last()).cloned()
    }

    /// Logs in and out repeatedly on both servers.
    async fn log_in_and_out(&self, clients: &[Client], race: &Race) {
        let anywhere = || &clients[rand::random_range(0..clients.len())];
        while !race.is_over() {
            let held = self.newest();
            let login = async || anywhere().login(&self.name, "race").await.token;
            let logout = async || {
                let Some((token, ended)) = &held else { return };
                anywhere().logout(token, LogoutScope::This).await;
                ended.store(true, Ordering::SeqCst);
            };
            match rand::random_range(0..3) {
                0 => logout().await,
                1 => self.took_over(login().await),
                _ => {
                    let (token, ()) = tokio::join!(login(), logout());
                    // P3: a logout that loses the race does not end the session of the winner.
                    if let Verdict::Rejection(rejection) = anywhere().validate(&token).await {
                        race.wrong.lock().unwrap().push(format!("the winner was rejected: {rejection:?}"));
                    }
                    self.took_over(token);
                }
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        }
    }
}

/// Counters of the race.
#[derive(Default)]
struct Race {
    left: AtomicU64,
    /// Validate calls for sessions that had ended before.
    dead: AtomicU64,
    /// Validate calls that returned a session.
    live: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Race {
    fn is_over(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    async fn validate(&self, clients: &[Client], first: usize, users: &[User]) {
        let mut number = first;
        while self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        {
            number += 1;
            let Some((token, ended)) = users[rand::random_range(0..users.len())].any() else {
                self.left.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                continue;
            };
            // The state is read before the call begins.
            let had_ended = ended.load(Ordering::SeqCst);
            let verdict = clients[number % clients.len()].validate(&token).await;
            self.dead.fetch_add(u64::from(had_ended), Ordering::Relaxed);
            if let Some(wrong) = wrong(had_ended, &verdict) {
                self.wrong.lock().unwrap().push(wrong);
            }
            if matches!(verdict, Verdict::Session(_)) {
                self.live.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What is wrong with a verdict on a session that had ended, or not known to have.
fn wrong(had_ended: bool, verdict: &Verdict) -> Option<String> {
    use RejectionReason::{IdleTimeout, LoggedOut, Replaced};
    match verdict {
        Verdict::Session(session) => had_ended.then(|| format!("ended, and live again: {session:?}")),
        Verdict::Rejection(rejection) => (![Replaced, LoggedOut, IdleTimeout].contains(&rejection.reason()))
            .then(|| format!("forgotten: {rejection:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validate_racing_login_and_logout_never_revives_an_ended_session() {
    // With a short idle timeout many Validate calls write, and could write back an ended session.
    let replicas = Replicas::start(&[("SESSION__IDLE_TIMEOUT", "2s")]).await;
    let clients: Arc<[Client]> = replicas.clients(1).await.into();
    let users: Arc<[User]> =
        (0..USERS).map(|number| User { name: format!("user{number}"), ..User::default() }).collect();
    for user in users.iter() {
        clients[0].user(&user.name).await;
    }

    let race = Arc::new(Race { left: RACES.into(), ..Race::default() });
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..USERS {
        let (clients, users, race) = (Arc::clone(&clients), Arc::clone(&users), Arc::clone(&race));
        tasks.spawn(async move { users[number].log_in_and_out(&clients, &race).await });
    }
    for number in 0..clients.len() * VALIDATORS {
        let (clients, users, race) = (Arc::clone(&clients), Arc::clone(&users), Arc::clone(&race));
        tasks.spawn(async move { race.validate(&clients, number, &users).await });
    }
    tasks.join_all().await;

    let (dead, live) = (race.dead.load(Ordering::Relaxed), race.live.load(Ordering::Relaxed));
    println!("{RACES} Validates in {:?}: {dead} of ended sessions, {live} accepted", begun.elapsed());
    let wrong = race.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} wrong, such as {:?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    assert!(dead > RACES / 10 && live > RACES / 10, "there was no race: {dead} dead, {live} live");
}

#[test]
fn the_race_would_notice_a_revived_and_a_forgotten_session() {
    use latchkey::grpc::pb::{Rejection, Session};
    let session = Verdict::Session(Session::default());
    let rejection = |reason: RejectionReason| {
        Verdict::Rejection(Rejection { reason: reason.into(), ..Default::default() })
    };
    assert!(wrong(true, &session).is_some());
    assert!(wrong(false, &session).is_none());
    assert!(wrong(true, &rejection(RejectionReason::Replaced)).is_none());
    assert!(wrong(false, &rejection(RejectionReason::UnknownSession)).is_some());
}
