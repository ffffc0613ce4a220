//! Telling that a session has timed out.
//!
//! Clocks differ, and step back. So that a session which was told to have timed out is not live a moment later, that
//! is written down before it is told: it is then dead by its tombstone. And a use that was answered, and could not be
//! recorded for want of the store, is recorded before it is found that the session has timed out for want of it.

use super::{
    Engine, Error,
    ports::Versioned,
    rejection::{Reason, Rejection},
    session_repository::Decision,
    sessions::{At, Next, UserSessions},
    types::{Claims, SessionId},
    write_behind::SessionUse,
};

impl Engine {
    /// Why the session of these claims is dead, once that is written down; `None` where it lives after all.
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
            .transact(&claims.user_id, read, |state, at| match state.verdict(claims, at) {
                Ok(_) => Decision::Keep(None),
                Err(rejection) => record(state, claims.session_id, at, Some(rejection)),
            })
            .await
    }
}

/// Has what is told of a session's end written down, where it is only the time that has ended it.
pub(super) fn record<T>(state: &UserSessions, session: SessionId, at: At<'_>, outcome: T) -> Decision<T> {
    if !state.has_timed_out(session, at) {
        return Decision::Keep(outcome);
    }
    // Whatever has lapsed is moved out of the way of any transition.
    let Next { state, events, .. } = state.close(|_| false, Reason::IdleTimeout, at);
    Decision::Write(Next { state, events, outcome })
}
