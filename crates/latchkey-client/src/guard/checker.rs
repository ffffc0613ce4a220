//! Who a token is, from memory or from Latchkey. What copies of a guard share.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::timeout,
};
use tonic::Code;

use super::{
    cache::{Cache, CachedVerdict, TokenDigest},
    feed,
    session_watchers::{End, SessionWatchers},
    singleflight::{Outcome, Singleflight, Ticket},
    stream::Asker,
    wall_clock,
};
use crate::{Client, Identity, Unavailable, ValidateOptions};

/// Asks, and remembers.
pub(super) struct Checker {
    asker: Arc<Asker>,
    flights: Singleflight,
    cache: Arc<Cache>,
    endings: Arc<SessionWatchers>,
    feed: OnceLock<AbortHandle>,
}

impl Checker {
    pub(super) fn new(client: Client) -> Self {
        Self {
            asker: Arc::new(Asker::new(client)),
            flights: Singleflight::default(),
            cache: Arc::new(Cache::new()),
            endings: Arc::new(SessionWatchers::new()),
            feed: OnceLock::new(),
        }
    }

    /// Reads the revocation feed from now on.
    pub(super) fn follow_feed(&self) {
        self.feed.get_or_init(|| {
            let client = self.asker.client().clone();
            let following = feed::follow(client, Arc::clone(&self.cache), Arc::clone(&self.endings));
            tokio::spawn(following).abort_handle()
        });
    }

    /// What is true of a token: as [`Client::validate`], but that questions are shared, and a yes can come from
    /// memory.
    pub(super) async fn check(self: &Arc<Self>, token: &str, ask: ValidateOptions) -> Outcome {
        let digest = TokenDigest::of(token);
        let now = Instant::now();
        let caches = self.cache.begin(now).and(ask.max_staleness).filter(|age| !age.is_zero());
        if let Some(age) = caches
            && let Some(identity) = self.cache.get(&digest, ask.peek, age, now)
        {
            return Ok(Ok(identity));
        }
        // What is to be remembered for as long as it may be old must not be old to begin with.
        let asked = if caches.is_some() {
            ValidateOptions { max_staleness: Some(Duration::ZERO), ..ask }
        } else {
            ask
        };
        let limit = self.asker.client().timeout;
        let outcome = match self.flights.join((digest, asked), now, caches.unwrap_or_default()) {
            Ticket::First(outcome) => {
                // In a task of its own: who asks first may hang up before the others.
                tokio::spawn(Arc::clone(self).fly(digest, asked, token.to_owned()));
                outcome
            }
            Ticket::Other(outcome) => outcome,
        };
        landed(outcome, limit).await
    }

    /// From where the end of a session comes.
    pub(super) fn watch(
        &self,
        token: &Arc<str>,
        identity: &Identity,
        grace: Duration,
    ) -> watch::Receiver<Option<End>> {
        self.endings.watch(&self.asker, token, &identity.session_id, grace)
    }

    /// Asks for as long as somebody wants to know.
    async fn fly(self: Arc<Self>, digest: TokenDigest, ask: ValidateOptions, token: String) {
        loop {
            let (asked, asked_at) = (Instant::now(), wall_clock());
            let ticket = self.cache.begin(asked);
            let outcome = self.asker.ask(&token, ask).await;
            // Only what was not old when it was answered.
            let strict = ask.max_staleness == Some(Duration::ZERO);
            if let (Some(ticket), Ok(Ok(identity)), true) = (ticket, &outcome, strict) {
                let yes = CachedVerdict { identity: identity.clone(), asked, asked_at, used: !ask.peek };
                self.cache.keep(ticket, digest, yes);
            }
            if !self.flights.land(&(digest, ask), &outcome, Instant::now()) {
                return;
            }
        }
    }
}

/// The feed ends with the last copy of the guard.
impl Drop for Checker {
    fn drop(&mut self) {
        if let Some(feed) = self.feed.get() {
            feed.abort();
        }
    }
}

async fn landed(outcome: oneshot::Receiver<Outcome>, limit: Duration) -> Outcome {
    match timeout(limit, outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Unavailable::new(Code::Internal, "the question was given up")),
        Err(_) => Err(Unavailable::too_slow(limit)),
    }
}
