//! Promise P6 on the embedded store: a kill loses nothing acknowledged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use latchkey::grpc::pb::{LogoutRequest, RejectionReason, validate_response::Verdict};
use tokio::task::JoinSet;

use super::generation;
use crate::support::{
    client::{Client, login_request},
    process::Process,
};

const KILLS: u32 = 5;
const USERS: usize = 4;
/// The number of clients that log in and out for each user.
const CLIENTS: usize = 3;

/// What the clients of one user have recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct History {
    /// The answered logins.
    logins: Vec<Login>,
    /// The rounds with an unanswered login, which may have taken effect before the kill or not.
    lost: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Login {
    round: u32,
    generation: u64,
    token: String,
    logout: Logout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logout {
    NotAsked,
    /// Asked for, and not answered.
    Lost,
    Acknowledged,
}

/// The verdict of Validate on a token after the crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenState {
    Live,
    Ended(RejectionReason),
}

impl History {
    /// Returns the acknowledged facts that do not hold, of which a correct store has none.
    fn broken(&self, fates: &[TokenState]) -> Vec<String> {
        let pairs = self.logins.iter().zip(fates);
        pairs
            .filter_map(|(login, fate)| self.complaint(login, *fate).map(|what| format!("{what}: {login:?}")))
            .collect()
    }

    fn complaint(&self, login: &Login, fate: TokenState) -> Option<&'static str> {
        let displaced = self.logins.iter().any(|other| other.generation > login.generation);
        let perhaps_displaced = self.lost.iter().any(|round| *round >= login.round);
        match fate {
            TokenState::Live if login.logout == Logout::Acknowledged => Some("logged out, and live again"),
            TokenState::Live if displaced => Some("displaced, and live again"),
            TokenState::Live => None,
            TokenState::Ended(RejectionReason::LoggedOut) => {
                (login.logout == Logout::NotAsked).then_some("logged out by nobody")
            }
            TokenState::Ended(RejectionReason::Replaced) => {
                (!displaced && !perhaps_displaced).then_some("replaced by nobody")
            }
            TokenState::Ended(_) => Some("lost"),
        }
    }
}

/// Logs in, and out every other time, until the server is killed.
async fn work(client: Client, username: String, round: u32, answered: Arc<AtomicUsize>) -> History {
    let mut history = History::default();
    loop {
        let Ok(answer) = client.try_login(login_request(&username, "crash")).await else {
            history.lost.push(round);
            return history;
        };
        let token = answer.token;
        answered.fetch_add(1, Ordering::Relaxed);
        history.logins.push(Login {
            round,
            generation: generation(&token),
            token: token.clone(),
            logout: Logout::NotAsked,
        });
        if rand::random() {
            let answer = client.auth.clone().logout(LogoutRequest { token, scope: 0 }).await;
            let logout = if answer.is_ok() { Logout::Acknowledged } else { Logout::Lost };
            history.logins.last_mut().unwrap().logout = logout;
            if logout == Logout::Lost {
                return history;
            }
        }
    }
}

async fn fates(client: &Client, history: &History) -> Vec<TokenState> {
    let verdicts = history.logins.iter().map(async |login| match client.validate(&login.token).await {
        Verdict::Session(_) => TokenState::Live,
        Verdict::Rejection(rejection) => TokenState::Ended(rejection.reason()),
    });
    stream::iter(verdicts).buffered(32).collect().await
}

