//! Validate: is the session of this token live? Every other service asks on every request.

use std::{
    cell::OnceCell,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::Guard;
use futures_util::future::BoxFuture;

use super::{
    Engine, Error,
    epoch::Known,
    ports::{Moment, Versioned},
    rejection::Rejection,
    sessions::{Context, OneOrMany, Profile, Session, UserSessions},
    token::Keys,
    token_service::TokenCheck,
    types::{Claims, Role, Timestamp, UserId},
    write_behind::{QueueFull, SessionUse},
};

/// The answer to a Validate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The session is live.
    Live(LiveSession),
    /// The token is not good.
    Rejected(Rejection),
}

/// A live session, as verdicts show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSession {
    user_id: UserId,
    /// Shared with all readers of the register: a verdict copies nothing.
    state: Arc<UserSessions>,
    /// The index of the session in `state.sessions`.
    index: usize,
    idle_expires_at: Timestamp,
}

/// What memory alone can say of a token.
#[derive(Debug)]
pub enum Lookup {
    /// The verdict.
    Hit(Verdict),
    /// The store has to be read: [`Engine::resolve`].
    Miss(PendingVerdict),
}

/// A token without a verdict yet.
#[derive(Debug)]
pub enum PendingVerdict {
    /// The signature is good; the session has to be read.
    Verified(VerifiedToken),
    /// The key is not known here. It may have been added since the key directory was last read.
    UnknownKey(Box<UnknownKeyToken>),
}

/// A token whose signature and times are good.
#[derive(Debug)]
pub struct VerifiedToken {
    claims: Arc<Claims>,
    peek: bool,
    max_staleness: Duration,
}

/// A token whose key is not known here.
pub struct UnknownKeyToken {
    token: Box<str>,
    peek: bool,
    max_staleness: Duration,
}

/// What reading the store has led to.
#[derive(Debug)]
pub enum Judged {
    /// The verdict.
    Done(Verdict),
    /// Something must be written before the verdict may be given: [`Engine::complete`].
    NeedsWrite(Box<PendingWrite>),
}

/// A verdict that must not be given before a write.
#[derive(Debug)]
pub struct PendingWrite {
    claims: Arc<Claims>,
    peek: bool,
    verdict: Verdict,
    /// A use that must be recorded first.
    due: Option<DueUse>,
    read: Versioned<UserSessions>,
}

/// A use of a session that has to be recorded.
#[derive(Debug, Clone, Copy)]
struct DueUse {
    at: Timestamp,
    /// The session has at most a touch interval left. The use is recorded before the answer, because the session
    /// could otherwise lapse although its use was confirmed.
    is_urgent: bool,
}

/// What the verdicts of requests share that were received before it began: one reading of the clocks, of the key ring
/// and of the epoch.
///
/// A verdict is as of some time between its request and its answer. The beginning of the round is such a time for every
/// request of the round: they had all been received. State is read for each verdict, and so is newer. A round must end
/// before its thread waits for anything, because a request could arrive meanwhile.
pub struct Round<'a> {
    engine: &'a Engine,
    now: Timestamp,
    moment: Moment,
    keys: Keys<'a>,
    epoch: OnceCell<Option<Guard<Arc<Known>>>>,
}

