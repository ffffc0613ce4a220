//! Validate: is this token's session live? The call that every other service makes on every request.

use super::{
    Engine, Error,
    rejection::Rejection,
    sessions::{Session, UserSessions},
    transact::Decision,
    types::{Role, Timestamp, UserId},
};

/// A live session, as verdicts show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub user_id: UserId,
    /// Their name.
    pub username: String,
    /// Their roles, as of the latest login or account change.
    pub roles: Vec<Role>,
    /// The session.
    pub session: Session,
    /// It does not time out for want of use before this.
    pub idle_expires_at: Timestamp,
}

/// What is true of a token.
pub type Verdict = Result<Verified, Rejection>;

impl Engine {
    /// Judges a token and, unless this is only a `peek`, slides the idle timeout of its session.
    ///
    /// Signature first, store second: what we have not signed never causes a read.
    pub async fn validate(&self, token: &str, peek: bool) -> Result<Verdict, Error> {
        let claims = match self.tokens.verify(token, self.clock.now()) {
            Ok(claims) => claims,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let read = self.sessions.load(&claims.user_id).await?;
        let (verdict, used) = {
            let known = self.epoch.known().await?;
            let at = self.at(&known);
            let verdict = read.state.verdict(&claims, at);
            let verdict = verdict.map(|session| {
                Verified::of(&claims.user_id, &read.state, session, (!peek).then_some(at.now))
            });
            let used = !peek && verdict.is_ok() && read.state.touch(claims.session_id, at).is_some();
            (verdict, used)
        };
        if verdict.is_err() {
            self.mind_rollback(&claims, &read).await?;
        } else if used {
            // Before the answer: a use that we have confirmed must count.
            self.transact(&claims.user_id, read, |state, at| {
                state.touch(claims.session_id, at).map_or(Decision::Keep(()), Decision::Write)
            })
            .await?;
        }
        Ok(verdict)
    }
}

impl Verified {
    /// A live session of a user with this state, as a use at `used` leaves it.
    pub(super) fn of(
        user_id: &UserId,
        state: &UserSessions,
        session: &Session,
        used: Option<Timestamp>,
    ) -> Self {
        let last_seen = used.unwrap_or_default().max(session.last_seen);
        Self {
            user_id: user_id.clone(),
            username: state.profile.username.clone(),
            roles: state.profile.roles.clone(),
            idle_expires_at: last_seen.after(session.idle_timeout).min(session.expires_at),
            session: session.clone(),
        }
    }
}
