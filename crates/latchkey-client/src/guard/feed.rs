//! The revocation feed: it removes ended sessions from the cache and ends their streams.
//!
//! The feed counts as interrupted when its stream fails, is silent for longer than [`FEED_TIMEOUT`], or reports missed
//! events. The cache is not used then.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    cache::{Cache, FEED_TIMEOUT},
    session_watchers::{SessionWatchers, StreamEnd},
};
use crate::proto::{self as pb, watch_sessions_response::Event};
use crate::{Client, jitter};

const MIN_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// The backoff after Latchkey has refused the feed to this caller.
const REFUSED_BACKOFF: Duration = Duration::from_secs(30);

/// Follows the feed until the task is aborted.
pub(super) async fn follow(client: Client, cache: Arc<Cache>, watchers: Arc<SessionWatchers>) {
    let mut feed = Feed { client, cache, watchers, cursor: String::new() };
    let mut failures = 0;
    loop {
        let opened = Instant::now();
        let status = feed.read().await.err().unwrap_or_else(|| Status::unavailable("the feed has ended"));
        feed.disconnected();
        if opened.elapsed() > MAX_BACKOFF {
            failures = 0;
        }
        let backoff = feed.backoff(&status, failures);
        if failures == 0 {
            tracing::warn!(
                error.message = status.message(),
                "revocation feed interrupted, verdicts are not cached"
            );
        }
        failures = failures.saturating_add(1);
        sleep(backoff).await;
    }
}

struct Feed {
    client: Client,
    cache: Arc<Cache>,
    watchers: Arc<SessionWatchers>,
    /// The cursor of the latest message, with which the feed is resumed.
    cursor: String,
}

impl Feed {
    async fn read(&mut self) -> Result<(), Status> {
        let request = pb::WatchSessionsRequest { after: self.cursor.clone(), ..Default::default() };
        let silent = |_| Status::deadline_exceeded(format!("no message within {FEED_TIMEOUT:?}"));
        let mut sessions = self.client.sessions();
        let response = timeout(FEED_TIMEOUT, sessions.watch_sessions(request)).await.map_err(silent)??;
        let mut messages = response.into_inner();
        while let Some(message) = timeout(FEED_TIMEOUT, messages.message()).await.map_err(silent)?? {
            self.handle(message);
        }
        Ok(())
    }

    fn handle(&mut self, message: pb::WatchSessionsResponse) {
        self.cursor = message.cursor;
        match message.event {
            Some(Event::Heartbeat(_)) => self.connected(),
            Some(Event::Ended(ended)) => {
                self.cache.session_ended(&ended.session_id);
                let rejection = ended.rejection.unwrap_or_default();
                self.watchers.end(&ended.session_id, &StreamEnd::Rejected(rejection.into()));
                self.connected();
            }
            // Sessions that were opened after the event are live, so the streams cannot be ended without a validation.
            Some(Event::Everyone(_)) => {
                self.cache.invalidate_all();
                self.watchers.recheck_all();
                self.connected();
            }
            // An unknown event means missed events, too. The cache stays unused until the next message.
            Some(Event::Resync(_)) | None => {
                self.cache.invalidate_all();
                self.watchers.recheck_all();
            }
        }
    }

    fn connected(&self) {
        self.cache.feed_received(Instant::now().into_std());
        self.watchers.set_feed_connected(true);
    }

    fn disconnected(&self) {
        self.cache.invalidate_all();
        self.watchers.set_feed_connected(false);
    }

