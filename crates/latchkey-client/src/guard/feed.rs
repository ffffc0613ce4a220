//! The revocation feed, as a guard reads it: what has ended is forgotten at once, and its streams end.
//!
//! While it is not heard, nothing is told from memory: it breaks, falls silent for longer than its heartbeats allow,
//! or says that something was missed.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    cache::{Cache, SILENCE},
    session_watchers::{End, SessionWatchers},
};
use crate::Client;
use crate::proto::{self as pb, watch_sessions_response::Event};

/// How long to wait before the feed is opened again, at first and at most, where Latchkey does not say.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// The same where it will not give it to this caller.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Reads the feed for as long as the guard lives.
pub(super) async fn follow(client: Client, cache: Arc<Cache>, endings: Arc<SessionWatchers>) {
    let mut reader = Reader { client, cache, endings, cursor: String::new() };
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let status = reader.read().await.err().unwrap_or_else(|| Status::unavailable("the feed has ended"));
        reader.lost();
        if begun.elapsed() > PAUSES.1 {
            failures = 0;
        }
        let pause = reader.pause(&status, failures);
        if failures == 0 {
            tracing::warn!(
                error.message = status.message(),
                "the revocation feed is lost: nothing is cached"
            );
        }
        failures = failures.saturating_add(1);
        sleep(pause).await;
    }
}

struct Reader {
    client: Client,
    cache: Arc<Cache>,
    endings: Arc<SessionWatchers>,
    /// Of the last message.
    cursor: String,
}

impl Reader {
    async fn read(&mut self) -> Result<(), Status> {
        let request = pb::WatchSessionsRequest { after: self.cursor.clone(), ..Default::default() };
        let late = |_| Status::deadline_exceeded("the feed is silent");
        let mut sessions = self.client.sessions();
        let mut feed = timeout(SILENCE, sessions.watch_sessions(request)).await.map_err(late)??.into_inner();
        while let Some(message) = timeout(SILENCE, feed.message()).await.map_err(late)?? {
            self.take(message);
        }
        Ok(())
    }

    fn take(&mut self, message: pb::WatchSessionsResponse) {
        self.cursor = message.cursor;
        match message.event {
            Some(Event::Heartbeat(_)) => self.heard(),
            Some(Event::Ended(ended)) => {
                self.cache.ended(&ended.session_id);
                let rejection = ended.rejection.unwrap_or_default();
                self.endings.end(&ended.session_id, &End::Rejected(rejection.into()));
                self.heard();
            }
            // Sessions that have been opened since live: whose streams run asks.
            Some(Event::Everyone(_)) => {
                self.cache.lose_sight();
                self.endings.look_again();
                self.heard();
            }
            // What is not known means that something was missed, too. Nothing is told from memory until it is clear
            // that the feed goes on.
            Some(Event::Resync(_)) | None => {
                self.cache.lose_sight();
                self.endings.look_again();
            }
        }
    }

    fn heard(&self) {
        self.cache.heard(Instant::now().into_std());
        self.endings.sees(true);
    }

    fn lost(&self) {
        self.cache.lose_sight();
        self.endings.sees(false);
    }

    fn pause(&mut self, status: &Status, failures: u32) -> Duration {
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let whole = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                tracing::error!(
                    error.message = status.message(),
                    "Latchkey gives this guard no revocation feed: it takes a caller key with the role `operator`"
                );
                REFUSED_PAUSE
            }
            Code::InvalidArgument => {
                // A cursor of another store.
                self.cursor.clear();
                PAUSES.0
            }
            _ => PAUSES.0.saturating_mul(2_u32.saturating_pow(failures)).min(PAUSES.1),
        };
        let whole = whole.max(asked.unwrap_or_default());
        // So that all who have lost the same server do not come back at the same moment.
        whole / 2 + (whole / 2).mul_f64(rand::random_range(0.0..1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::Identity;
    use crate::guard::cache::{CachedVerdict, TokenDigest};

    fn reader() -> Reader {
        Reader {
            client: Client::connect("127.0.0.1:1").unwrap(),
            cache: Arc::new(Cache::new()),
            endings: Arc::new(SessionWatchers::new()),
            cursor: String::new(),
        }
    }

    fn tell(reader: &mut Reader, event: Option<Event>) {
        reader.take(pb::WatchSessionsResponse { cursor: "c".into(), event });
    }

    fn ended(session_id: &str) -> Event {
        Event::Ended(pb::EndedSession { session_id: session_id.into(), ..Default::default() })
    }

    /// Whether the session `s` is remembered, once it has been asked about; None where nothing may be.
    fn remembers(reader: &Reader, ask: bool) -> Option<bool> {
        let (now, digest) = (Instant::now().into_std(), TokenDigest::of("token"));
        let ticket = reader.cache.begin(now)?;
        if ask {
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
            let yes = CachedVerdict { identity, asked: now, asked_at: at(0), used: true };
            reader.cache.keep(ticket, digest, yes);
        }
        Some(reader.cache.get(&digest, false, Duration::from_secs(30), now).is_some())
    }

    #[tokio::test]
    async fn what_the_feed_says_is_what_is_forgotten() {
        let mut reader = reader();
        let heartbeat = || Some(Event::Heartbeat(pb::Heartbeat::default()));
        assert_eq!(remembers(&reader, true), None, "it has not been heard yet");
        tell(&mut reader, heartbeat());
        assert_eq!(reader.cursor, "c");
        assert_eq!(remembers(&reader, true), Some(true));
        tell(&mut reader, Some(ended("another")));
        assert_eq!(remembers(&reader, false), Some(true));
        tell(&mut reader, Some(ended("s")));
        assert_eq!(remembers(&reader, false), Some(false));

        // Something was missed, or is not known: nothing is remembered until the feed goes on.
        for missed in [Some(Event::Resync(pb::Resync {})), None] {
            assert_eq!(remembers(&reader, true), Some(true));
            tell(&mut reader, missed);
            assert_eq!(remembers(&reader, true), None);
            tell(&mut reader, heartbeat());
            assert_eq!(remembers(&reader, false), Some(false));
        }
        assert_eq!(remembers(&reader, true), Some(true));
        tell(&mut reader, Some(Event::Everyone(pb::EndedEveryone::default())));
        assert_eq!(remembers(&reader, false), Some(false));
        assert_eq!(remembers(&reader, true), Some(true));
        reader.lost();
        assert_eq!(remembers(&reader, true), None);
    }
}
