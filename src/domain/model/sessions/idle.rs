//! The idle timeout: recording uses and detecting timeouts.

use super::{Context, Transition, UserSessions};
use crate::domain::{
    rejection::Reason,
    types::{SessionId, Timestamp},
};

impl UserSessions {
    /// Whether the idle timeout has ended a session without a record of it.
    pub fn has_timed_out(&self, id: SessionId, ctx: Context<'_>) -> bool {
        let session = self.sessions.iter().find(|session| session.id == id);
        let lapse = session.and_then(|session| session.lapse_rejection(ctx));
        lapse.is_some_and(|rejection| rejection.reason == Reason::IdleTimeout)
    }

    /// Records a use of a session. Returns `None` if there is nothing to record.
    ///
    /// A use can be recorded after the session would have timed out without it: if the timeout had been reported, the
    /// session would have a tombstone.
    pub fn touch(&self, id: SessionId, used_at: Timestamp, ctx: Context<'_>) -> Option<Transition<()>> {
        let index = self.sessions.iter().position(|session| session.id == id)?;
        let session = &self.sessions[index];
        let then = Context { now: used_at.min(ctx.now), ..ctx };
        if !session.is_touch_due(used_at)
            || session.lapse_rejection(then).is_some()
            || ctx.now >= session.expires_at
        {
            return None;
        }
        let mut state = self.clone();
        state.sessions[index].last_seen = used_at;
        Some(Transition { state, events: Vec::new(), outcome: () })
    }
}
