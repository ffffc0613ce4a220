//! The state machine against a model that is too simple to be wrong, under random interleavings.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::domain::types::UserId;

const TOMBSTONE_TTL: Duration = Duration::from_hours(2);
const IDLE: Duration = Duration::from_mins(10);
const ABSOLUTE: Duration = Duration::from_hours(1);
const TOUCH: Duration = Duration::from_secs(30);

fn policy(limit: u32) -> SlotPolicy {
    SlotPolicy { idle_timeout: IDLE, absolute_timeout: ABSOLUTE, limit: NonZeroU32::new(limit).unwrap() }
}

fn at(now: Timestamp) -> At {
    At { now, tombstone_ttl: TOMBSTONE_TTL }
}

fn id(number: u64) -> SessionId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    SessionId::from_bytes(bytes)
}

fn open(number: u64, slot: &str, device: &str, limit: u32) -> Open {
    Open {
        id: id(number),
        slot: Slot::parse(slot).unwrap(),
        device: Device::parse(device).unwrap(),
        profile: Profile { username: "alice".into(), roles: Vec::new() },
        policy: policy(limit),
    }
}

fn claims(session: &Session) -> Claims {
    Claims {
        user_id: UserId::parse("u").unwrap(),
        session_id: session.id,
        generation: session.generation,
        slot: session.slot.clone(),
        expires_at: session.expires_at,
    }
}

const START: Timestamp = Timestamp::from_secs(1_000_000);

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

/// One user, one slot, limit 1.
struct Story {
    state: UserSessions,
    now: Timestamp,
    logins: u64,
}

impl Story {
    fn new() -> Self {
        Self { state: UserSessions::default(), now: START, logins: 0 }
    }

    fn login(&mut self, device: &str) -> Session {
        self.logins += 1;
        let next = self.state.open(open(self.logins, "default", device, 1), at(self.now));
        self.state = next.state;
        next.outcome.session
    }

    fn after(&mut self, by: Duration) -> &mut Self {
        self.now = self.now.after(by);
        self
    }

    fn rejection(&self, session: &Session) -> Rejection {
        self.state.verdict(&claims(session), self.now).unwrap_err()
    }
}

#[test]
fn the_latest_wins_although_its_clock_is_behind() {
    let mut story = Story::new();
    let first = story.login("a");
    story.now = START;
    let second = story.login("b");
    assert!(second.generation > first.generation);
    assert_eq!(story.rejection(&first).reason, Reason::Replaced);
    assert_eq!(story.state.verdict(&claims(&second), story.now), Ok(&second));
}

#[test]
fn a_session_that_had_timed_out_is_not_called_replaced() {
    let mut story = Story::new();
    let first = story.login("a");
    story.after(IDLE + TOUCH);
    assert_eq!(story.rejection(&first).reason, Reason::IdleTimeout);
    let next = story.state.open(open(9, "default", "b", 1), at(story.now));
    assert!(next.outcome.displaced.is_empty(), "it displaced nobody");
    story.state = next.state;
    let rejection = story.rejection(&first);
    assert_eq!((rejection.reason, rejection.at), (Reason::IdleTimeout, Some(START.after(IDLE + TOUCH))));
}

#[test]
fn use_slides_the_idle_timeout_and_never_the_absolute_one() {
    let mut story = Story::new();
    let session = story.login("a");
    for _ in 0..6 {
        story.after(IDLE.saturating_sub(Duration::from_secs(1)));
        story.state = story.state.touch(session.id, story.now).unwrap().state;
    }
    story.now = Timestamp::from_micros(session.expires_at.as_micros() - 1);
    assert!(story.state.verdict(&claims(&session), story.now).is_ok());
    story.now = session.expires_at;
    assert!(story.state.touch(session.id, story.now).is_none());
    assert_eq!(story.rejection(&session), Rejection::at(Reason::Expired, session.expires_at));
}

