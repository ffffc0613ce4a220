//! Logout: end the session of a token, the others of its user, or all. A stale token harms nobody.

use super::{
    Engine, Error,
    audit::Action,
    lapses,
    origin::Origin,
    rejection::{Reason, Rejection},
    sessions::Session,
    transact::Decision,
    types::Claims,
};

/// Which sessions to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The session of the token.
    This,
    /// Every other one of the user.
    Others,
    /// Every one of the user.
    All,
}

/// What came of a logout: how many sessions ended, or what had happened to the token before.
pub type LoggedOut = Result<u32, Rejection>;

impl Engine {
    /// Logs out. Only a live session can end others, so repeating it ends nothing more.
    pub async fn logout(&self, token: &str, scope: Scope, origin: &Origin) -> Result<LoggedOut, Error> {
        let claims = match self.claims_of(token).await? {
            Ok(claims) => claims,
            Err(rejection) => {
                self.audit.record(self.rejected(Action::Logout, rejection.reason, origin));
                return Ok(Err(rejection));
            }
        };
        let outcome = self.end_by_token(&claims, scope).await;
        let entry = match &outcome {
            Ok(Err(rejection)) => self.rejected(Action::Logout, rejection.reason, origin),
            Ok(Ok(ended)) => self.entry(Action::Logout, &outcome, origin).ended(*ended),
            Err(_) => self.entry(Action::Logout, &outcome, origin),
        };
        let mut entry = entry.user(&claims.user_id);
        entry.session_id = Some(claims.session_id);
        entry.slot = Some(claims.slot.as_str().to_owned());
        self.audit.record(entry);
        outcome
    }

    async fn end_by_token(&self, claims: &Claims, scope: Scope) -> Result<LoggedOut, Error> {
        let read = self.sessions.load(&claims.user_id).await?;
        let which = |session: &Session| match scope {
            Scope::This => session.id == claims.session_id,
            Scope::Others => session.id != claims.session_id,
            Scope::All => true,
        };
        self.mind_rollback(claims, &read).await?;
        self.transact(&claims.user_id, read, |state, at| {
            if let Err(rejection) = state.verdict(claims, at) {
                return lapses::tell(state, claims.session_id, at, Err(rejection));
            }
            let next = state.close(which, Reason::LoggedOut, at);
            if next.outcome == 0 {
                return Decision::Keep(Ok(0));
            }
            let outcome = Ok(next.outcome);
            Decision::Write(super::sessions::Next { state: next.state, events: next.events, outcome })
        })
        .await
    }
}