impl Round<'_> {
    /// Judges a token without waiting.
    ///
    /// Memory may say that a session is live, and repeat a terminal rejection. Any other rejection could be due to a
    /// login or a use that this server has not heard of yet, so the store is read.
    pub fn validate(&self, token: &str, peek: bool, max_staleness: Option<Duration>) -> Lookup {
        let max_staleness = max_staleness.unwrap_or(self.engine.max_staleness);
        let claims = match self.engine.tokens.check_with(&self.keys, token, self.now) {
            TokenCheck::Good(claims) => claims,
            TokenCheck::Rejected(rejection) => return Lookup::Hit(Verdict::Rejected(rejection)),
            TokenCheck::UnknownKey => {
                let token = UnknownKeyToken { token: token.into(), peek, max_staleness };
                return Lookup::Miss(PendingVerdict::UnknownKey(Box::new(token)));
            }
        };
        let verified = VerifiedToken { claims, peek, max_staleness };
        match self.judge(&verified) {
            Some(verdict) => Lookup::Hit(verdict),
            None => Lookup::Miss(PendingVerdict::Verified(verified)),
        }
    }

    fn judge(&self, token: &VerifiedToken) -> Option<Verdict> {
        let VerifiedToken { claims, peek, max_staleness } = token;
        let Engine { sessions, .. } = self.engine;
        let read = sessions.recall(&claims.user_id, *max_staleness, &self.moment)?;
        let epoch = self.epoch.get_or_init(|| sessions.epoch().known_at_once(*self.moment)).as_ref()?;
        let (mut verdict, due) = judge(claims, &read.state, *peek, sessions.at_moment(self.now, epoch));
        let is_final = match &verdict {
            Verdict::Live(_) => true,
            Verdict::Rejected(rejection) => rejection.reason.is_terminal(),
        };
        let is_recorded = match due {
            None => true,
            Some(due) => !due.is_urgent && self.engine.note_use(claims, due, &read, &mut verdict).is_ok(),
        };
        (is_final && is_recorded).then_some(verdict)
    }
}

impl Engine {
    /// Judges a token and, unless this is a `peek`, slides the idle timeout of its session.
    ///
    /// The answer is at most `max_staleness` old; `None` means the configured default. The signature is verified before
    /// the store is read, so a forged token never causes a read. Uses are recorded after the answer
    /// ([`write_behind`](super::write_behind)) where the session cannot lapse meanwhile.
    pub async fn validate(
        &self,
        token: &str,
        peek: bool,
        max_staleness: Option<Duration>,
    ) -> Result<Verdict, Error> {
        match self.validate_from_memory(token, peek, max_staleness) {
            Lookup::Hit(verdict) => Ok(verdict),
            Lookup::Miss(pending) => self.resolve(pending).await,
        }
    }

    /// Judges a token without waiting, as is possible for most tokens most of the time.
    pub fn validate_from_memory(&self, token: &str, peek: bool, max_staleness: Option<Duration>) -> Lookup {
        self.round().validate(token, peek, max_staleness)
    }

