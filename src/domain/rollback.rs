//! What to do where the store turns out to have lost a write, as replicated Redis can in a failover.

use super::{
    Engine, Error,
    audit::{Action, Entry, Outcome},
    origin::Origin,
    ports::Versioned,
    session_repository::Decision,
    sessions::UserSessions,
    types::Claims,
};
use crate::isolation::log_limiter::LogLimiter;

/// After a failover this can be many; the audit trail has all of them.
static ROLLBACKS: LogLimiter = LogLimiter::new("the store has lost a login that was acknowledged", 20);

impl Engine {
    /// DirectoryReads whether a token that was found dead is newer than anything the store remembers of its user. A
    /// login is committed before its token is given out, so the store has then lost the commit, and the
    /// sessions that it had displaced may be back: they are ended before anything else is answered.
    pub(super) async fn detect_rollback(
        &self,
        claims: &Claims,
        read: &Versioned<UserSessions>,
    ) -> Result<(), Error> {
        // A token whose time has not come is from another clock, and proves nothing before.
        let early = claims.not_before > self.clock.now().after(self.tokens.leeway());
        if early || !read.state.has_lost(claims) {
            return Ok(());
        }
        let longest = self.slots.longest();
        let ended = self
            .sessions
            .transact(&claims.user_id, read.clone(), |state, at| {
                if !state.has_lost(claims) {
                    return Decision::Keep(None);
                }
                let next = state.recover(claims, longest, at);
                let outcome = Some(next.outcome);
                Decision::Write(super::sessions::Next { state: next.state, events: next.events, outcome })
            })
            .await?;
        let Some(ended) = ended else { return Ok(()) };
        self.metrics.rollbacks.inc();
        if ROLLBACKS.admits("") {
            tracing::warn!(
                user.id = %claims.user_id,
                sessions.ended = ended,
                "the store has lost a login that was acknowledged; the sessions that this brought back were ended"
            );
        }
        let entry = Entry::new(self.clock.now(), Action::StoreRollback, Outcome::Done, &Origin::default());
        let mut entry = entry.user(&claims.user_id).ended(ended).detail(
            "a token is newer than what the store remembers of its user: the store has lost its login",
        );
        entry.session_id = Some(claims.session_id);
        entry.slot = Some(claims.slot.as_str().to_owned());
        self.audit.record(entry);
        Ok(())
    }
}
