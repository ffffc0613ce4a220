//! `EndSessions`: an operator ends sessions of one user or of all users.

use super::{
    Engine, Error,
    audit::Action,
    origin::Origin,
    rejection::{EndCause, Reason},
    session_repository::Decision,
    sessions::Session,
    types::{Notice, SessionId, Slot, UserId},
};

/// The sessions to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Sessions of one user.
    User {
        /// The user.
        user_id: UserId,
        /// Only sessions in this slot.
        slot: Option<Slot>,
        /// Only this session.
        session_id: Option<SessionId>,
    },
    /// All sessions of all users.
    Everyone,
}

impl Engine {
    /// Ends sessions as KICKED. Returns how many ended, or 0 for those of all users, which are not counted.
    pub async fn end_sessions(
        &self,
        target: &Target,
        notice: Option<Notice>,
        origin: &Origin,
    ) -> Result<u32, Error> {
        let why = EndCause { reason: Reason::Kicked, notice };
        let outcome = match target {
            Target::User { user_id, slot, session_id } => {
                self.kick(user_id, slot.as_ref(), *session_id, &why).await
            }
            Target::Everyone => self.sessions.epoch().begin(self.clock.now(), why.notice).await.map(|()| 0),
        };
        let mut entry = self.entry(Action::SessionsEnded, &outcome, origin);
        match target {
            Target::User { user_id, slot, session_id } => {
                entry = entry.user(user_id);
                entry.slot = slot.as_ref().map(|slot| slot.as_str().to_owned());
                entry.session_id = *session_id;
                if let Ok(ended) = outcome {
                    entry = entry.ended(ended);
                }
            }
            Target::Everyone => entry = entry.detail("all sessions of all users"),
        }
        self.audit.record(entry);
        outcome
    }

    async fn kick(
        &self,
        user_id: &UserId,
        slot: Option<&Slot>,
        session_id: Option<SessionId>,
        why: &EndCause,
    ) -> Result<u32, Error> {
        let read = self.sessions.load(user_id).await?;
        let longest = self.slots.longest();
        let is_selected = |session: &Session| {
            slot.is_none_or(|slot| session.slot == *slot) && session_id.is_none_or(|id| session.id == id)
        };
        self.sessions
            .transact(user_id, read, |state, at| {
                if slot.is_none() && session_id.is_none() {
                    // A fence also ends sessions that the register no longer holds, and logins in progress.
                    return Decision::Write(state.fence(why.clone(), longest, at));
                }
                let next = state.close(is_selected, why.clone(), at);
                if next.outcome == 0 { Decision::Acknowledge(0) } else { Decision::Write(next) }
            })
            .await
    }
}
