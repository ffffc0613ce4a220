//! Validate: is this token's session live? The call that every other service makes on every request.

use super::{
    Engine, Error,
    rejection::Rejection,
    sessions::{Session, UserSessions},
    transact::Decision,
    types::{Claims, Role, Timestamp, UserId},
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
        let now = self.clock.now();
        let session = match read.state.verdict(&claims, now) {
            Ok(session) => session,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let verified = verified(&claims, &read.state, session, (!peek).then_some(now));
        if !peek && read.state.touch(claims.session_id, now).is_some() {
            // Before the answer: a use that we have confirmed must count.
            self.transact(&claims.user_id, read, |state, at| {
                state.touch(claims.session_id, at.now).map_or(Decision::Keep(()), Decision::Write)
            })
            .await?;
        }
        Ok(Ok(verified))
    }
}

fn verified(claims: &Claims, state: &UserSessions, session: &Session, used: Option<Timestamp>) -> Verified {
    let last_seen = used.unwrap_or_default().max(session.last_seen);
    Verified {
        user_id: claims.user_id.clone(),
        username: state.profile.username.clone(),
        roles: state.profile.roles.clone(),
        idle_expires_at: last_seen.after(session.idle_timeout).min(session.expires_at),
        session: session.clone(),
    }
}
