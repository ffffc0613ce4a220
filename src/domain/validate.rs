//! Validate: is this token's session live? The call that every other service makes on every request.

use std::time::Duration;

use smol_str::SmolStr;

use super::{
    Engine, Error,
    ports::Versioned,
    rejection::Rejection,
    sessions::{Session, UserSessions},
    touches::Use,
    types::{Claims, Role, Timestamp, UserId},
};

/// A live session, as verdicts show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub user_id: UserId,
    /// Their name.
    pub username: SmolStr,
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
    /// Signature first, store second: what we have not signed never causes a read. The use is recorded after
    /// the answer (`touches`), where the session cannot lapse meanwhile.
    ///
    /// The answer may be `max_staleness` old, or as old as the settings say.
    pub async fn validate(
        &self,
        token: &str,
        peek: bool,
        max_staleness: Option<Duration>,
    ) -> Result<Verdict, Error> {
        let claims = match self.tokens.verify(token, self.clock.now()) {
            Ok(claims) => claims,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let max_staleness = max_staleness.unwrap_or(self.max_staleness);
        let judged = if let Some(judged) = self.judge_by_memory(&claims, peek, max_staleness).await? {
            judged
        } else {
            self.judge_by_store(&claims, peek).await?
        };
        let Judged { read, verdict, due } = judged;
        if let Some(due) = due {
            let used = || Use { user_id: claims.user_id.clone(), at: due.used, read };
            if due.is_urgent {
                self.record_use(claims.session_id, used()).await?;
            } else if let Err(used) = self.touches.note(claims.session_id, used) {
                self.record_use(claims.session_id, used()).await?;
            }
        }
        Ok(verdict)
    }

    /// What is remembered may say yes, and repeat that a session has been ended for good. Any other no can be
    /// for want of a login or a use that is not known here yet.
    async fn judge_by_memory(
        &self,
        claims: &Claims,
        peek: bool,
        max_staleness: Duration,
    ) -> Result<Option<Judged>, Error> {
        let Some(read) = self.sessions.recall(&claims.user_id, max_staleness) else { return Ok(None) };
        let judged = self.judge(claims, read, peek).await?;
        let counts = judged.verdict.as_ref().err().is_none_or(|rejection| rejection.reason.is_terminal());
        Ok(counts.then_some(judged))
    }

    async fn judge_by_store(&self, claims: &Claims, peek: bool) -> Result<Judged, Error> {
        let read = self.sessions.load(&claims.user_id).await?;
        let judged = self.judge(claims, read, peek).await?;
        if judged.verdict.is_err() {
            self.mind_rollback(claims, &judged.read).await?;
        }
        Ok(judged)
    }

    async fn judge(
        &self,
        claims: &Claims,
        read: Versioned<UserSessions>,
        peek: bool,
    ) -> Result<Judged, Error> {
        let known = self.epoch.known().await?;
        let at = self.at(&known);
        let found = read.state.verdict(claims, at);
        let due = found
            .as_ref()
            .ok()
            .filter(|session| !peek && session.use_is_due(at.now))
            .map(|session| Due { used: at.now, is_urgent: at.now >= session.idle_expires_at() });
        let verdict = found
            .map(|session| Verified::of(&claims.user_id, &read.state, session, (!peek).then_some(at.now)));
        drop(known);
        Ok(Judged { read, verdict, due })
    }
}

/// A verdict, and what it was made of.
struct Judged {
    read: Versioned<UserSessions>,
    verdict: Verdict,
    /// A use of the session that is to be recorded.
    due: Option<Due>,
}

/// A use that is to be recorded.
struct Due {
    used: Timestamp,
    /// The session has but a touch interval left: before the answer, for without it the session could lapse
    /// although we have confirmed the use.
    is_urgent: bool,
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