    /// Returns the delay before the feed is opened again.
    fn backoff(&mut self, status: &Status, failures: u32) -> Duration {
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let backoff = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                tracing::error!(
                    error.message = status.message(),
                    "revocation feed refused, it requires a caller key with the role operator"
                );
                REFUSED_BACKOFF
            }
            Code::InvalidArgument => {
                // The cursor belongs to another store.
                self.cursor.clear();
                MIN_BACKOFF
            }
            _ => MIN_BACKOFF.saturating_mul(2_u32.saturating_pow(failures)).min(MAX_BACKOFF),
        };
        jitter::equal(backoff.max(retry_after.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use tonic_types::ErrorDetails;

    use super::*;
    use crate::Identity;
    use crate::guard::cache::{LiveVerdict, TokenDigest};

    fn feed() -> Feed {
        Feed {
            client: Client::connect("127.0.0.1:1").unwrap(),
            cache: Arc::new(Cache::new()),
            watchers: Arc::new(SessionWatchers::new()),
            cursor: String::new(),
        }
    }

    fn handle(feed: &mut Feed, event: impl Into<Option<Event>>) {
        feed.handle(pb::WatchSessionsResponse { cursor: "c".into(), event: event.into() });
    }

    fn heartbeat() -> Event {
        Event::Heartbeat(pb::Heartbeat::default())
    }

    fn ended(session_id: &str) -> Event {
        Event::Ended(pb::EndedSession { session_id: session_id.into(), ..Default::default() })
    }

    /// Inserts the session `s` into the cache. Returns false if nothing may be cached.
    fn insert(feed: &Feed) -> bool {
        let now = Instant::now().into_std();
        let Some(read) = feed.cache.begin_read(now) else { return false };
        let at = |seconds| -> SystemTime { UNIX_EPOCH + Duration::from_secs(seconds) };
        let identity = Identity {
            session_id: "s".into(),
            user_id: "u".into(),
            username: "anna".into(),
            slot: "default".into(),
            device: "".into(),
            roles: [].into(),
            issued_at: at(0),
            expires_at: at(86_400),
            idle_expires_at: at(3600),
        };
        let verdict = LiveVerdict { identity, sent: now, sent_at: at(0), is_use: true };
        feed.cache.insert(read, TokenDigest::of("token"), verdict);
        true
    }

    fn is_cached(feed: &Feed) -> bool {
        let (now, digest) = (Instant::now().into_std(), TokenDigest::of("token"));
        feed.cache.get(&digest, false, Duration::from_secs(30), now).is_some()
    }

    #[tokio::test]
    async fn nothing_is_cached_before_the_first_message() {
        let mut feed = feed();
        assert!(!insert(&feed));
        handle(&mut feed, heartbeat());
        assert_eq!(feed.cursor, "c");
        assert!(insert(&feed) && is_cached(&feed));
    }

    #[tokio::test]
    async fn an_ended_session_is_removed_and_others_stay() {
        let mut feed = feed();
        handle(&mut feed, heartbeat());
        assert!(insert(&feed));
        handle(&mut feed, ended("another"));
        assert!(is_cached(&feed));
        handle(&mut feed, ended("s"));
        assert!(!is_cached(&feed));
    }

    #[tokio::test]
    async fn after_missed_or_unknown_events_nothing_is_cached_until_the_next_message() {
        let mut feed = feed();
        handle(&mut feed, heartbeat());
        for event in [Some(Event::Resync(pb::Resync {})), None] {
            assert!(insert(&feed) && is_cached(&feed));
            handle(&mut feed, event);
            assert!(!insert(&feed));
            handle(&mut feed, heartbeat());
            assert!(!is_cached(&feed));
        }
    }

    #[tokio::test]
    async fn the_end_of_all_sessions_empties_the_cache() {
        let mut feed = feed();
        handle(&mut feed, heartbeat());
        assert!(insert(&feed));
        handle(&mut feed, Event::Everyone(pb::EndedEveryone::default()));
        assert!(!is_cached(&feed));
        assert!(insert(&feed) && is_cached(&feed), "sessions that were opened since are cached");
    }

    #[tokio::test]
    async fn nothing_is_cached_while_the_feed_is_disconnected() {
        let mut feed = feed();
        handle(&mut feed, heartbeat());
        assert!(insert(&feed));
        feed.disconnected();
        assert!(!is_cached(&feed) && !insert(&feed));
    }

    #[tokio::test]
    async fn the_backoff_grows_and_heeds_the_server() {
        let mut feed = feed();
        let mut in_range = |status: &Status, failures: u32, expected: Duration| {
            let backoff = feed.backoff(status, failures);
            assert!(backoff >= expected / 2 && backoff <= expected, "{backoff:?} is not near {expected:?}");
        };
        let unavailable = Status::unavailable("");
        in_range(&unavailable, 0, MIN_BACKOFF);
        in_range(&unavailable, 2, MIN_BACKOFF * 4);
        in_range(&unavailable, u32::MAX, MAX_BACKOFF);
        in_range(&Status::permission_denied(""), 0, REFUSED_BACKOFF);
        let minute = Duration::from_mins(1);
        let details = ErrorDetails::with_retry_info(Some(minute));
        in_range(&Status::with_error_details(Code::Unavailable, "", details), 0, minute);
    }

    #[tokio::test]
    async fn a_cursor_that_the_server_rejects_is_dropped() {
        let mut feed = feed();
        handle(&mut feed, heartbeat());
        feed.backoff(&Status::invalid_argument(""), 0);
        assert_eq!(feed.cursor, "");
    }
}
