//! Watchers, which wait for the ends of sessions that have open streams.
//!
//! A session has one watcher while it has at least one open stream. The watcher learns of the end from the revocation
//! feed, if the guard follows it, or else from a `WatchSession` stream. If neither is available, because the feed is
//! not enabled and the limit of `WatchSession` streams is reached, it validates the token every ten seconds. It also
//! validates the token when a watch or the feed fails, because a failure says nothing about the session. No watcher
//! counts as a use of the session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use super::{log_limiter::LogLimiter, validate_stream::ValidateStream, wall_clock};
use crate::proto::{WatchSessionRequest, watch_session_response};
use crate::{Identity, Rejection, ValidateOptions, Verdict, jitter};

/// The interval of validations for sessions that can be watched in no other way.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The backoff before the first repeated validation. It doubles up to [`POLL_INTERVAL`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// The maximum number of `WatchSession` streams. They share the connection with all other calls.
const MAX_WATCHES: usize = 100;
/// The duration of a `WatchSession` stream before the session is validated again. A connection can be dead without an
/// error.
const WATCH_DURATION: Duration = Duration::from_mins(1);
/// The time over which the watchers spread their validations after a change of the feed.
const RECHECK_SPREAD: Duration = Duration::from_secs(1);

/// The reason for which a stream is ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// The session has ended.
    Rejected(Rejection),
    /// Latchkey was unavailable for longer than the outage grace.
    Outage,
}

/// Receives the reason for which the streams of a session are ended.
pub(super) type StreamEndReceiver = watch::Receiver<Option<StreamEnd>>;
type StreamEndSender = watch::Sender<Option<StreamEnd>>;

/// The watchers of all sessions with open streams.
pub(super) struct SessionWatchers {
    sessions: Mutex<HashMap<Arc<str>, Arc<StreamEndSender>>>,
    feed: watch::Sender<FeedState>,
    watch_permits: Semaphore,
}

/// The state of the revocation feed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct FeedState {
    /// Whether the feed reports the end of every session.
    is_connected: bool,
    /// The number of times that all sessions had to be validated again.
    rechecks: u64,
}

/// Waits for the end of one session.
struct Watcher {
    validator: Arc<ValidateStream>,
    token: Arc<str>,
    outage_grace: Duration,
    feed: watch::Receiver<FeedState>,
}

impl SessionWatchers {
    pub(super) fn new() -> Self {
        Self {
            sessions: Mutex::default(),
            feed: watch::Sender::new(FeedState::default()),
            watch_permits: Semaphore::new(MAX_WATCHES),
        }
    }

    /// Returns a receiver for the end of the session. The watcher stops when all receivers of the session are dropped.
    pub(super) fn watch(
        self: &Arc<Self>,
        validator: &Arc<ValidateStream>,
        token: &Arc<str>,
        session_id: &Arc<str>,
        outage_grace: Duration,
    ) -> StreamEndReceiver {
        let mut sessions = self.lock();
        if let Some(sender) = sessions.get(session_id) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        sessions.insert(Arc::clone(session_id), Arc::clone(&sender));
        drop(sessions);
        let watcher = Watcher {
            validator: Arc::clone(validator),
            token: Arc::clone(token),
            outage_grace,
            feed: self.feed.subscribe(),
        };
        tokio::spawn(run(Arc::clone(self), Arc::clone(session_id), watcher, sender));
        receiver
    }

    /// Ends the streams of a session.
    pub(super) fn end(&self, session_id: &str, end: &StreamEnd) {
        if let Some(sender) = self.lock().remove(session_id) {
            sender.send_replace(Some(end.clone()));
        }
    }

    /// Records whether the feed reports the end of every session.
    pub(super) fn set_feed_connected(&self, is_connected: bool) {
        self.feed
            .send_if_modified(|feed| std::mem::replace(&mut feed.is_connected, is_connected) != is_connected);
    }

    /// Makes all watchers validate their sessions, because events may have been missed.
    pub(super) fn recheck_all(&self) {
        self.feed.send_modify(|feed| feed.rechecks += 1);
    }

