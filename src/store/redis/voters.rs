//! Asks voters, the Sentinels or the masters of a cluster, at short intervals, each over a connection of its own.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{ProtocolVersion, RedisError, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    connect::{PushHandler, open},
    settings::{Peer, RedisSettings},
    url::Endpoint,
};

/// How often each voter is asked. The lease that an answer extends is several times as long.
const INTERVAL: Duration = Duration::from_millis(100);
/// The time limit for an answer, and for connecting.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);
/// The pause before a voter that failed is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What is known of a voter after it was asked.
#[derive(Debug)]
pub(super) enum Answer<V> {
    Vote(V),
    /// Its machine refused the connection, so it does not run.
    NotRunning,
    /// Holds the reason.
    Failed(String),
}

/// An answer, with the time just before the voter was asked.
#[derive(Debug)]
pub(super) struct Report<V> {
    pub(super) voter: Endpoint,
    pub(super) asked_at: Instant,
    pub(super) answer: Answer<V>,
}

/// Asks one voter until it is dropped.
pub(super) struct Voter {
    asking: JoinHandle<()>,
    wake: Arc<Notify>,
}

impl Drop for Voter {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

/// How to ask a voter.
pub(super) trait Question: Clone + Send + Sync + 'static {
    type Vote: Send + 'static;
    const PEER: Peer;

    /// Prepares a new connection.
    fn greet(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<(), RedisError>> + Send;

    /// Asks once.
    fn ask(
        &self,
        voter: &Endpoint,
        connection: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<Self::Vote, String>> + Send;
}

impl Voter {
    /// Starts to ask. A message that the voter pushes also causes a question.
    pub(super) fn start<Q: Question>(
        voter: Endpoint,
        question: Q,
        settings: Arc<RedisSettings>,
        reports: mpsc::UnboundedSender<Report<Q::Vote>>,
    ) -> Self {
        let wake = Arc::new(Notify::new());
        let pushed = Arc::clone(&wake);
        let asking = tokio::spawn(async move {
            loop {
                let asked_at = Instant::now();
                let answer = ask_repeatedly(&voter, &question, &settings, &pushed, &reports).await;
                if reports.send(Report { voter: voter.clone(), asked_at, answer }).is_err() {
                    return;
                }
                sleep(RETRY_PAUSE).await;
            }
        });
        Self { asking, wake }
    }

    /// Asks at once.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Asks over one connection until it fails. Returns why.
async fn ask_repeatedly<Q: Question>(
    voter: &Endpoint,
    question: &Q,
    settings: &RedisSettings,
    wake: &Arc<Notify>,
    reports: &mpsc::UnboundedSender<Report<Q::Vote>>,
) -> Answer<Q::Vote> {
    let client = match settings.client(voter, Q::PEER, ProtocolVersion::RESP3) {
        Ok(client) => client,
        Err(error) => return Answer::Failed(error),
    };
    let pushed = Arc::clone(wake);
    let push_handler: PushHandler = Arc::new(move |_| pushed.notify_one());
    let connecting = open(&client, ANSWER_TIMEOUT, ANSWER_TIMEOUT, Some(push_handler));
    let mut connection = match connecting.await {
        Ok(connection) => connection,
        Err(error) if error.is_connection_refusal() => return Answer::NotRunning,
        Err(error) => return Answer::Failed(error.to_string()),
    };
    if let Err(error) = question.greet(&mut connection).await {
        return Answer::Failed(error.to_string());
    }
    loop {
        let asked_at = Instant::now();
        match question.ask(voter, &mut connection).await {
            Ok(vote) => {
                let report = Report { voter: voter.clone(), asked_at, answer: Answer::Vote(vote) };
                if reports.send(report).is_err() {
                    return Answer::Failed("nobody listens".to_owned());
                }
            }
            Err(cause) => return Answer::Failed(cause),
        }
        // A push may come before the next interval.
        let _ = timeout(INTERVAL, wake.notified()).await;
    }
}
