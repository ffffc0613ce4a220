//! Validate: is this token's session live? The call that every other service makes on every request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use super::{
    Engine, Error,
    ports::{Moment, Versioned},
    rejection::Rejection,
    sessions::{At, Profile, Session, UserSessions},
    types::{Claims, Role, Timestamp, UserId},
    write_behind::{Full, Use},
};

/// A live session, as verdicts show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSession {
    user_id: UserId,
    /// Shared with whoever has read it: a verdict copies nothing.
    state: Arc<UserSessions>,
    /// The place of the session in it.
    place: usize,
    idle_expires_at: Timestamp,
}

/// What is true of a token.
pub type Verdict = Result<LiveSession, Rejection>;

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
    ) -> Result<Verdict, PendingVerdict> {
        let now = self.clock.now();
        let max_staleness = max_staleness.unwrap_or(self.max_staleness);
        let claims = match self.tokens.verify(token, now) {
            Ok(claims) => claims,
            Err(rejection) if self.may_have_a_new_key(&rejection, token) => {
                return Err(PendingVerdict::UnknownKeyToken(Box::new(UnknownKeyToken {
                    token: token.into(),
                    peek,
                    max_staleness,
                })));
            }
            Err(rejection) => return Ok(Err(rejection)),
        };
        let verified = VerifiedToken { claims, peek, max_staleness };
        self.judge_by_memory(&verified, now).ok_or(PendingVerdict::LiveSession(verified))
    }

    fn judge_by_memory(&self, verified: &VerifiedToken, now: Timestamp) -> Option<Verdict> {
        let VerifiedToken { claims, peek, max_staleness } = verified;
        let moment = Moment::new(Instant::now);
        let read = self.sessions.recall(&claims.user_id, *max_staleness, &moment)?;
        let known = self.epoch.known_at_once(*moment)?;
        let Judged { mut verdict, due } = Judged::of(claims, &read.state, *peek, self.at_moment(now, &known));
        let counts = verdict.as_ref().err().is_none_or(|rejection| rejection.reason.is_terminal());
        let noted = match due {
            None => true,
            Some(due) => !due.is_urgent && self.note_use(claims, due, &read, &mut verdict).is_ok(),
        };
        (counts && noted).then_some(verdict)
    }

    /// Asks the store.
    pub async fn judge(&self, unjudged: PendingVerdict) -> Result<Verdict, Error> {
        let unjudged = match unjudged {
            PendingVerdict::LiveSession(verified) => verified,
            PendingVerdict::UnknownKeyToken(unverified) => {
                self.look_for_keys().await?;
                match unverified.verify(self) {
                    Ok(verified) => verified,
                    Err(rejection) => return Ok(Err(rejection)),
                }
            }
        };
        if self.epoch.known_at_once(Instant::now()).is_none() {
            // It may be all that was wanting: one read for everybody who waits, and not one for each.
            self.epoch.known().await?;
            if let Some(verdict) = self.judge_by_memory(&unjudged, self.clock.now()) {
                return Ok(verdict);
            }
        }
        let read = self.sessions.load(&unjudged.claims.user_id).await?;
        let judged = self.judge_by(unjudged, read, self.at(&*self.epoch.known().await?));
        match judged {
            Ok(verdict) => Ok(verdict),
            Err(unsettled) => self.settle_verdict(unsettled).await,
        }
    }

    /// Asks the store about many at once: a verdict each, or what [`Engine::settle_verdict`] needs.
    pub async fn judge_all(&self, all: Vec<PendingVerdict>) -> Vec<Judgement> {
        // During a rotation, there can be some whose key is not known yet.
        if all.iter().any(|unjudged| matches!(unjudged, PendingVerdict::UnknownKeyToken(_))) {
            return self.judge_with_new_keys(all).await;
        }
        let verified = all.into_iter().filter_map(|unjudged| match unjudged {
            PendingVerdict::LiveSession(verified) => Some(verified),
            PendingVerdict::UnknownKeyToken(_) => None,
        });
        self.judge_verified(verified.collect()).await
    }

    async fn judge_with_new_keys(&self, all: Vec<PendingVerdict>) -> Vec<Judgement> {
        let looked = self.look_for_keys().await;
        let (mut verified, mut others) = (Vec::new(), Vec::new());
        for (place, unjudged) in all.into_iter().enumerate() {
            match (unjudged, &looked) {
                (PendingVerdict::LiveSession(claimed), _) => verified.push(claimed),
                (PendingVerdict::UnknownKeyToken(_), Err(error)) => {
                    others.push((place, Ok(Err(error.clone().into()))))
                }
                (PendingVerdict::UnknownKeyToken(unverified), Ok(())) => match unverified.verify(self) {
                    Ok(claimed) => verified.push(claimed),
                    Err(rejection) => others.push((place, Ok(Ok(Err(rejection))))),
                },
            }
        }
        let mut judged = self.judge_verified(verified).await;
        // In the order of their places: each finds those before it in theirs.
        for (place, other) in others {
            judged.insert(place, other);
        }
        judged
    }

    async fn judge_verified(&self, all: Vec<VerifiedToken>) -> Vec<Judgement> {
        if self.epoch.known_at_once(Instant::now()).is_some() {
            return self.judge_by_store(all).await;
        }
        // As in `judge`.
        if let Err(error) = self.epoch.known().await {
            return all.iter().map(|_| Ok(Err(error.clone().into()))).collect();
        }
        let now = self.clock.now();
        let mut unknown = Vec::new();
        let mut judge = |unjudged| {
            let verdict = self.judge_by_memory(&unjudged, now);
            if verdict.is_none() {
                unknown.push(unjudged);
            }
            verdict
        };
        let known: Vec<_> = all.into_iter().map(&mut judge).collect();
        let mut asked = self.judge_by_store(unknown).await.into_iter();
        known
            .into_iter()
            .filter_map(|verdict| verdict.map_or_else(|| asked.next(), |known| Some(Ok(Ok(known)))))
            .collect()
    }

    async fn judge_by_store(&self, all: Vec<VerifiedToken>) -> Vec<Judgement> {
        if all.is_empty() {
            return Vec::new();
        }
        let keys: Vec<_> = all.iter().map(|unjudged| &unjudged.claims.user_id).collect();
        let reads = self.sessions.load_many(&keys).await;
        let known = match self.epoch.known().await {
            Ok(known) => known,
            Err(error) => return all.iter().map(|_| Ok(Err(error.clone().into()))).collect(),
        };
        let at = self.at(&known);
        let judge = |(unjudged, read)| match read {
            Ok(read) => self.judge_by(unjudged, read, at).map(Ok),
            Err(error) => Ok(Err(Error::from(error))),
        };
        all.into_iter().zip(reads).map(judge).collect()
    }

    /// The verdict by what the store has said, if nothing has to be written before it may be told.
    fn judge_by(
        &self,
        verified: VerifiedToken,
        read: Versioned<UserSessions>,
        at: At<'_>,
    ) -> Result<Verdict, PendingWrite> {
        let VerifiedToken { claims, peek, .. } = verified;
        let Judged { mut verdict, due } = Judged::of(&claims, &read.state, peek, at);
        let due =
            due.filter(|due| due.is_urgent || self.note_use(&claims, *due, &read, &mut verdict).is_err());
        let unsettled =
            |state: &UserSessions| state.has_lost(&claims) || state.has_timed_out(claims.session_id, at);
        if due.is_some() || (verdict.is_err() && unsettled(&read.state)) {
            return Err(PendingWrite { claims, peek, verdict, due, read });
        }
        Ok(verdict)
    }

    /// Writes what has to be written before the verdict may be told.
    pub async fn settle_verdict(&self, unsettled: PendingWrite) -> Result<Verdict, Error> {
        let PendingWrite { claims, peek, verdict, due, read } = unsettled;
        if verdict.is_err() {
            self.mind_rollback(&claims, &read).await?;
            if let Some(rejection) = self.settle_lapse(&claims, read).await? {
                return Ok(Err(rejection));
            }
            // It was used elsewhere, or here and could not be recorded until now.
            let again =
                PendingVerdict::LiveSession(VerifiedToken { claims, peek, max_staleness: Duration::ZERO });
            return self.judge_again(again).await;
        }
        if let Some(due) = due {
            let used = Use { user_id: claims.user_id.clone(), at: due.used, read };
            self.record_use(claims.session_id, used).await?;
        }
        Ok(verdict)
    }

    /// Boxed, because it leads back to where it comes from.
    fn judge_again(&self, unjudged: PendingVerdict) -> BoxFuture<'_, Result<Verdict, Error>> {
        Box::pin(self.judge(unjudged))
    }

    /// Has a use recorded after its answer, if that can be promised. While the store takes no uses, the answer
    /// promises no more than what is recorded.
    fn note_use(
        &self,
        claims: &Claims,
        due: Due,
        read: &Versioned<UserSessions>,
        verdict: &mut Verdict,
    ) -> Result<(), Full> {
        let used = || Use { user_id: claims.user_id.clone(), at: due.used, read: read.clone() };
        self.touches.note(claims.session_id, used)?;
        if let Ok(verified) = verdict
            && self.touches.is_failing()
        {
            verified.idle_expires_at = verified.session().idle_expires_at();
        }
        Ok(())
    }
}

