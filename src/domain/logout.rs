//! `Logout`: ends the session of a token, the others of its user, or all.
//!
//! Only the token of a live session ends sessions, so a stale token cannot end those of a later login (promise P3).

use super::{
    Engine, Error,
    audit::Action,
    lapses,
    origin::Origin,
    rejection::{Reason, Rejection},
    session_repository::Decision,
    sessions::Session,
    types::Claims,
};

/// The sessions to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The session of the token.
    This,
    /// All other sessions of the user.
    Others,
    /// All sessions of the user.
    All,
}

/// The outcome of a logout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedOut {
    /// This many sessions ended.
    Ended(u32),
    /// The token was rejected, and no session ended.
    Rejected(Rejection),
}

impl Engine {
    /// Ends sessions. A repeated call ends none, because the session of its token has ended.
    pub async fn logout(&self, token: &str, scope: Scope, origin: &Origin) -> Result<LoggedOut, Error> {
        let claims = match self.tokens.claims(token).await {
            Ok(claims) => claims,
            Err(Error::Rejected(rejection)) => {
                self.audit.record(self.rejected(Action::Logout, rejection.reason, origin));
                return Ok(LoggedOut::Rejected(rejection));
            }
            Err(error) => return Err(error),
        };
        let outcome = self.end_by_token(&claims, scope).await;
        let entry = match &outcome {
            Ok(LoggedOut::Rejected(rejection)) => self.rejected(Action::Logout, rejection.reason, origin),
            Ok(LoggedOut::Ended(ended)) => self.entry(Action::Logout, &outcome, origin).ended(*ended),
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
        let is_selected = |session: &Session| match scope {
            Scope::This => session.id == claims.session_id,
            Scope::Others => session.id != claims.session_id,
            Scope::All => true,
        };
        self.detect_rollback(claims, &read).await?;
        self.sessions
            .transact(&claims.user_id, read, |state, at| {
                if let Err(rejection) = state.verdict(claims, at) {
                    let rejected = LoggedOut::Rejected(rejection);
                    return match lapses::record(state, claims.session_id, at, rejected) {
                        Decision::Keep(outcome) => Decision::Acknowledge(outcome),
                        write => write,
                    };
                }
                let next = state.close(is_selected, Reason::LoggedOut, at);
                if next.outcome == 0 {
                    return Decision::Acknowledge(LoggedOut::Ended(0));
                }
                let outcome = LoggedOut::Ended(next.outcome);
                Decision::Write(super::sessions::Transition {
                    state: next.state,
                    events: next.events,
                    outcome,
                })
            })
            .await
    }
}
