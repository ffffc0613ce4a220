//! The model: everything that has happened to a user, and the invariants that must hold.

use std::collections::BTreeMap;

use super::{super::*, Command, SLOTS};

/// The history of a token, which is never forgotten.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) session: Session,
    key: Option<u64>,
    /// Why the session was ended, if it was.
    pub(super) ended: Option<Reason>,
    /// The latest confirmed use.
    used: Timestamp,
    /// The session is dead, but the reported reason may differ: a rollback lost it or brought it back, or another epoch
    /// followed the one that ended it.
    inexact: bool,
}

pub(super) struct World {
    policy: SlotPolicy,
    pub(super) state: UserSessions,
    epoch: Epoch,
    /// The states that were committed before, the latest last.
    history: Vec<UserSessions>,
    pub(super) now: Timestamp,
    /// The latest time of any clock: deadlines that have passed stay passed in the model.
    furthest: Timestamp,
    pub(super) tokens: Vec<Known>,
    /// When each slot changed hands.
    handovers: Vec<(usize, Timestamp)>,
    events: BTreeMap<SessionId, u32>,
}

impl World {
    pub(super) fn new(policy: SlotPolicy) -> Self {
        Self {
            policy,
            state: UserSessions::default(),
            epoch: Epoch::FIRST,
            history: Vec::new(),
            now: START,
            furthest: START,
            tokens: Vec::new(),
            handovers: Vec::new(),
            events: BTreeMap::new(),
        }
    }

