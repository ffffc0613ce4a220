//! Handling of rollbacks: a store has lost an acknowledged commit, as replicated Redis can in a failover.

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

/// A failover can cause many rollbacks. The log is limited; the audit trail records each of them.
static ROLLBACKS: LogLimiter = LogLimiter::new("the store has lost an acknowledged login", 20);

impl Engine {
    /// Checks whether a rejected token is newer than everything that the store remembers of its user.
    ///
    /// A login is committed before its token is issued, so such a token proves that the store has lost the commit. The
    /// sessions that the login displaced may be live again; they are ended before the request is answered.
    pub(super) async fn detect_rollback(
        &self,
        claims: &Claims,
        read: &Versioned<UserSessions>,
    ) -> Result<(), Error> {
        // A token from the future comes from another clock and proves nothing yet.
        let not_yet_valid = claims.not_before > self.clock.now().after(self.tokens.leeway());
        if not_yet_valid || !read.state.has_lost_login(claims) {
            return Ok(());
        }
        let longest = self.slots.longest();
        let ended = self
            .sessions
            .transact(&claims.user_id, read.clone(), |state, ctx| {
                if !state.has_lost_login(claims) {
                    return Decision::Keep(None);
                }
                let next = state.recover(claims, longest, ctx);
                let outcome = Some(next.outcome);
                Decision::Write(super::sessions::Transition {
                    state: next.state,
                    events: next.events,
                    outcome,
                })
            })
            .await?;
        let Some(ended) = ended else { return Ok(()) };
        self.metrics.rollbacks.inc();
        if ROLLBACKS.admits("") {
            tracing::warn!(
                user.id = %claims.user_id,
                sessions.ended = ended,
                "the store has lost an acknowledged login; the sessions that it brought back were ended"
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
