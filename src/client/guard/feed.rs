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
    ending::{End, Endings},
};
use crate::client::Client;
use crate::grpc::pb::{self, watch_sessions_response::Event};

/// How long to wait before the feed is opened again, at first and at most, where Latchkey does not say.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// The same where it will not give it to this caller.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Reads the feed for as long as the guard lives.
pub(super) async fn follow(client: Client, cache: Arc<Cache>, endings: Arc<Endings>) {
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
    endings: Arc<Endings>,
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
