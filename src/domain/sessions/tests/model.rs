//! The state machine against a model that is too simple to be wrong, under random interleavings.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

/// What happens to a user.
#[derive(Debug, Clone)]
enum Command {
    Login {
        slot: usize,
    },
    /// Of one of the tokens ever given out.
    Logout {
        token: usize,
    },
    LogoutOthers {
        token: usize,
    },
    Touch {
        token: usize,
    },
    Disable,
    ChangePassword,
    Rename,
    Advance(Duration),
    /// A replica whose clock is behind.
    SetBack(Duration),
    /// A commit that lost its race: the decision on an old state is thrown away.
    Lost,
}

const SLOTS: [&str; 2] = ["web", "mobile"];

/// Which of the tokens ever given out, counted from the latest.
fn token() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..3_usize, 1 => 0..40_usize]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => (0..2_usize).prop_map(|slot| Command::Login { slot }),
        3 => token().prop_map(|token| Command::Logout { token }),
        1 => token().prop_map(|token| Command::LogoutOthers { token }),
        5 => token().prop_map(|token| Command::Touch { token }),
        1 => Just(Command::Disable),
        1 => Just(Command::ChangePassword),
        1 => Just(Command::Rename),
        4 => (0..400_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        3 => (0..30_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        3 => (590..640_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        1 => (0..3_000_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        1 => (1..5_u64).prop_map(|seconds| Command::SetBack(Duration::from_secs(seconds))),
        1 => Just(Command::Lost),
    ]
}

/// What the model knows of a token: everything, for ever.
#[derive(Debug, Clone)]
struct Known {
    session: Session,
    /// Why it was ended, once it was.
    ended: Option<Reason>,
    /// The latest use that was confirmed.
    used: Timestamp,
}

struct World {
    limit: u32,
    state: UserSessions,
    now: Timestamp,
    /// The furthest that any clock has been: deadlines that have passed once stay passed in the model.
    furthest: Timestamp,
    tokens: Vec<Known>,
    events: BTreeMap<SessionId, u32>,
}

impl World {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            state: UserSessions::default(),
            now: START,
            furthest: START,
            tokens: Vec::new(),
            events: BTreeMap::new(),
        }
    }

    fn take<T>(&mut self, next: Next<T>) -> T {
        assert!(next.state.generation >= self.state.generation, "generations never go back");
        assert!(next.state.tombstones.len() <= MAX_TOMBSTONES);
        self.state = next.state;
        for event in next.events {
            *self.events.entry(event.session_id).or_default() += 1;
        }
        next.outcome
    }

    fn judge(&self, token: &Known) -> Result<&Session, Rejection> {
        // As the token itself would, before any store is asked.
        if self.now >= token.session.expires_at {
            return Err(Rejection::at(Reason::Expired, token.session.expires_at));
        }
        self.state.verdict(&claims(&token.session), self.now)
    }

    /// Whether the model holds a token live: nobody ended it, and neither clock has.
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

    fn apply(&mut self, command: &Command) {
        match command {
            Command::Login { slot } => self.login(SLOTS[*slot]),
            Command::Logout { token } => self.logout(*token, false),
            Command::LogoutOthers { token } => self.logout(*token, true),
            Command::Touch { token } => self.use_token(*token),
            Command::Disable => self.fence(Reason::AccountDisabled),
            Command::ChangePassword => self.fence(Reason::CredentialsChanged),
            Command::Rename => {
                let profile = Profile { username: "alicia".into(), roles: Vec::new() };
                self.take(self.state.rename(profile, at(self.now)));
            }
            Command::Advance(by) => {
                self.now = self.now.after(*by);
                self.furthest = self.furthest.max(self.now);
            }
            Command::SetBack(by) => {
                self.now =
                    Timestamp::from_micros(self.now.as_micros() - u64::try_from(by.as_micros()).unwrap());
            }
            Command::Lost => drop(self.state.open(open(u64::MAX, "web", "lost", self.limit), at(self.now))),
        }
    }

    fn login(&mut self, slot: &str) {
        let number = self.tokens.len() as u64;
        let before: Vec<_> = self.tokens.iter().map(|token| self.is_live(token)).collect();
        let device = format!("device {number}");
        let opened = self.take(self.state.open(open(number, slot, &device, self.limit), at(self.now)));
        assert!(
            self.tokens.iter().all(|token| token.session.generation < opened.session.generation),
            "every login has a higher generation than all before it, whatever the clock says"
        );
        let reason = if self.limit == 1 { Reason::Replaced } else { Reason::Evicted };
        for gone in &opened.displaced {
            let index = self.tokens.iter().position(|token| token.session.id == gone.id).unwrap();
            assert!(before[index], "only the living are displaced");
            assert_eq!(gone.slot.as_str(), slot, "only in the same slot");
            self.tokens[index].ended = Some(reason);
        }
        self.tokens.push(Known { used: self.now, session: opened.session, ended: None });
        let holders =
            self.tokens.iter().filter(|token| token.session.slot.as_str() == slot && self.is_live(token));
        assert!(holders.count() <= self.limit as usize, "a slot holds no more than its limit");
    }

    fn logout(&mut self, token: usize, others: bool) {
        let Some(known) = self.tokens.iter().rev().nth(token).cloned() else { return };
        if !self.is_live(&known) {
            return;
        }
        let own = known.session.id;
        let living =
            self.tokens.iter().filter(|other| (other.session.id == own) != others && self.is_live(other));
        let living = u32::try_from(living.count()).unwrap();
        self.end_where(|other| (other.session.id == own) != others, Reason::LoggedOut);
        let which = |session: &Session| (session.id == own) != others;
        let ended = self.take(self.state.close(which, Reason::LoggedOut, at(self.now)));
        assert_eq!(ended, living);
    }

    fn use_token(&mut self, token: usize) {
        let Some(known) = self.tokens.iter().rev().nth(token).cloned() else { return };
        let live = self.is_live(&known);
        match self.state.touch(known.session.id, self.now) {
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
        if live {
            let index = self.tokens.len() - 1 - token;
            self.tokens[index].used = known.used.max(self.now);
        }
    }

    fn fence(&mut self, reason: Reason) {
        self.end_where(|_| true, reason);
        self.take(self.state.fence(reason, ABSOLUTE, at(self.now)));
    }

    /// What must be true of every token at every moment.
    fn check(&self) {
        for token in &self.tokens {
            let verdict = self.judge(token);
            match (token.ended, &verdict) {
                // P1 and P2: what was ended stays dead.
                (Some(reason), Ok(session)) => panic!("ended as {reason:?} and live again: {session:?}"),
                (Some(ended), Err(rejection)) => self.check_reason(token, ended, rejection),
                (None, Ok(session)) => {
                    // P4: not a moment longer than the absolute deadline, nor than idle allows.
                    assert!(self.now < session.expires_at);
                    assert!(self.now < token.used.after(IDLE).after(TOUCH), "idle, and live too long");
                }
                (None, Err(rejection)) => self.check_lapse(token, rejection),
            }
        }
        for count in self.events.values() {
            assert_eq!(*count, 1, "every end is told once");
        }
    }

    fn check_reason(&self, token: &Known, ended: Reason, rejection: &Rejection) {
        let reason = rejection.reason;
        if reason == Reason::Expired {
            assert!(self.now >= token.session.expires_at);
            return;
        }
        if self.state.tombstones.iter().any(|grave| grave.id == token.session.id) {
            assert_eq!(reason, ended, "as long as it is remembered, the reason is exact");
        } else {
            let fallbacks = [
                ended,
                Reason::Replaced,
                Reason::AccountDisabled,
                Reason::CredentialsChanged,
                Reason::UnknownSession,
            ];
            assert!(fallbacks.contains(&reason), "{ended:?} became {reason:?}");
        }
    }

    /// Nobody ended it, and yet it is dead: then its time was up.
    fn check_lapse(&self, token: &Known, rejection: &Rejection) {
        if rejection.reason == Reason::Expired {
            assert!(self.now >= token.session.expires_at);
        } else {
            // P4: never before its time. (A clock may have been set back since it was seen dead.)
            assert!(self.furthest >= token.used.after(IDLE), "timed out early: {rejection:?}");
            let remembered = self.state.tombstones.iter().any(|grave| grave.id == token.session.id);
            assert!(!remembered || rejection.reason == Reason::IdleTimeout, "{rejection:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold(limit in 1..4_u32, commands in vec(command(), 1..80)) {
        let mut world = World::new(limit);
        for command in &commands {
            world.apply(command);
            world.check();
        }
    }

    #[test]
    fn what_is_forgotten_no_longer_matters(commands in vec(command(), 1..40)) {
        let mut world = World::new(1);
        for command in &commands {
            world.apply(command);
        }
        let forgotten = world.state.keep_until(world.now);
        for token in &world.tokens {
            prop_assert!(token.session.expires_at <= forgotten || token.ended.is_some());
        }
        // The register is gone, and with it every generation: nobody lives, and the next login is newer.
        let next = UserSessions::default().open(open(u64::MAX, "web", "", 1), at(forgotten)).outcome.session;
        for token in &world.tokens {
            prop_assert!(token.session.generation < next.generation);
            let empty = UserSessions::default();
            let verdict = empty.verdict(&claims(&token.session), forgotten);
            prop_assert_eq!(verdict, Err(Rejection::bare(Reason::UnknownSession)));
        }
    }
}