/// A login that a kill interrupts counts as failed, and this test interrupts many.
const SETTINGS: &[(&str, &str)] = &[("THROTTLE__FREE_ATTEMPTS", "100")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::start(data.path(), SETTINGS);
    let mut client = process.client().await;
    let users: Vec<_> = (0..USERS).map(|number| format!("user{number}")).collect();
    for user in &users {
        client.user(user).await;
    }

    let mut histories = vec![History::default(); USERS];
    for round in 0..KILLS {
        let answered = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for worker in 0..USERS * CLIENTS {
            let work = work(client.clone(), users[worker % USERS].clone(), round, Arc::clone(&answered));
            workers.spawn(async move { (worker % USERS, work.await) });
        }
        let logins = rand::random_range(11..30);
        let begun = Instant::now();
        while answered.load(Ordering::Relaxed) < logins {
            assert!(begun.elapsed() < Duration::from_mins(1), "too few logins are answered");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process.kill();
        for (user, history) in workers.join_all().await {
            histories[user].logins.extend(history.logins);
            histories[user].lost.extend(history.lost);
        }

        // This call is answered without waiting for anything.
        process = Process::start(data.path(), SETTINGS);
        client = process.client().await;
        for (user, history) in histories.iter().enumerate() {
            let broken = history.broken(&fates(&client, history).await);
            assert!(broken.is_empty(), "after kill {round}, {}: {broken:#?}", users[user]);
        }
    }

    let all = |what: fn(&History) -> usize| histories.iter().map(what).sum::<usize>();
    let logins = all(|history| history.logins.len());
    let logouts =
        all(|history| history.logins.iter().filter(|login| login.logout == Logout::Acknowledged).count());
    let lost = all(|history| history.lost.len());
    println!("{logins} logins and {logouts} logouts were acknowledged, {lost} logins were lost");
    assert!(logins > 50 && logouts > 20 && lost > 0, "the kills interrupted no calls");
}

mod the_checker {
    use super::*;

    fn login(round: u32, generation: u64, logout: Logout) -> Login {
        Login { round, generation, token: String::new(), logout }
    }

    fn broken(logins: Vec<Login>, lost: Vec<u32>, fates: &[TokenState]) -> usize {
        History { logins, lost }.broken(fates).len()
    }

    const REPLACED: TokenState = TokenState::Ended(RejectionReason::Replaced);
    const LOGGED_OUT: TokenState = TokenState::Ended(RejectionReason::LoggedOut);
    const UNKNOWN: TokenState = TokenState::Ended(RejectionReason::UnknownSession);

    #[test]
    fn the_check_accepts_a_correct_store() {
        let logins = vec![
            login(0, 1, Logout::NotAsked),
            login(0, 2, Logout::Acknowledged),
            login(0, 3, Logout::Lost),
            login(1, 4, Logout::NotAsked),
        ];
        assert_eq!(broken(logins, vec![], &[REPLACED, LOGGED_OUT, LOGGED_OUT, TokenState::Live]), 0);
    }

    #[test]
    fn the_check_notices_a_lost_login() {
        let logins = || vec![login(1, 1, Logout::NotAsked)];
        assert_eq!(broken(logins(), vec![], &[UNKNOWN]), 1);
        assert_eq!(broken(logins(), vec![1], &[UNKNOWN]), 1);
        assert_eq!(broken(logins(), vec![], &[REPLACED]), 1, "no other login displaced it");
        assert_eq!(broken(logins(), vec![0], &[REPLACED]), 1, "the lost login was before it");
        assert_eq!(broken(logins(), vec![1], &[REPLACED]), 0, "the lost login may have been after it");
    }

    #[test]
    fn the_check_notices_a_revived_logout() {
        assert_eq!(broken(vec![login(0, 1, Logout::Acknowledged)], vec![0], &[TokenState::Live]), 1);
        assert_eq!(broken(vec![login(0, 1, Logout::Lost)], vec![], &[TokenState::Live]), 0);
        assert_eq!(broken(vec![login(0, 1, Logout::NotAsked)], vec![], &[LOGGED_OUT]), 1);
    }

    #[test]
    fn the_check_notices_a_rollback_to_an_older_login() {
        let logins = vec![login(0, 1, Logout::NotAsked), login(0, 2, Logout::NotAsked)];
        assert_eq!(broken(logins, vec![], &[TokenState::Live, UNKNOWN]), 2);
    }
}
