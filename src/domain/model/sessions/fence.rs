//! Fences: "everything up to this generation is dead", whether anybody remembers it or not.

use std::time::Duration;

use super::{At, Next, UserSessions};
use crate::domain::{
    rejection::{Reason, Rejection, Why},
    types::{Claims, Generation, Notice, SessionId, Timestamp},
};

/// "Everything up to this generation is dead."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Up to and with this one.
    pub generation: Generation,
    /// Because of this.
    pub reason: Reason,
    /// Since then.
    pub at: Timestamp,
    /// What to tell the users instead of a sentence of ours.
    pub notice: Option<Notice>,
    /// Remembered until then; no token from before the fence is valid for longer.
    pub until: Timestamp,
}

impl Fence {
    /// Whether a session of this generation is dead.
    pub fn covers(&self, generation: Generation) -> bool {
        generation <= self.generation
    }

    /// What it means to a session that it covers.
    pub fn rejection(&self) -> Rejection {
        Rejection { notice: self.notice.clone(), ..Rejection::at(self.reason, self.at) }
    }
}

impl UserSessions {
    /// Ends everything that this user has had until now, remembered or not, and every login that is
    /// under way. `longest` is the longest that any token lives.
    pub fn fence(&self, why: impl Into<Why>, longest: Duration, at: At<'_>) -> Next<u32> {
        self.fence_but(None, why, longest, at)
    }

    /// As [`Self::fence`], but for one live session.
    pub fn fence_but(
        &self,
        kept: Option<SessionId>,
        why: impl Into<Why>,
        longest: Duration,
        at: At<'_>,
    ) -> Next<u32> {
        let why = why.into();
        let mut next = self.close(|session| Some(session.id) != kept, why.clone(), at);
        // One past the last generation, so that a fence always changes the state and every login that
        // read the register before it conflicts.
        let generation = next.state.generation.next(at.now);
        next.state.generation = generation;
        let Why { reason, notice } = why;
        let until = at.now.after(longest).ceil_to_second();
        next.state.fence = Some(Box::new(Fence { generation, reason, at: at.now, notice, until }));
        next
    }

    /// Whether a token with these claims, which we have signed, is newer than anything remembered. A login
    /// is committed before its token is given out, so the store has lost that commit, and what came with
    /// it: a failover has brought back the sessions that it had displaced.
    pub fn has_lost(&self, claims: &Claims) -> bool {
        claims.generation > self.generation && !self.contradicts(claims)
    }

    /// Ends what the loss of a login has brought back, with everything else of that time.
    pub fn recover(&self, lost: &Claims, longest: Duration, at: At<'_>) -> Next<u32> {
        let mut next = self.clone();
        next.generation = next.generation.max(lost.generation);
        next.fence(Reason::UnknownSession, longest, at)
    }
}