/// A token that cannot be judged at once.
#[derive(Debug)]
pub enum PendingVerdict {
    /// The store has to be asked about its session.
    LiveSession(VerifiedToken),
    /// Its key is not known: it may have been added since the key directory was last read.
    UnknownKeyToken(Box<UnknownKeyToken>),
}

/// A token whose key is not known, as it was presented.
pub struct UnknownKeyToken {
    token: Box<str>,
    peek: bool,
    max_staleness: Duration,
}

impl std::fmt::Debug for UnknownKeyToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnknownKeyToken").finish_non_exhaustive()
    }
}

impl UnknownKeyToken {
    fn verify(&self, engine: &Engine) -> Result<VerifiedToken, Rejection> {
        let claims = engine.tokens.verify(&self.token, engine.clock.now())?;
        Ok(VerifiedToken { claims, peek: self.peek, max_staleness: self.max_staleness })
    }
}

/// What a token says that is one of ours, and whose time has come and not gone.
#[derive(Debug)]
pub struct VerifiedToken {
    claims: Arc<Claims>,
    peek: bool,
    max_staleness: Duration,
}

/// What has come of asking the store about one of many.
pub type Judgement = Result<Result<Verdict, Error>, PendingWrite>;

/// A verdict that may not be told yet.
#[derive(Debug)]
pub struct PendingWrite {
    claims: Arc<Claims>,
    peek: bool,
    verdict: Verdict,
    /// A use that has to be recorded first.
    due: Option<Due>,
    read: Versioned<UserSessions>,
}

