//! Fences: a fence declares every session up to a generation dead, remembered or not.

use std::time::Duration;

use super::{Context, Transition, UserSessions};
use crate::domain::{
    rejection::{EndCause, Reason, Rejection},
    types::{Claims, Generation, Notice, SessionId, Timestamp},
};

/// Declares every session up to a generation dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The highest generation that is dead.
    pub generation: Generation,
    /// Why the sessions ended.
    pub reason: Reason,
    /// When the sessions ended.
    pub at: Timestamp,
    /// The operator's text for the user, shown instead of the default message.
    pub notice: Option<Notice>,
    /// When the fence is removed: no token from before the fence is valid for longer.
    pub until: Timestamp,
}

impl Fence {
    /// Whether a session of this generation is dead.
    pub fn covers(&self, generation: Generation) -> bool {
        generation <= self.generation
    }

    /// The rejection of a session that the fence covers.
    pub fn rejection(&self) -> Rejection {
        Rejection { notice: self.notice.clone(), ..Rejection::at(self.reason, self.at) }
    }
}

impl UserSessions {
    /// Ends all sessions of this user, remembered or not, and makes every concurrent login conflict. `longest` is the
    /// longest lifetime of a token.
    pub fn fence(&self, cause: impl Into<EndCause>, longest: Duration, ctx: Context<'_>) -> Transition<u32> {
        self.fence_except(None, cause, longest, ctx)
    }

    /// Like [`Self::fence`], but keeps one live session.
    pub fn fence_except(
        &self,
        kept: Option<SessionId>,
        cause: impl Into<EndCause>,
        longest: Duration,
        ctx: Context<'_>,
    ) -> Transition<u32> {
        let cause = cause.into();
        let mut next = self.close(|session| Some(session.id) != kept, cause.clone(), ctx);
        // The generation always grows, so that a fence changes the state and a concurrent login conflicts.
        let generation = next.state.generation.next(ctx.now);
        next.state.generation = generation;
        let EndCause { reason, notice } = cause;
        let until = ctx.now.after(longest).ceil_to_second();
        next.state.fence = Some(Box::new(Fence { generation, reason, at: ctx.now, notice, until }));
        next
    }

    /// Whether a verified token is newer than everything that is remembered. A login is committed before its token is
    /// issued, so the store has lost the commit, and the sessions that the login displaced may be live again.
    pub fn has_lost_login(&self, claims: &Claims) -> bool {
        claims.generation > self.generation && !self.contradicts(claims)
    }

    /// Ends all sessions up to a lost login, among them those that its loss brought back.
    pub fn recover(&self, lost: &Claims, longest: Duration, ctx: Context<'_>) -> Transition<u32> {
        let mut next = self.clone();
        next.generation = next.generation.max(lost.generation);
        next.fence(Reason::UnknownSession, longest, ctx)
    }
}