    /// Begins a round of verdicts for requests that have been received by now.
    pub fn round(&self) -> Round<'_> {
        Round {
            engine: self,
            now: self.clock.now(),
            moment: Moment::new(Instant::now),
            keys: self.tokens.keys(),
            epoch: OnceCell::new(),
        }
    }

    fn judge_from_memory(&self, token: &VerifiedToken) -> Option<Verdict> {
        self.round().judge(token)
    }

    /// Reads the store for a verdict that memory could not give.
    pub async fn resolve(&self, pending: PendingVerdict) -> Result<Verdict, Error> {
        let token = match pending {
            PendingVerdict::Verified(token) => token,
            PendingVerdict::UnknownKey(token) => {
                self.tokens.read_new_keys().await?;
                match self.verify_again(*token) {
                    Ok(token) => token,
                    Err(rejection) => return Ok(Verdict::Rejected(rejection)),
                }
            }
        };
        if self.sessions.epoch().known_at_once(Instant::now()).is_none() {
            // The epoch may be all that was missing: it is read once for all requests that wait.
            self.sessions.epoch().known().await?;
            if let Some(verdict) = self.judge_from_memory(&token) {
                return Ok(verdict);
            }
        }
        let read = self.sessions.load(&token.claims.user_id).await?;
        let epoch = self.sessions.epoch().known().await?;
        let judged = self.judge_read(token, read, self.sessions.at(&epoch));
        drop(epoch);
        match judged {
            Judged::Done(verdict) => Ok(verdict),
            Judged::NeedsWrite(pending) => self.complete(*pending).await,
        }
    }

    /// Reads the store for many verdicts at once. The results are in the order of `pending`.
    pub async fn resolve_all(&self, pending: Vec<PendingVerdict>) -> Vec<Result<Judged, Error>> {
        if pending.iter().any(|pending| matches!(pending, PendingVerdict::UnknownKey(_))) {
            return self.resolve_with_new_keys(pending).await;
        }
        let verified = pending.into_iter().filter_map(|pending| match pending {
            PendingVerdict::Verified(token) => Some(token),
            PendingVerdict::UnknownKey(_) => None,
        });
        self.resolve_verified(verified.collect()).await
    }

    async fn resolve_with_new_keys(&self, pending: Vec<PendingVerdict>) -> Vec<Result<Judged, Error>> {
        let read = self.tokens.read_new_keys().await;
        let (mut verified, mut others) = (Vec::new(), Vec::new());
        for (index, pending) in pending.into_iter().enumerate() {
            match (pending, &read) {
                (PendingVerdict::Verified(token), _) => verified.push(token),
                (PendingVerdict::UnknownKey(_), Err(error)) => {
                    others.push((index, Err(error.clone().into())));
                }
                (PendingVerdict::UnknownKey(token), Ok(())) => match self.verify_again(*token) {
                    Ok(token) => verified.push(token),
                    Err(rejection) => others.push((index, Ok(Judged::Done(Verdict::Rejected(rejection))))),
                },
            }
        }
        let mut judged = self.resolve_verified(verified).await;
        // In ascending order, so that each index is right when its result is inserted.
        for (index, other) in others {
            judged.insert(index, other);
        }
        judged
    }

    async fn resolve_verified(&self, tokens: Vec<VerifiedToken>) -> Vec<Result<Judged, Error>> {
        if self.sessions.epoch().known_at_once(Instant::now()).is_some() {
            return self.resolve_by_store(tokens).await;
        }
        // As in `resolve`.
        if let Err(error) = self.sessions.epoch().known().await {
            return tokens.iter().map(|_| Err(error.clone().into())).collect();
        }
        let mut misses = Vec::new();
        let mut judge = |token| {
            let verdict = self.judge_from_memory(&token);
            if verdict.is_none() {
                misses.push(token);
            }
            verdict
        };
        let hits: Vec<_> = tokens.into_iter().map(&mut judge).collect();
        let mut resolved = self.resolve_by_store(misses).await.into_iter();
        hits.into_iter()
            .filter_map(|hit| hit.map_or_else(|| resolved.next(), |verdict| Some(Ok(Judged::Done(verdict)))))
            .collect()
    }

    async fn resolve_by_store(&self, tokens: Vec<VerifiedToken>) -> Vec<Result<Judged, Error>> {
        if tokens.is_empty() {
            return Vec::new();
        }
        let users: Vec<_> = tokens.iter().map(|token| &token.claims.user_id).collect();
        let reads = self.sessions.load_many(&users).await;
        let epoch = match self.sessions.epoch().known().await {
            Ok(epoch) => epoch,
            Err(error) => return tokens.iter().map(|_| Err(error.clone().into())).collect(),
        };
        let at = self.sessions.at(&epoch);
        let judge = |(token, read): (_, Result<_, _>)| Ok(self.judge_read(token, read?, at));
        tokens.into_iter().zip(reads).map(judge).collect()
    }

    /// Judges by what the store holds.
    fn judge_read(&self, token: VerifiedToken, read: Versioned<UserSessions>, at: Context<'_>) -> Judged {
        let VerifiedToken { claims, peek, .. } = token;
        let (mut verdict, due) = judge(&claims, &read.state, peek, at);
        let due =
            due.filter(|due| due.is_urgent || self.note_use(&claims, *due, &read, &mut verdict).is_err());
        // A lost login and a lapse that is not written down yet are written before they are reported.
        let is_unwritten = matches!(verdict, Verdict::Rejected(_))
            && (read.state.has_lost_login(&claims) || read.state.has_timed_out(claims.session_id, at));
        if due.is_some() || is_unwritten {
            return Judged::NeedsWrite(Box::new(PendingWrite { claims, peek, verdict, due, read }));
        }
        Judged::Done(verdict)
    }

    /// Writes what must be written before the verdict may be given.
    pub async fn complete(&self, pending: PendingWrite) -> Result<Verdict, Error> {
        let PendingWrite { claims, peek, verdict, due, read } = pending;
        if let Verdict::Rejected(_) = verdict {
            self.detect_rollback(&claims, &read).await?;
            if let Some(rejection) = self.record_lapse(&claims, read).await? {
                return Ok(Verdict::Rejected(rejection));
            }
            // The session was used on another server, or here and not recorded until now.
            let token = VerifiedToken { claims, peek, max_staleness: Duration::ZERO };
            return self.resolve_again(PendingVerdict::Verified(token)).await;
        }
        if let Some(due) = due {
            let used = SessionUse { user_id: claims.user_id.clone(), at: due.at, read };
            self.sessions.record_use(claims.session_id, used).await?;
        }
        Ok(verdict)
    }

    /// Boxed, because `resolve` and `complete` call each other.
    fn resolve_again(&self, pending: PendingVerdict) -> BoxFuture<'_, Result<Verdict, Error>> {
        Box::pin(self.resolve(pending))
    }

    fn verify_again(&self, token: UnknownKeyToken) -> Result<VerifiedToken, Rejection> {
        let UnknownKeyToken { token, peek, max_staleness } = token;
        let claims = self.tokens.verify(&token, self.clock.now())?;
        Ok(VerifiedToken { claims, peek, max_staleness })
    }

    /// Queues a use to be recorded after the answer. While the store takes no uses, the verdict promises no more than
    /// what is recorded.
    fn note_use(
        &self,
        claims: &Claims,
        due: DueUse,
        read: &Versioned<UserSessions>,
        verdict: &mut Verdict,
    ) -> Result<(), QueueFull> {
        let used = || SessionUse { user_id: claims.user_id.clone(), at: due.at, read: read.clone() };
        self.uses.enqueue(claims.session_id, used)?;
        if let Verdict::Live(session) = verdict
            && self.uses.is_failing()
        {
            session.idle_expires_at = session.session().idle_expires_at();
        }
        Ok(())
    }
}

