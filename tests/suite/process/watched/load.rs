//! Load of users who log in repeatedly, each login displacing the previous one.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{
    IssueSessionRequest, IssueSessionResponse, RejectionReason, watch_session_response::Verdict,
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{SOON, feed::Received};
use crate::support::client::Client;

/// What a watch reported after its first message: ends of the session, or an error.
type Ends = Result<Vec<RejectionReason>, Status>;

/// How long a user stays logged in, at most. The log keeps about 4,096 events of a user: so many are more than
/// a test takes, and a gap would be none of the faults that are looked for.
const STAY: Duration = Duration::from_millis(50);

/// All that the users have recorded.
#[derive(Default)]
struct Known {
    over: AtomicBool,
    /// The displaced sessions in the answers to logins, with the time of the answer.
    displaced: Mutex<Vec<(String, Instant)>>,
    /// The errors of logins, which may have taken effect.
    unanswered: Mutex<Vec<Status>>,
    /// The watches with their reports.
    watches: Mutex<Vec<(String, JoinHandle<Ends>)>>,
    /// The sessions of each user in the order of their logins, without the live one.
    logins: Mutex<Vec<Vec<String>>>,
}

pub struct Load {
    known: Arc<Known>,
    users: JoinSet<()>,
}

impl Load {
    /// Users who log in on these servers, as a trusted service lets them, and watch their sessions on those.
    pub async fn start(servers: &[Client], watching: &[Client], users: usize) -> Self {
        let known = Arc::new(Known::default());
        let mut working = JoinSet::new();
        for number in 0..users {
            let user = User {
                id: servers[0].user(&format!("load{number}")).await,
                servers: servers.to_vec(),
                watching: watching.to_vec(),
                known: Arc::clone(&known),
            };
            working.spawn(user.log_in_again_and_again());
        }
        Self { known, users: working }
    }

    /// Waits until this number of displacements was acknowledged.
    pub async fn until_displaced(&self, count: usize) {
        let begun = Instant::now();
        while self.known.displaced.lock().unwrap().len() < count {
            let failures = self.known.unanswered.lock().unwrap();
            assert!(begun.elapsed() < SOON, "no login succeeds: {:?}", failures.last());
            drop(failures);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets every user log in for a last time.
    pub async fn stop(mut self) -> Self {
        self.known.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.users.join_next().await {
            ended.unwrap();
        }
        self
    }

    /// Returns the sessions whose displacement was acknowledged.
    pub fn displaced(&self) -> HashSet<String> {
        self.known.displaced.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }

    /// Returns the sessions of each user in the order of their logins.
    pub fn logins(&self) -> Vec<Vec<String>> {
        self.known.logins.lock().unwrap().clone()
    }

    pub fn unanswered(&self) -> usize {
        self.known.unanswered.lock().unwrap().len()
    }

    /// Returns the reports of the watches of displaced sessions, once all have ended.
    pub async fn watched(&self) -> Vec<(String, Ends)> {
        let watches = std::mem::take(&mut *self.known.watches.lock().unwrap());
        let mut told = Vec::new();
        for (session_id, watch) in watches {
            let ended = timeout(SOON, watch).await.unwrap().unwrap();
            told.push((session_id, ended));
        }
        told
    }

    /// Returns the longest time between the answer to a login and the report of its displacement.
    pub fn lag(&self, told: &Received) -> Duration {
        let displaced = self.known.displaced.lock().unwrap();
        let lags = displaced.iter().map(|(id, answered)| {
            let ended = told.ended.iter().find(|ended| ended.session_id == *id).unwrap();
            ended.told.saturating_duration_since(*answered)
        });
        lags.max().unwrap_or_default()
    }
}

struct User {
    id: String,
    servers: Vec<Client>,
    watching: Vec<Client>,
    known: Arc<Known>,
}

impl User {
    async fn log_in_again_and_again(self) {
        let mut logins = Vec::new();
        loop {
            let last = self.known.over.load(Ordering::Relaxed);
            match self.log_in().await {
                // This session is still live.
                Ok(_) if last => break,
                Ok(answer) => {
                    let session_id = answer.session.unwrap().session_id;
                    for client in &self.watching {
                        self.watch(client, &session_id, &answer.token).await;
                    }
                    logins.push(session_id);
                    tokio::time::sleep(STAY.mul_f64(rand::random())).await;
                }
                Err(status) => {
                    self.known.unanswered.lock().unwrap().push(status);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        self.known.logins.lock().unwrap().push(logins);
    }

    async fn log_in(&self) -> Result<IssueSessionResponse, Status> {
        let client = &self.servers[rand::random_range(0..self.servers.len())];
        let message = IssueSessionRequest { user_id: self.id.clone(), ..Default::default() };
        let answer = client.try_issue(message).await?;
        let now = Instant::now();
        let displaced = answer.displaced.iter().map(|session| (session.session_id.clone(), now));
        self.known.displaced.lock().unwrap().extend(displaced);
        Ok(answer)
    }

    /// Watches a session unless the watch cannot start.
    async fn watch(&self, client: &Client, session_id: &str, token: &str) {
        let begun = async {
            let mut stream = client.watch_stream(token).await?;
            Ok::<_, Status>((stream.message().await?, stream))
        };
        let (first, mut stream) = match begun.await {
            Ok(begun) => begun,
            Err(status) => {
                // A watch may fail only at its start.
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert_eq!(status.get_details_error_info().unwrap().reason, "STORE_UNAVAILABLE");
                return;
            }
        };
        assert!(matches!(first.unwrap().verdict, Some(Verdict::Session(_))));
        let watching = tokio::spawn(async move {
            let mut told = Vec::new();
            while let Some(message) = stream.message().await? {
                match message.verdict {
                    Some(Verdict::Rejection(rejection)) => told.push(rejection.reason()),
                    other => panic!("in the middle: {other:?}"),
                }
            }
            Ok(told)
        });
        self.known.watches.lock().unwrap().push((session_id.to_owned(), watching));
    }
}
