//! `WatchSession`: notifies the holder of a token when its session ends.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Engine, Error,
    ports::StoreError,
    rejection::Rejection,
    session_events::{Signal, Waiter, WatchPermit},
    types::Claims,
    validate::{LiveSession, Verdict},
};
use crate::isolation::log_limiter::LogLimiter;

/// The longest pause before a store that did not answer is read again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A watch of one session.
pub struct SessionWatch {
    engine: Arc<Engine>,
    claims: Arc<Claims>,
    waiter: Waiter,
    _permits: (OwnedSemaphorePermit, WatchPermit),
}

impl Engine {
    /// Returns the session of a token and a watch for its end. A watch does not count as a use of the session.
    pub async fn watch_session(self: &Arc<Self>, token: &str) -> Result<(LiveSession, SessionWatch), Error> {
        let claims = self.tokens.claims(token).await?;
        let permits = self.events.reserve_watch(&claims)?;
        // The waiter is added before the session is read, so that an end in between is not missed.
        let waiter = self.events.waiters().add(&claims);
        let session = match self.read_watched(&claims, &waiter).await? {
            Verdict::Live(session) => session,
            Verdict::Rejected(rejection) => return Err(Error::Rejected(rejection)),
        };
        Ok((session, SessionWatch { engine: Arc::clone(self), claims, waiter, _permits: permits }))
    }

    /// Judges a watched session by the store and updates its waiter.
    async fn read_watched(&self, claims: &Claims, waiter: &Waiter) -> Result<Verdict, Error> {
        let read = self.sessions.load(&claims.user_id).await?;
        let verdict = {
            let known = self.sessions.epoch().known().await?;
            let verdict = read.state.verdict(claims, self.sessions.at(&known));
            verdict.map(|session| LiveSession::of(&claims.user_id, &read.state, session, None))
        };
        if let Ok(session) = verdict {
            waiter.update(session.session());
            return Ok(Verdict::Live(session));
        }
        self.detect_rollback(claims, &read).await?;
        match self.record_lapse(claims, read).await? {
            Some(rejection) => Ok(Verdict::Rejected(rejection)),
            // It was used meanwhile.
            None => Box::pin(self.read_watched(claims, waiter)).await,
        }
    }
}

impl SessionWatch {
    /// Waits for the end of the session. Returns its reason.
    pub async fn end(mut self) -> Rejection {
        loop {
            if let Signal::Ended(rejection) = self.waiter.signal().await {
                return rejection;
            }
            // Boxed, because its future is large and rarely needed.
            if let Some(rejection) = Box::pin(self.recheck()).await {
                return rejection;
            }
        }
    }

    /// Reads the session, which may have lapsed or whose event may be lost. Returns the rejection if it has ended.
    /// During an outage it tries again until the store answers, so an outage ends no watch.
    async fn recheck(&mut self) -> Option<Rejection> {
        loop {
            self.waiter = self.engine.events.waiters().add(&self.claims);
            let verdict = {
                let _permit = self.engine.events.recheck_permit().await;
                self.engine.read_watched(&self.claims, &self.waiter).await
            };
            match verdict {
                Ok(Verdict::Live(_)) => return None,
                Ok(Verdict::Rejected(rejection)) => return Some(rejection),
                Err(Error::Store(StoreError::Unavailable { .. })) => {}
                Err(error) => {
                    static READ_FAILED: LogLimiter = LogLimiter::new("failed to read a watched session", 5);
                    if READ_FAILED.admits("") {
                        tracing::error!(error.message = %error, "failed to read a watched session");
                    }
                }
            }
            tokio::time::sleep(RETRY_PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }
}
