//! The idle timeout: recording uses, and finding that there were none.

use super::{At, Next, UserSessions};
use crate::domain::{
    rejection::Reason,
    types::{SessionId, Timestamp},
};

impl UserSessions {
    /// Whether a session is dead only because it was not used for so long, which is not written down yet.
    pub fn has_timed_out(&self, id: SessionId, at: At<'_>) -> bool {
        let session = self.sessions.iter().find(|session| session.id == id);
        let lapse = session.and_then(|session| session.lapse(at));
        lapse.is_some_and(|rejection| rejection.reason == Reason::IdleTimeout)
    }

    /// A use of a session at `used`, where it is due to be recorded; `None` where there is nothing to record.
    ///
    /// It may be recorded after the session would have timed out without it: had anybody been told so, the session
    /// would have a tombstone.
    pub fn touch(&self, id: SessionId, used: Timestamp, at: At<'_>) -> Option<Next<()>> {
        let index = self.sessions.iter().position(|session| session.id == id)?;
        let session = &self.sessions[index];
        let then = At { now: used.min(at.now), ..at };
        if !session.use_is_due(used) || session.lapse(then).is_some() || at.now >= session.expires_at {
            return None;
        }
        let mut state = self.clone();
        state.sessions[index].last_seen = used;
        Some(Next { state, events: Vec::new(), outcome: () })
    }
}
