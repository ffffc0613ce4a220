//! The part of a guard that its clones share: validation with singleflight and cache, the feed and the watchers.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::{task::AbortHandle, time::timeout};
use tonic::Code;

use super::{
    cache::{Cache, LiveVerdict, TokenDigest},
    feed,
    session_watchers::{SessionWatchers, StreamEndReceiver},
    singleflight::{Joined, Singleflight, ValidateResult},
    validate_stream::ValidateStream,
    wall_clock,
};
use crate::{Client, Identity, Unavailable, ValidateOptions, Verdict};

/// Validates tokens and watches sessions.
pub(super) struct Checker {
    validator: Arc<ValidateStream>,
    calls: Singleflight,
    cache: Arc<Cache>,
    watchers: Arc<SessionWatchers>,
    feed: OnceLock<AbortHandle>,
}

impl Checker {
    pub(super) fn new(client: Client) -> Self {
        Self {
            validator: Arc::new(ValidateStream::new(client)),
            calls: Singleflight::default(),
            cache: Arc::new(Cache::new()),
            watchers: Arc::new(SessionWatchers::new()),
            feed: OnceLock::new(),
        }
    }

    /// Starts to follow the revocation feed, unless it is followed already.
    pub(super) fn follow_feed(&self) {
        self.feed.get_or_init(|| {
            let client = self.validator.client().clone();
            let follow = feed::follow(client, Arc::clone(&self.cache), Arc::clone(&self.watchers));
            tokio::spawn(follow).abort_handle()
        });
    }

    /// Validates a token like [`Client::validate`], from the cache if it may be used.
    pub(super) async fn validate(self: &Arc<Self>, token: &str, options: ValidateOptions) -> ValidateResult {
        let digest = TokenDigest::of(token);
        let now = Instant::now();
        let is_cache_current = self.cache.begin_read(now).is_some();
        let cache_age = options.max_staleness.filter(|age| is_cache_current && !age.is_zero());
        if let Some(max_staleness) = cache_age
            && let Some(identity) = self.cache.get(&digest, options.peek, max_staleness, now)
        {
            return Ok(Verdict::Live(identity));
        }
        // The age of a cached verdict is counted from its validation, so Latchkey must not answer with an older one.
        let options = match cache_age {
            Some(_) => ValidateOptions { max_staleness: Some(Duration::ZERO), ..options },
            None => options,
        };
        let receiver = match self.calls.join((digest, options), now, cache_age.unwrap_or_default()) {
            Joined::Leader(receiver) => {
                // The validation runs in its own task, because the request can be cancelled while others wait.
                tokio::spawn(Arc::clone(self).lead(digest, options, token.to_owned()));
                receiver
            }
            Joined::Follower(receiver) => receiver,
        };
        let limit = self.validator.client().timeout;
        match timeout(limit, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Unavailable::new(Code::Internal, "the validation was aborted")),
            Err(_) => Err(Unavailable::timed_out(limit)),
        }
    }

    /// Returns a receiver for the end of the session.
    pub(super) fn watch(
        &self,
        token: &Arc<str>,
        identity: &Identity,
        outage_grace: Duration,
    ) -> StreamEndReceiver {
        self.watchers.watch(&self.validator, token, &identity.session_id, outage_grace)
    }

    /// Runs validations as long as requests wait for one.
    async fn lead(self: Arc<Self>, digest: TokenDigest, options: ValidateOptions, token: String) {
        let is_cacheable = options.max_staleness == Some(Duration::ZERO);
        loop {
            let (sent, sent_at) = (Instant::now(), wall_clock());
            let read = self.cache.begin_read(sent);
            let result = self.validator.validate(&token, options).await;
            if let (Some(read), Ok(Verdict::Live(identity)), true) = (read, &result, is_cacheable) {
                let verdict =
                    LiveVerdict { identity: identity.clone(), sent, sent_at, is_use: !options.peek };
                self.cache.insert(read, digest, verdict);
            }
            if !self.calls.complete(&(digest, options), &result, Instant::now()) {
                return;
            }
        }
    }
}

/// The feed ends with the last clone of the guard.
impl Drop for Checker {
    fn drop(&mut self) {
        if let Some(feed) = self.feed.get() {
            feed.abort();
        }
    }
}
