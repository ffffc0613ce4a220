//! Validate: is this token's session live? The call that every other service makes on every request.

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;

use super::{
    Engine, Error,
    ports::Versioned,
    rejection::Rejection,
    sessions::{At, Session, UserSessions},
    touches::{Full, Use},
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
        match self.validate_at_once(token, peek, max_staleness) {
            Ok(verdict) => Ok(verdict),
            Err(unjudged) => self.judge(unjudged).await,
        }
    }

    /// The same, where nothing has to be waited for: for most tokens, most of the time. Otherwise what
    /// [`Engine::judge`] needs.
    ///
    /// What is remembered may say yes, and repeat that a session has been ended for good. Any other no can be
    /// for want of a login or a use that is not known here yet.
    pub fn validate_at_once(
        &self,
        token: &str,
        peek: bool,
        max_staleness: Option<Duration>,
    ) -> Result<Verdict, Unjudged> {
        let now = self.clock.now();
        let claims = match self.tokens.verify(token, now) {
            Ok(claims) => claims,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let unjudged = Unjudged { claims, peek, max_staleness: max_staleness.unwrap_or(self.max_staleness) };
        self.judge_by_memory(&unjudged, now).ok_or(unjudged)
    }

    fn judge_by_memory(&self, unjudged: &Unjudged, now: Timestamp) -> Option<Verdict> {
        let Unjudged { claims, peek, max_staleness } = unjudged;
        let read = self.sessions.recall(&claims.user_id, *max_staleness)?;
        let known = self.epoch.known_at_once()?;
        let at = At { now, tombstone_ttl: self.tombstone_ttl, epoch: &known.epoch };
        let Judged { verdict, due } = Judged::of(claims, &read.state, *peek, at);
        let counts = verdict.as_ref().err().is_none_or(|rejection| rejection.reason.is_terminal());
        let noted = match due {
            None => true,
            Some(due) => !due.is_urgent && self.note_use(claims, due, &read).is_ok(),
        };
        (counts && noted).then_some(verdict)
    }

    /// Asks the store.
    pub async fn judge(&self, unjudged: Unjudged) -> Result<Verdict, Error> {
        if self.epoch.known_at_once().is_none() {
            // It may be all that was wanting: one read for everybody who waits, and not one for each.
            self.epoch.known().await?;
            if let Some(verdict) = self.judge_by_memory(&unjudged, self.clock.now()) {
                return Ok(verdict);
            }
        }
        let Unjudged { claims, peek, .. } = unjudged;
        let read = self.sessions.load(&claims.user_id).await?;
        let Judged { verdict, due } =
            Judged::of(&claims, &read.state, peek, self.at(&*self.epoch.known().await?));
        if verdict.is_err() {
            self.mind_rollback(&claims, &read).await?;
        }
        if let Some(due) = due
            && (due.is_urgent || self.note_use(&claims, due, &read).is_err())
        {
            let used = Use { user_id: claims.user_id.clone(), at: due.used, read };
            self.record_use(claims.session_id, used).await?;
        }
        Ok(verdict)
    }

    /// Has a use recorded after its answer, if that can be promised.
    fn note_use(&self, claims: &Claims, due: Due, read: &Versioned<UserSessions>) -> Result<(), Full> {
        let used = || Use { user_id: claims.user_id.clone(), at: due.used, read: read.clone() };
        self.touches.note(claims.session_id, used)
    }
}

/// A token that is one of ours, and whose time has come and not gone.
#[derive(Debug)]
pub struct Unjudged {
    claims: Arc<Claims>,
    peek: bool,
    max_staleness: Duration,
}

/// A verdict, and what follows from it.
struct Judged {
    verdict: Verdict,
    /// A use of the session that is to be recorded.
    due: Option<Due>,
}

/// A use that is to be recorded.
#[derive(Clone, Copy)]
struct Due {
    used: Timestamp,
    /// The session has but a touch interval left: before the answer, for without it the session could lapse
    /// although we have confirmed the use.
    is_urgent: bool,
}

impl Judged {
    fn of(claims: &Claims, state: &UserSessions, peek: bool, at: At<'_>) -> Self {
        let session = match state.verdict(claims, at) {
            Ok(session) => session,
            Err(rejection) => return Self { verdict: Err(rejection), due: None },
        };
        let due = (!peek && session.use_is_due(at.now))
            .then(|| Due { used: at.now, is_urgent: at.now >= session.idle_expires_at() });
        let verified = Verified::of(&claims.user_id, state, session, (!peek).then_some(at.now));
        Self { verdict: Ok(verified), due }
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