    /// Removes a session without open streams. Returns false if a stream has been opened in the meantime.
    fn remove_unused(&self, session_id: &Arc<str>, sender: &Arc<StreamEndSender>) -> bool {
        let mut sessions = self.lock();
        if sender.receiver_count() > 0 {
            return false;
        }
        // After an end, the entry can belong to a newer watcher of the same session.
        if sessions.get(session_id).is_some_and(|held| Arc::ptr_eq(held, sender)) {
            sessions.remove(session_id);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<StreamEndSender>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a watcher until the session ends or its last stream is closed.
async fn run(
    watchers: Arc<SessionWatchers>,
    session_id: Arc<str>,
    watcher: Watcher,
    sender: Arc<StreamEndSender>,
) {
    let unused = async {
        loop {
            sender.closed().await;
            if watchers.remove_unused(&session_id, &sender) {
                return;
            }
        }
    };
    tokio::select! {
        () = unused => {}
        end = watcher.wait_for_end(&watchers.watch_permits) => watchers.end(&session_id, &end),
    }
}

impl Watcher {
    async fn wait_for_end(mut self, watch_permits: &Semaphore) -> StreamEnd {
        let mut unavailable_since: Option<Instant> = None;
        let mut backoff = MIN_BACKOFF;
        loop {
            let is_feed_connected = self.feed.borrow_and_update().is_connected;
            if !is_feed_connected && let Ok(_permit) = watch_permits.try_acquire() {
                match self.watch_session().await {
                    WatchResult::Ended(rejection) => return StreamEnd::Rejected(rejection),
                    WatchResult::Interrupted => (unavailable_since, backoff) = (None, MIN_BACKOFF),
                    WatchResult::Failed => {}
                }
            }
            let options = ValidateOptions { peek: true, max_staleness: None };
            let delay = match self.validator.validate(&self.token, options).await {
                Ok(Verdict::Rejected(rejection)) => return StreamEnd::Rejected(rejection),
                Ok(Verdict::Live(identity)) => {
                    unavailable_since = None;
                    if is_feed_connected { until_deadline(&identity) } else { jitter::equal(backoff) }
                }
                Err(unavailable) => {
                    let since = *unavailable_since.get_or_insert_with(Instant::now);
                    let remaining_grace = self.outage_grace.saturating_sub(since.elapsed());
                    if remaining_grace.is_zero() {
                        static OUTAGE: LogLimiter = LogLimiter::new();
                        if OUTAGE.admits(std::time::Instant::now()) {
                            tracing::warn!(
                                error.message = %unavailable,
                                "stream ended, latchkey was unavailable for longer than the outage grace"
                            );
                        }
                        return StreamEnd::Outage;
                    }
                    jitter::equal(backoff).min(remaining_grace)
                }
            };
            backoff = (backoff * 2).min(POLL_INTERVAL);
            tokio::select! {
                () = sleep(delay) => {}
                _ = self.feed.changed() => sleep(jitter::up_to(RECHECK_SPREAD)).await,
            }
        }
    }

    /// Watches the session until it ends, the stream fails, the feed is connected, or [`WATCH_DURATION`] is over.
    async fn watch_session(&mut self) -> WatchResult {
        let Self { validator, token, feed, .. } = self;
        let response_timeout = validator.client().timeout;
        let mut auth = validator.client().auth();
        let mut is_live = false;
        let watch = async {
            let late = |_| Status::deadline_exceeded(format!("no message within {response_timeout:?}"));
            let request = WatchSessionRequest { token: token.to_string() };
            // The first message comes at once. Then the stream is silent until the session ends.
            let response = timeout(response_timeout, auth.watch_session(request)).await.map_err(late)??;
            let mut messages = response.into_inner();
            let mut message = timeout(response_timeout, messages.message()).await.map_err(late)??;
            loop {
                match message.and_then(|message| message.verdict) {
                    Some(watch_session_response::Verdict::Session(_)) => is_live = true,
                    Some(watch_session_response::Verdict::Rejection(rejection)) => {
                        return Ok(Some(rejection));
                    }
                    None => return Ok(None),
                }
                message = messages.message().await?;
            }
        };
        let result: Result<_, Status> = tokio::select! {
            result = watch => result,
            _ = feed.wait_for(|feed| feed.is_connected) => Ok(None),
            () = sleep(jitter::equal(WATCH_DURATION)) => Ok(None),
        };
        match result {
            Ok(Some(rejection)) => WatchResult::Ended(rejection.into()),
            _ if is_live => WatchResult::Interrupted,
            _ => WatchResult::Failed,
        }
    }
}

/// The result of watching a session.
enum WatchResult {
    /// The session has ended.
    Ended(Rejection),
    /// The session was live when the watch began. The watch has stopped since.
    Interrupted,
    /// The watch has reported nothing about the session.
    Failed,
}

/// Returns the time until the session can have timed out, plus a second. The session may still be live then, because
/// uses are recorded with a delay. It is validated again.
fn until_deadline(identity: &Identity) -> Duration {
    let deadline = identity.idle_expires_at.min(identity.expires_at);
    deadline.duration_since(wall_clock()).unwrap_or_default() + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    fn watch(watchers: &Arc<SessionWatchers>, outage_grace: Duration) -> StreamEndReceiver {
        let client = Client::connect("127.0.0.1:1").unwrap();
        let validator = Arc::new(ValidateStream::new(client));
        watchers.watch(&validator, &"token".into(), &"s".into(), outage_grace)
    }

    #[tokio::test]
    async fn all_streams_of_a_session_end_and_the_watcher_is_removed() {
        let watchers = Arc::new(SessionWatchers::new());
        let grace = Duration::from_mins(1);
        let mut receivers = [watch(&watchers, grace), watch(&watchers, grace)];
        assert_eq!(watchers.lock().len(), 1, "the streams share a watcher");
        let end = StreamEnd::Rejected(crate::proto::Rejection::default().into());
        watchers.end("another", &end);
        assert!(receivers[0].borrow_and_update().is_none());
        watchers.end("s", &end);
        for receiver in &mut receivers {
            assert_eq!(*receiver.borrow_and_update(), Some(end.clone()));
        }
        assert!(watchers.lock().is_empty());
    }

    #[tokio::test]
    async fn a_session_without_streams_is_removed() {
        let watchers = Arc::new(SessionWatchers::new());
        drop(watch(&watchers, Duration::from_mins(1)));
        timeout(Duration::from_secs(10), async {
            while !watchers.lock().is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn streams_end_when_the_outage_grace_is_over() {
        let watchers = Arc::new(SessionWatchers::new());
        let started = Instant::now();
        let grace = Duration::from_millis(100);
        let mut receiver = watch(&watchers, grace);
        let end = timeout(Duration::from_secs(10), receiver.wait_for(Option::is_some)).await.unwrap();
        assert_eq!(end.unwrap().as_ref(), Some(&StreamEnd::Outage));
        assert!(started.elapsed() >= grace);
    }
}