/// The verdict by the state of a user's sessions, and the use that follows from it.
fn judge(
    claims: &Claims,
    state: &Arc<UserSessions>,
    peek: bool,
    at: Context<'_>,
) -> (Verdict, Option<DueUse>) {
    let session = match state.verdict(claims, at) {
        Ok(session) => session,
        Err(rejection) => return (Verdict::Rejected(rejection), None),
    };
    let due = (!peek && session.is_touch_due(at.now))
        .then(|| DueUse { at: at.now, is_urgent: at.now >= session.idle_expires_at() });
    let live = LiveSession::of(&claims.user_id, state, session, (!peek).then_some(at.now));
    (Verdict::Live(live), due)
}

impl fmt::Debug for UnknownKeyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnknownKeyToken").finish_non_exhaustive()
    }
}

impl LiveSession {
    /// A live session in `state`, with the idle timeout that a use at `used` leads to.
    pub(super) fn of(
        user_id: &UserId,
        state: &Arc<UserSessions>,
        session: &Session,
        used: Option<Timestamp>,
    ) -> Self {
        let last_seen = used.unwrap_or_default().max(session.last_seen);
        Self {
            user_id: user_id.clone(),
            index: state.sessions.iter().position(|one| one.id == session.id).unwrap_or_default(),
            idle_expires_at: last_seen.after(session.idle_timeout.duration()).min(session.expires_at),
            state: Arc::clone(state),
        }
    }

    /// A session that was just opened.
    pub(crate) fn opened(user_id: UserId, profile: Profile, session: Session) -> Self {
        let idle_expires_at = session.idle_expires_at();
        let state = UserSessions { profile, sessions: OneOrMany::One(session), ..UserSessions::default() };
        Self { user_id, state: Arc::new(state), index: 0, idle_expires_at }
    }

    /// The user's id.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// The user's name.
    pub fn username(&self) -> &str {
        &self.state.profile.username
    }

    /// The user's roles, as of the latest login or account change.
    pub fn roles(&self) -> &[Role] {
        &self.state.profile.roles
    }

    /// The session as it is stored.
    pub fn session(&self) -> &Session {
        &self.state.sessions[self.index]
    }

    /// The session does not end by its idle timeout before this moment.
    pub fn idle_expires_at(&self) -> Timestamp {
        self.idle_expires_at
    }
}
