//! The connections to the replicas of Latchkey, and the retries over them.
//!
//! tonic has neither a service config nor retries: a call that meets a connection as it ends fails, even if it was
//! never sent. The numbers here are those of `proto/latchkey/v1/service_config.json`, which other clients carry.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, ConnectError, Response, Status, transport::Channel};

use crate::jitter;

/// The maximum number of attempts of a call, including the first one.
const MAX_ATTEMPTS: u32 = 4;
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// The size of the retry budget. A failed attempt takes a token and a success returns one. Below half of the tokens
/// nothing is retried, so that an outage is not met with four times the load.
const MAX_TOKENS: i64 = 1000;
/// How long a replica whose connection has failed is avoided while there are others.
const AVOIDED_FOR: Duration = Duration::from_secs(1);

/// Which failed calls are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// All that may succeed on another replica. The call is safe to repeat.
    Safe,
    /// Those that were not sent because no connection could be opened.
    Unsent,
}

/// Channels to one or more replicas. Calls take turns.
#[derive(Debug)]
pub(super) struct Replicas {
    channels: Box<[Replica]>,
    next: AtomicUsize,
    tokens: AtomicI64,
    created: Instant,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) channel: Channel,
    /// Milliseconds from the creation of `Replicas` until which the replica is avoided.
    avoided_until: AtomicU64,
}

impl Replicas {
    /// Creates the replicas from at least one channel.
    pub(super) fn new(channels: impl IntoIterator<Item = Channel>) -> Arc<Self> {
        let channels =
            channels.into_iter().map(|channel| Replica { channel, avoided_until: AtomicU64::new(0) });
        Arc::new(Self {
            channels: channels.collect(),
            next: AtomicUsize::new(0),
            tokens: AtomicI64::new(MAX_TOKENS),
            created: Instant::now(),
        })
    }

    /// Chooses the replica of the next call: in turn, and preferably one that has not just failed.
    pub(super) fn pick(&self) -> &Replica {
        if let [only] = &*self.channels {
            return only;
        }
        let (before, after) = self.channels.split_at(self.next.fetch_add(1, Relaxed) % self.channels.len());
        let now = self.elapsed();
        let mut in_turn = after.iter().chain(before);
        in_turn.find(|replica| replica.avoided_until.load(Relaxed) <= now).unwrap_or(&after[0])
    }

    /// Sends a call until it succeeds, fails for good, or the next attempt would exceed the deadline. `None` means that
    /// the deadline passed during an attempt.
    pub(super) async fn call<T, F>(
        &self,
        deadline: Instant,
        retry: Option<Retry>,
        call: impl Fn(Channel) -> F,
    ) -> Option<Result<T, Status>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut attempts = 0;
        loop {
            let replica = self.pick();
            let status = match timeout_at(deadline, call(replica.channel.clone())).await.ok()? {
                Ok(response) => {
                    self.succeeded();
                    return Some(Ok(response.into_inner()));
                }
                Err(status) => status,
            };
            attempts += 1;
            let may_retry = self.failed(replica, &status);
            let backoff = backoff(attempts);
            if !may_retry
                || !retry.is_some_and(|retry| retry.includes(&status))
                || attempts >= MAX_ATTEMPTS
                || Instant::now() + backoff >= deadline
            {
                return Some(Err(status));
            }
            sleep(backoff).await;
        }
    }

    fn succeeded(&self) {
        // Read first: usually all tokens are there, and nothing has to be written.
        if self.tokens.load(Relaxed) < MAX_TOKENS {
            self.tokens.fetch_add(1, Relaxed);
        }
    }

    /// Records that a call failed. Returns whether the budget allows a retry.
    pub(super) fn failed(&self, replica: &Replica, status: &Status) -> bool {
        if !is_unavailable(status) {
            self.succeeded();
            return true;
        }
        // An error that Latchkey sent comes over a connection that works.
        if status.source().is_some() {
            let until = self.elapsed().saturating_add(millis(AVOIDED_FOR));
            replica.avoided_until.store(until, Relaxed);
        }
        let take = |tokens: i64| Some((tokens - 1).max(0));
        self.tokens.fetch_update(Relaxed, Relaxed, take).is_ok_and(|tokens| tokens > MAX_TOKENS / 2)
    }

    fn elapsed(&self) -> u64 {
        millis(self.created.elapsed())
    }
}

impl Retry {
    fn includes(self, status: &Status) -> bool {
        match self {
            Self::Safe => is_unavailable(status),
            Self::Unsent => is_unsent(status),
        }
    }
}

/// Whether another attempt may succeed: UNAVAILABLE, or a broken connection, for which tonic has several codes. A status
/// that the server sent has no source.
fn is_unavailable(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => status.source().is_some(),
        _ => false,
    }
}