/// A verdict, and what follows from it.
struct Judged {
    verdict: Verdict,
    /// A use of the session that is to be recorded.
    due: Option<Due>,
}

/// A use that is to be recorded.
#[derive(Debug, Clone, Copy)]
struct Due {
    used: Timestamp,
    /// The session has but a touch interval left: before the answer, for without it the session could lapse
    /// although we have confirmed the use.
    is_urgent: bool,
}

impl Judged {
    fn of(claims: &Claims, state: &Arc<UserSessions>, peek: bool, at: At<'_>) -> Self {
        let session = match state.verdict(claims, at) {
            Ok(session) => session,
            Err(rejection) => return Self { verdict: Err(rejection), due: None },
        };
        let due = (!peek && session.use_is_due(at.now))
            .then(|| Due { used: at.now, is_urgent: at.now >= session.idle_expires_at() });
        let verified = LiveSession::of(&claims.user_id, state, session, (!peek).then_some(at.now));
        Self { verdict: Ok(verified), due }
    }
}

impl LiveSession {
    /// A live session of a user with this state, as a use at `used` leaves it.
    pub(super) fn of(
        user_id: &UserId,
        state: &Arc<UserSessions>,
        session: &Session,
        used: Option<Timestamp>,
    ) -> Self {
        let last_seen = used.unwrap_or_default().max(session.last_seen);
        Self {
            user_id: user_id.clone(),
            place: state.sessions.iter().position(|one| one.id == session.id).unwrap_or_default(),
            idle_expires_at: last_seen.after(session.idle_timeout).min(session.expires_at),
            state: Arc::clone(state),
        }
    }

    /// A session that has just been opened.
    pub(crate) fn opened(user_id: UserId, profile: Profile, session: Session) -> Self {
        let idle_expires_at = session.idle_expires_at();
        let state = UserSessions { profile, sessions: vec![session], ..UserSessions::default() };
        Self { user_id, state: Arc::new(state), place: 0, idle_expires_at }
    }

    /// Whose it is.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// Their name.
    pub fn username(&self) -> &str {
        &self.state.profile.username
    }

    /// Their roles, as of the latest login or account change.
    pub fn roles(&self) -> &[Role] {
        &self.state.profile.roles
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.state.sessions[self.place]
    }

    /// It does not time out for want of use before this.
    pub fn idle_expires_at(&self) -> Timestamp {
        self.idle_expires_at
    }
}
