//! Telling that a session has timed out.
//!
//! Clocks differ, and step back. So that a session which was told to have timed out is not live a moment later, that
//! is written down before it is told: it is then dead by its tombstone. And a use that was answered, and could not be
//! recorded for want of the store, is recorded before it is found that the session has timed out for want of it.

use super::{
    Engine, Error,
    ports::Versioned,
    rejection::{Reason, Rejection},
    sessions::{At, Next, UserSessions},
    transact::Decision,
    types::{Claims, SessionId},
    write_behind::Use,
};

impl Engine {
    /// Why the session of these claims is dead, once that is written down; `None` where it lives after all.
    pub(super) async fn settle_lapse(
        &self,
        claims: &Claims,
        read: Versioned<UserSessions>,
    ) -> Result<Option<Rejection>, Error> {
        if let Some(Use { user_id, at, .. }) = self.touches.pending(claims.session_id) {
            self.record_use(claims.session_id, Use { user_id, at, read: read.clone() }).await?;
        }
        self.transact(&claims.user_id, read, |state, at| match state.verdict(claims, at) {
            Ok(_) => Decision::Keep(None),
            Err(rejection) => tell(state, claims.session_id, at, Some(rejection)),
        })
        .await
    }
}

/// Has what is told of a session's end written down, where it is only the time that has ended it.
pub(super) fn tell<T>(state: &UserSessions, session: SessionId, at: At<'_>, outcome: T) -> Decision<T> {
    if !state.has_timed_out(session, at) {
        return Decision::Keep(outcome);
    }
    // Whatever has lapsed is moved out of the way of any transition.
    let Next { state, events, .. } = state.close(|_| false, Reason::IdleTimeout, at);
    Decision::Write(Next { state, events, outcome })
}