/// Whether the call was not sent because no connection could be opened.
fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn backoff(attempts: u32) -> Duration {
    jitter::equal(INITIAL_BACKOFF.saturating_mul(1 << (attempts - 1)).min(MAX_BACKOFF))
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::AtomicU32,
    };

    use tonic::transport::Endpoint;

    use super::*;

    fn replicas(count: usize) -> Arc<Replicas> {
        Replicas::new((0..count).map(|_| Endpoint::from_static("http://127.0.0.1:1").connect_lazy()))
    }

    fn in_a_minute() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    fn broken() -> Status {
        Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)))
    }

    /// Counts the attempts of a call that always fails.
    async fn attempts(replicas: &Replicas, retry: Option<Retry>, status: fn() -> Status) -> u32 {
        let attempts = AtomicU32::new(0);
        let call = |_| {
            attempts.fetch_add(1, Relaxed);
            ready(Err::<Response<()>, _>(status()))
        };
        replicas.call(in_a_minute(), retry, call).await.unwrap().unwrap_err();
        attempts.into_inner()
    }

    #[tokio::test]
    async fn only_unavailable_calls_that_are_safe_are_repeated() {
        let replicas = replicas(1);
        let unsent = || Status::from_error(Box::new(ConnectError("refused".into())));
        for (retry, status, expected) in [
            (Some(Retry::Safe), (|| Status::unavailable("")) as fn() -> Status, MAX_ATTEMPTS),
            (Some(Retry::Safe), broken, MAX_ATTEMPTS),
            (Some(Retry::Safe), || Status::internal("sent by the server"), 1),
            (Some(Retry::Safe), || Status::resource_exhausted(""), 1),
            (Some(Retry::Unsent), unsent, MAX_ATTEMPTS),
            (Some(Retry::Unsent), broken, 1),
            (None, unsent, 1),
        ] {
            assert_eq!(attempts(&replicas, retry, status).await, expected, "{retry:?} {:?}", status());
        }
    }

    #[tokio::test]
    async fn a_retry_beyond_the_deadline_does_not_take_place() {
        let call = |_| ready(Err::<Response<()>, _>(Status::unavailable("")));
        let deadline = Instant::now() + INITIAL_BACKOFF / 2;
        let status = replicas(1).call(deadline, Some(Retry::Safe), call).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(Instant::now() < deadline);
    }

    #[tokio::test]
    async fn a_call_without_an_answer_ends_at_the_deadline() {
        let call = |_| pending::<Result<Response<()>, Status>>();
        let deadline = Instant::now() + Duration::from_millis(10);
        assert!(replicas(1).call(deadline, Some(Retry::Safe), call).await.is_none());
    }

    #[tokio::test]
    async fn an_outage_uses_up_the_budget_and_successes_refill_it() {
        let replicas = replicas(1);
        let may_retry = || replicas.failed(replicas.pick(), &broken());
        let allowed = (0..2 * MAX_TOKENS).filter(|_| may_retry()).count();
        assert_eq!(allowed, usize::try_from(MAX_TOKENS / 2).unwrap());
        for _ in 0..2 * MAX_TOKENS {
            replicas.succeeded();
        }
        assert_eq!(replicas.tokens.load(Relaxed), MAX_TOKENS);
        assert!(may_retry());
    }

    #[tokio::test]
    async fn calls_take_turns_and_avoid_a_replica_that_has_failed() {
        let replicas = replicas(3);
        let position = |replica: &Replica| replicas.channels.iter().position(|it| std::ptr::eq(it, replica));
        let picks = || (0..6).map(|_| position(replicas.pick()).unwrap()).collect::<Vec<_>>();
        assert_eq!(picks(), [0, 1, 2, 0, 1, 2]);
        replicas.failed(&replicas.channels[1], &Status::unavailable("the store is down"));
        assert_eq!(picks(), [0, 1, 2, 0, 1, 2], "its connection works");
        replicas.failed(&replicas.channels[1], &broken());
        assert!(!picks().contains(&1));
        let until = replicas.channels[1].avoided_until.swap(0, Relaxed);
        assert!((1000..=millis(AVOIDED_FOR) + replicas.elapsed()).contains(&until), "{until}");
        assert!(picks().contains(&1));
        for replica in &replicas.channels {
            replicas.failed(replica, &broken());
        }
        assert_eq!(picks(), [0, 1, 2, 0, 1, 2], "there is no better one");
    }

    #[test]
    fn the_numbers_are_those_of_the_service_config() {
        let config = include_str!("../../../proto/latchkey/v1/service_config.json");
        let config: serde_json::Value = serde_json::from_str(config).unwrap();
        let throttling = &config["retryThrottling"];
        assert_eq!(throttling["maxTokens"], MAX_TOKENS);
        assert_eq!(throttling["tokenRatio"], 1);
        let seconds = |duration: Duration| format!("{}s", duration.as_secs_f64());
        for method in config["methodConfig"].as_array().unwrap() {
            let policy = &method["retryPolicy"];
            assert_eq!(policy["maxAttempts"], MAX_ATTEMPTS);
            assert_eq!(policy["initialBackoff"], seconds(INITIAL_BACKOFF));
            assert_eq!(policy["maxBackoff"], seconds(MAX_BACKOFF));
            assert_eq!(policy["backoffMultiplier"], 2);
            assert_eq!(policy["retryableStatusCodes"], serde_json::json!(["UNAVAILABLE"]));
        }
    }
}
