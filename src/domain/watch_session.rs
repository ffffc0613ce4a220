//! `WatchSession`: the holder of a token learns of the end of its session when it comes.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Engine, Error,
    ports::StoreError,
    rejection::Rejection,
    session_events::{Signal, Wait, WatchPermit},
    types::Claims,
    validate::{LiveSession, Verdict},
};
use crate::isolation::log_limiter::LogLimiter;

/// How long to wait, at most, before asking a store again that does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// One who watches a session.
pub struct SessionWatch {
    engine: Arc<Engine>,
    claims: Arc<Claims>,
    ticket: Wait,
    _place: (OwnedSemaphorePermit, WatchPermit),
}

impl Engine {
    /// The session of a token as it stands, and its end when it comes. This is no use of the session.
    pub async fn watch_session(self: &Arc<Self>, token: &str) -> Result<(LiveSession, SessionWatch), Error> {
        let claims = self.tokens.claims(token).await?;
        let place = self.events.watch(&claims)?;
        // First wait, then read: what happens between is told.
        let ticket = self.events.those_waiting().wait(&claims);
        let session = match self.look(&claims, &ticket).await? {
            Verdict::Live(session) => session,
            Verdict::Rejected(rejection) => return Err(Error::Rejected(rejection)),
        };
        Ok((session, SessionWatch { engine: Arc::clone(self), claims, ticket, _place: place }))
    }

    /// How a session stands that `ticket` waits for.
    async fn look(&self, claims: &Claims, ticket: &Wait) -> Result<Verdict, Error> {
        let read = self.sessions.load(&claims.user_id).await?;
        let verdict = {
            let known = self.sessions.epoch().known().await?;
            let verdict = read.state.verdict(claims, self.sessions.at(&known));
            verdict.map(|session| LiveSession::of(&claims.user_id, &read.state, session, None))
        };
        if let Ok(session) = verdict {
            ticket.expect(session.session());
            return Ok(Verdict::Live(session));
        }
        self.detect_rollback(claims, &read).await?;
        match self.record_lapse(claims, read).await? {
            Some(rejection) => Ok(Verdict::Rejected(rejection)),
            // It has been used meanwhile.
            None => Box::pin(self.look(claims, ticket)).await,
        }
    }
}

impl SessionWatch {
    /// Why the session has ended, once it has.
    pub async fn end(mut self) -> Rejection {
        loop {
            if let Signal::Ended(rejection) = self.ticket.told().await {
                return rejection;
            }
            // Boxed, because it is large and seldom happens: who only waits does not have to hold it.
            if let Err(rejection) = Box::pin(self.look_again()).await {
                return rejection;
            }
        }
    }

    /// Its time may be up, or the log has lost something. An outage of the store ends no watch: it is asked
    /// until it answers.
    async fn look_again(&mut self) -> Result<(), Rejection> {
        loop {
            self.ticket = self.engine.events.those_waiting().wait(&self.claims);
            let looked = {
                let _one_of_few = self.engine.events.look().await;
                self.engine.look(&self.claims, &self.ticket).await
            };
            match looked {
                Ok(Verdict::Live(_)) => return Ok(()),
                Ok(Verdict::Rejected(rejection)) => return Err(rejection),
                Err(Error::Store(StoreError::Unavailable { .. })) => {}
                Err(error) => {
                    static UNKNOWN: LogLimiter = LogLimiter::new("failed to read a watched session", 5);
                    if UNKNOWN.admits("") {
                        tracing::error!(error.message = %error, "failed to read a watched session");
                    }
                }
            }
            tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }
}
