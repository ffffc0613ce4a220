//! Recording of lapses: a timeout is committed as a tombstone before it is reported.
//!
//! Clocks differ and can step back. With the tombstone, a session that was reported as timed out stays dead. A use that
//! was confirmed but is still waiting to be recorded is recorded first, so that the session does not time out for the
//! lack of it; if the store does not accept it, the request is UNAVAILABLE. See ADR 0006.

use super::{
    Engine, Error,
    ports::Versioned,
    rejection::{Reason, Rejection},
    session_repository::Decision,
    sessions::{Context, Transition, UserSessions},
    types::{Claims, SessionId},
    write_behind::SessionUse,
};

impl Engine {
    /// Records the lapse of a session and returns its rejection, or `None` if the session is live after all.
    pub(super) async fn record_lapse(
        &self,
        claims: &Claims,
        read: Versioned<UserSessions>,
    ) -> Result<Option<Rejection>, Error> {
        if let Some(SessionUse { user_id, at, .. }) = self.uses.pending(claims.session_id) {
            self.sessions
                .record_use(claims.session_id, SessionUse { user_id, at, read: read.clone() })
                .await?;
        }
        self.sessions
            .transact(&claims.user_id, read, |state, ctx| match state.verdict(claims, ctx) {
                Ok(_) => Decision::Keep(None),
                Err(rejection) => record(state, claims.session_id, ctx, Some(rejection)),
            })
            .await
    }
}

/// Records that a session has timed out, unless its end is recorded already.
pub(super) fn record<T>(
    state: &UserSessions,
    session: SessionId,
    ctx: Context<'_>,
    outcome: T,
) -> Decision<T> {
    if !state.has_timed_out(session, ctx) {
        return Decision::Keep(outcome);
    }
    // Every transition moves lapsed sessions to the tombstones.
    let Transition { state, events, .. } = state.close(|_| false, Reason::IdleTimeout, ctx);
    Decision::Write(Transition { state, events, outcome })
}