#[test]
fn a_use_that_went_unrecorded_still_counts_in_full() {
    let mut story = Story::new();
    let session = story.login("a");
    story.after(TOUCH.saturating_sub(Duration::from_micros(1)));
    assert!(story.state.touch(session.id, story.now).is_none(), "too soon to be recorded");
    story.after(IDLE);
    assert!(
        story.state.verdict(&claims(&session), story.now).is_ok(),
        "its full idle timeout after that use"
    );
    story.after(Duration::from_micros(1));
    assert_eq!(story.rejection(&session).reason, Reason::IdleTimeout, "and no more than one interval beyond");
}

#[test]
fn when_the_reason_is_forgotten_the_generation_still_tells() {
    let mut story = Story::new();
    let first = story.login("a");
    for _ in 0..=MAX_TOMBSTONES {
        story.login("b");
    }
    let last = story.login("c");
    assert!(story.state.tombstones.iter().all(|grave| grave.id != first.id));
    assert_eq!(story.rejection(&first).reason, Reason::Replaced);
    story.state.tombstones.clear();
    let rejection = story.rejection(&first);
    assert_eq!((rejection.reason, rejection.at), (Reason::Replaced, Some(last.issued_at)));
    assert_eq!(rejection.by_device.unwrap().as_str(), "c");
}

#[test]
fn a_fence_ends_even_what_nobody_remembers() {
    let mut story = Story::new();
    let lost = story.login("a");
    story.state = UserSessions::default();
    story.state = story.state.fence(Reason::AccountDisabled, ABSOLUTE, at(story.now)).state;
    assert_eq!(story.rejection(&lost).reason, Reason::AccountDisabled);
    let after = story.login("b");
    assert!(story.state.verdict(&claims(&after), story.now).is_ok(), "what comes after the fence lives");
}

#[test]
fn a_generation_that_was_never_given_out_is_unknown() {
    let mut story = Story::new();
    let kept = story.state.clone();
    let lost = story.login("a");
    // A failover brought back the state from before that login.
    story.state = kept;
    assert_eq!(story.rejection(&lost).reason, Reason::UnknownSession);
}

#[test]
fn slots_do_not_displace_each_other() {
    let web = UserSessions::default().open(open(1, "web", "w", 1), at(START));
    let both = web.state.open(open(2, "mobile", "m", 1), at(START));
    assert!(both.outcome.displaced.is_empty());
    assert!(both.state.verdict(&claims(&web.outcome.session), START).is_ok());
    assert!(both.state.verdict(&claims(&both.outcome.session), START).is_ok());
}

#[test]
fn beyond_the_limit_the_oldest_is_evicted() {
    let mut state = UserSessions::default();
    let mut sessions = Vec::new();
    for number in 1..=3 {
        let next = state.open(open(number, "web", &number.to_string(), 2), at(START));
        state = next.state;
        sessions.push(next.outcome.session);
    }
    let rejection = state.verdict(&claims(&sessions[0]), START).unwrap_err();
    assert_eq!(rejection.reason, Reason::Evicted);
    assert_eq!(rejection.by_device.unwrap().as_str(), "3");
    assert!(state.verdict(&claims(&sessions[1]), START).is_ok());
    assert!(state.verdict(&claims(&sessions[2]), START).is_ok());
}

#[test]
fn a_fence_and_a_rename_change_the_state_of_a_user_without_sessions() {
    // So that a login which read the register before them conflicts.
    let empty = UserSessions::default();
    assert_ne!(empty.fence(Reason::AccountDisabled, ABSOLUTE, at(START)).state, empty);
    assert_ne!(empty.rename(Profile::default(), at(START)).state, empty);
    let fenced = empty.fence(Reason::AccountDisabled, ABSOLUTE, at(START)).state;
    assert_ne!(fenced.fence(Reason::AccountDisabled, ABSOLUTE, at(START)).state, fenced);
}