    fn at(&self) -> Context<'_> {
        Context { epoch: &self.epoch, ..at(self.now) }
    }

    fn take<T>(&mut self, next: Transition<T>) -> T {
        assert!(next.state.generation >= self.state.generation, "generations never go back");
        assert!(next.state.tombstones.len() <= MAX_TOMBSTONES);
        self.history.push(std::mem::replace(&mut self.state, next.state));
        for event in next.events {
            *self.events.entry(event.session_id).or_default() += 1;
        }
        next.outcome
    }

    fn judge(&self, token: &Known) -> Result<&Session, Rejection> {
        // The token itself has expired, before the store is read.
        if self.now >= token.session.expires_at {
            return Err(Rejection::at(Reason::Expired, token.session.expires_at));
        }
        self.state.verdict(&claims(&token.session), self.at())
    }

    /// Whether a token is live in the model.
    fn is_live(&self, token: &Known) -> bool {
        self.judge(token).is_ok()
    }

    fn end_where(&mut self, which: impl Fn(&Known) -> bool, reason: Reason) {
        let live: Vec<_> = self.tokens.iter().map(|token| self.is_live(token)).collect();
        for (token, live) in self.tokens.iter_mut().zip(live) {
            if which(token) && live && token.ended.is_none() {
                token.ended = Some(reason);
            }
        }
    }

    pub(super) fn apply(&mut self, command: &Command) {
        match command {
            Command::Login { slot, key, takeover } => self.login(*slot, *key, *takeover),
            Command::Logout { token } => self.logout(*token, false),
            Command::LogoutOthers { token } => self.logout(*token, true),
            Command::Touch { token } => self.use_token(*token),
            Command::Kick => self.fence(Reason::Kicked),
            Command::KickSlot { slot } => {
                let slot = SLOTS[*slot];
                self.end_where(|token| token.session.slot.as_str() == slot, Reason::Kicked);
                let which = |session: &Session| session.slot.as_str() == slot;
                self.take(self.state.close(which, Reason::Kicked, self.at()));
            }
            Command::BeginEpoch => {
                for token in self.tokens.iter_mut().filter(|token| token.ended.is_some()) {
                    token.inexact = true;
                }
                self.end_where(|_| true, Reason::Kicked);
                self.epoch = Epoch::after(self.epoch.number, self.now, None);
            }
            Command::Disable => self.fence(Reason::AccountDisabled),
            Command::ChangePassword => self.fence(Reason::CredentialsChanged),
            Command::UpdateProfile => {
                let profile = Profile { username: "alicia".into(), ..Profile::default() };
                self.take(self.state.update_profile(profile, self.at()));
            }
            Command::Advance(by) => {
                self.now = self.now.after(*by);
                self.furthest = self.furthest.max(self.now);
            }
            Command::SetBack(by) => {
                self.now =
                    Timestamp::from_micros(self.now.as_micros() - u64::try_from(by.as_micros()).unwrap());
            }
            Command::Conflict => drop(self.state.open(open(u64::MAX, "web", "conflict", 1), self.at())),
            Command::Rollback { commits } => self.roll_back(*commits),
        }
    }

    fn login(&mut self, slot: usize, key: Option<u64>, takeover: bool) {
        let number = self.tokens.len() as u64;
        let command = Open {
            policy: self.policy,
            login_key: key.map(|key| LoginKey::from_hash(key + 1)),
            takeover,
            ..open(number, SLOTS[slot], &format!("device {}", number % 2), 1)
        };
        match self.state.open(command, self.at()) {
            Ok(next) => self.logged_in(slot, key, takeover, next),
            Err(error) => self.not_opened(slot, key, takeover, error),
        }
    }

    fn logged_in(&mut self, slot: usize, key: Option<u64>, takeover: bool, next: Transition<Opened>) {
        assert!(self.repeated(key).is_none(), "a repeated login must not open another session");
        let before: Vec<_> = self.tokens.iter().map(|token| self.is_live(token)).collect();
        let opened = self.take(next);
        assert!(
            self.tokens.iter().all(|token| token.session.generation < opened.session.generation),
            "every login has a higher generation than all before it"
        );
        let denying = self.policy.on_limit == OnLimit::Deny && !takeover;
        assert!(!denying || opened.displaced.is_empty(), "`deny` displaces no session");
        if !opened.displaced.is_empty() {
            self.handovers.push((slot, self.now));
        }
        for gone in &opened.displaced {
            let index = self.tokens.iter().position(|token| token.session.id == gone.id).unwrap();
            assert!(before[index], "only live sessions are displaced");
            let own = gone.slot.as_str() == SLOTS[slot];
            assert!(own || self.policy.exclusive, "only sessions of the same slot are displaced");
            let evicted = own && self.policy.limit.get() > 1;
            self.tokens[index].ended = Some(if evicted { Reason::Evicted } else { Reason::Replaced });
        }
        self.check_victims(&opened.displaced, SLOTS[slot]);
        let (used, session) = (self.now, opened.session);
        self.tokens.push(Known { session, key, ended: None, used, inexact: false });
        let holders = self.tokens.iter().filter(|token| {
            (self.policy.exclusive || token.session.slot.as_str() == SLOTS[slot]) && self.is_live(token)
        });
        assert!(holders.count() <= self.policy.limit.get() as usize, "a slot never exceeds its limit");
    }

    /// Checks that the remaining sessions are newer than the displaced ones by the policy of the slot.
    fn check_victims(&self, displaced: &[Session], slot: &str) {
        let rank = |session: &Session| match self.policy.victim {
            Victim::Oldest => (Timestamp::default(), session.generation),
            Victim::LeastRecentlyUsed => (session.last_seen, session.generation),
        };
        let last_gone = displaced.iter().filter(|gone| gone.slot.as_str() == slot).map(rank).max();
        let newest = self.state.sessions.iter().map(|session| session.generation).max();
        let stayed = self
            .state
            .sessions
            .iter()
            .filter(|session| session.slot.as_str() == slot && Some(session.generation) != newest);
        assert!(last_gone <= stayed.map(rank).min().or(last_gone), "the wrong session was displaced");
    }

    fn not_opened(&mut self, slot: usize, key: Option<u64>, takeover: bool, error: OpenError) {
        match error {
            OpenError::Repeated(session) => {
                let known = self.repeated(key).expect("the key was used before");
                assert_eq!((known.session.id, known.session.slot.as_str()), (session.id, SLOTS[slot]));
                assert!(self.is_live(known));
            }
            OpenError::KeyOfOtherSlot(other) => {
                let known = self.repeated(key).expect("the key was used before");
                assert!(known.session.slot == other && other.as_str() != SLOTS[slot]);
            }
            OpenError::RepeatedTooLate(_) => {
                let now = self.now;
                // A tombstone knows only the generation of the session, which is ahead of a clock that was set back.
                let opened = |token: &Known| Timestamp::from_micros(token.session.generation.0);
                let mut same = self.tokens.iter().filter(|token| token.key == key && key.is_some());
                assert!(same.any(|token| now.since(opened(token)) < IDEMPOTENCY_WINDOW));
            }
            OpenError::Full(holder) => {
                assert!(self.policy.on_limit == OnLimit::Deny && !takeover);
                let known = self.tokens.iter().find(|token| token.session.id == holder.id).unwrap();
                assert!(self.is_live(known), "a dead session occupies no slot");
            }
            OpenError::KickWar(wait) => {
                let KickWar { changes, window } = self.policy.kick_war;
                assert!(changes > 0 && wait <= window + Duration::from_secs(20));
                let own = |(other, _): &&(usize, _)| self.policy.exclusive || *other == slot;
                let count = self.handovers.iter().filter(own).count();
                assert!(count >= changes, "a kick war after {count} changes");
            }
        }
    }

    /// The live session of a recent login with this key.
    fn repeated(&self, key: Option<u64>) -> Option<&Known> {
        self.tokens.iter().rev().find(|token| {
            key.is_some()
                && token.key == key
                && self.now.since(token.session.issued_at) < IDEMPOTENCY_WINDOW
                && self.is_live(token)
        })
    }

    /// Loses commits, and ends the sessions that are live again.
    fn roll_back(&mut self, commits: usize) {
        let Some(kept) = self.history.len().checked_sub(commits) else { return };
        let newest = self.tokens.iter().max_by_key(|token| token.session.generation).cloned();
        let Some(newest) = newest.filter(|token| token.session.generation > self.history[kept].generation)
        else {
            return;
        };
        self.state = self.history[kept].clone();
        self.history.truncate(kept);
        let claims = claims(&newest.session);
        assert!(self.state.has_lost_login(&claims));
        let epoch = self.epoch.clone();
        let at = Context { epoch: &epoch, ..at(self.now) };
        assert!(self.state.verdict(&claims, at).is_err());
        self.events.clear();
        let next = self.state.recover(&claims, ABSOLUTE, at);
        self.take(next);
        assert!(!self.state.has_lost_login(&claims), "a rollback is detected once");
        for token in &mut self.tokens {
            token.ended = token.ended.or(Some(Reason::UnknownSession));
            token.inexact = true;
        }
    }

    fn logout(&mut self, token: usize, others: bool) {
        let Some(known) = self.tokens.iter().rev().nth(token).cloned() else { return };
        if !self.is_live(&known) {
            return;
        }
        let own = known.session.id;
        let live =
            self.tokens.iter().filter(|other| (other.session.id == own) != others && self.is_live(other));
        let live = u32::try_from(live.count()).unwrap();
        self.end_where(|other| (other.session.id == own) != others, Reason::LoggedOut);
        let which = |session: &Session| (session.id == own) != others;
        let ended = self.take(self.state.close(which, Reason::LoggedOut, self.at()));
        assert_eq!(ended, live);
    }

    fn use_token(&mut self, token: usize) {
        let Some(known) = self.tokens.iter().rev().nth(token).cloned() else { return };
        let live = self.is_live(&known);
        // A use from a moment ago that is recorded now.
        let earlier = self.now.before(TOUCH / 2);
        if let Some(next) = self.state.touch(known.session.id, earlier, self.at()) {
            let then = Context { now: earlier, ..self.at() };
            let unreported = self.state.has_timed_out(known.session.id, self.at());
            assert!(live || unreported, "a late record does not revive a session that was reported dead");
            assert!(
                self.state.verdict(&claims(&known.session), then).is_ok(),
                "a late record does not revive a session that was dead at the time of use"
            );
            let seen = |state: &UserSessions| {
                state.sessions.iter().find(|session| session.id == known.session.id).unwrap().last_seen
            };
            assert!(seen(&next.state) == earlier && earlier > seen(&self.state), "`last_seen` only grows");
        }
        match self.state.touch(known.session.id, self.now, self.at()) {
            Some(next) => {
                assert!(live, "a dead session is not touched");
                self.take(next);
            }
            None => {
                if live {
                    let stored = self.state.sessions.iter().find(|session| session.id == known.session.id);
                    let age = self.now.since(stored.unwrap().last_seen);
                    assert!(age < TOUCH, "a use that is due is recorded");
                }
            }
        }
        let index = self.tokens.len() - 1 - token;
        if live {
            self.tokens[index].used = known.used.max(self.now);
        } else if self.state.has_timed_out(known.session.id, self.at()) {
            // The timeout is reported, so it must stay, whatever the clocks do.
            self.take(self.state.close(|_| false, Reason::IdleTimeout, self.at()));
            assert!(!self.state.has_timed_out(known.session.id, self.at()), "a timeout is recorded once");
            self.tokens[index].ended = known.ended.or(Some(Reason::IdleTimeout));
        }
    }

    fn fence(&mut self, reason: Reason) {
        self.end_where(|_| true, reason);
        self.take(self.state.fence(reason, ABSOLUTE, self.at()));
    }

    /// Checks the invariants of every token.
    pub(super) fn check(&self) {
        for token in &self.tokens {
            let verdict = self.judge(token);
            match (token.ended, &verdict) {
                // P1 and P2: an ended session stays dead.
                (Some(reason), Ok(session)) => panic!("ended as {reason:?} and live again: {session:?}"),
                (Some(ended), Err(rejection)) => self.check_reason(token, ended, rejection),
                (None, Ok(session)) => {
                    // P4: no session outlives its absolute deadline or its idle timeout.
                    assert!(self.now < session.expires_at);
                    assert!(self.now < token.used.after(IDLE).after(TOUCH), "live beyond the idle timeout");
                }
                (None, Err(rejection)) => self.check_lapse(token, rejection),
            }
        }
        for count in self.events.values() {
            assert_eq!(*count, 1, "every end has exactly one event");
        }
    }

    fn check_reason(&self, token: &Known, ended: Reason, rejection: &Rejection) {
        let reason = rejection.reason;
        if reason == Reason::Expired {
            assert!(self.now >= token.session.expires_at);
            return;
        }
        if token.inexact {
            return;
        }
        if self.state.tombstones.iter().any(|tombstone| tombstone.id == token.session.id) {
            assert_eq!(reason, ended, "a tombstone keeps the exact reason");
        } else {
            let fallbacks = [
                ended,
                Reason::Replaced,
                Reason::Kicked,
                Reason::AccountDisabled,
                Reason::CredentialsChanged,
                Reason::UnknownSession,
            ];
            assert!(fallbacks.contains(&reason), "{ended:?} became {reason:?}");
        }
    }

    /// Checks a session that is dead although nothing ended it: one of its timeouts must have passed.
    fn check_lapse(&self, token: &Known, rejection: &Rejection) {
        if rejection.reason == Reason::Expired {
            assert!(self.now >= token.session.expires_at);
        } else {
            // P4: no session times out early. (A clock may have been set back since the timeout.)
            assert!(self.furthest >= token.used.after(IDLE), "timed out early: {rejection:?}");
            let remembered = self.state.tombstones.iter().any(|tombstone| tombstone.id == token.session.id);
            // A clock that was set back after the end of an epoch can find the epoch before the timeout.
            let kicked = rejection.reason == Reason::Kicked && token.session.epoch < self.epoch.number;
            assert!(!remembered || kicked || rejection.reason == Reason::IdleTimeout, "{rejection:?}");
        }
    }
}
