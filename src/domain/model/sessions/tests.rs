//! Examples of the state machine. `model` tests it with random commands.

mod kick_war;
mod model;

use std::num::NonZeroU32;

use super::*;
use crate::domain::types::{Claims, UserId};

const TOMBSTONE_TTL: Duration = Duration::from_hours(2);
const IDLE: Duration = Duration::from_mins(10);
const ABSOLUTE: Duration = Duration::from_hours(1);
const TOUCH: Duration = Duration::from_secs(30);
const LEEWAY: Duration = Duration::from_mins(5);

/// A policy that displaces the oldest session, without protection against kick wars.
fn policy(limit: u32) -> SlotPolicy {
    SlotPolicy {
        idle_timeout: IDLE,
        absolute_timeout: ABSOLUTE,
        limit: NonZeroU32::new(limit).unwrap(),
        on_limit: OnLimit::Displace,
        victim: Victim::Oldest,
        exclusive: false,
        kick_war: KickWar { changes: 0, window: Duration::from_mins(1) },
    }
}

fn at(now: Timestamp) -> Context<'static> {
    Context { now, tombstone_ttl: TOMBSTONE_TTL, leeway: LEEWAY, epoch: &Epoch::FIRST }
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
        profile: Profile { username: "alice".into(), ..Profile::default() },
        policy: policy(limit),
        login_key: None,
        takeover: false,
        client: None,
    }
}

fn claims(session: &Session) -> Claims {
    Claims {
        user_id: UserId::parse("u").unwrap(),
        session_id: session.id,
        generation: session.generation,
        slot: session.slot.clone(),
        not_before: session.issued_at,
        expires_at: session.expires_at,
    }
}

const START: Timestamp = Timestamp::from_secs(1_000_000);

/// The sessions of one user in one slot of limit 1.
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
        let next = self.state.open(open(self.logins, "default", device, 1), at(self.now)).unwrap();
        self.state = next.state;
        next.outcome.session
    }

    fn after(&mut self, by: Duration) -> &mut Self {
        self.now = self.now.after(by);
        self
    }

    fn rejection(&self, session: &Session) -> Rejection {
        self.state.verdict(&claims(session), at(self.now)).unwrap_err()
    }
}

#[test]
fn the_latest_login_wins_although_its_clock_is_behind() {
    let mut story = Story::new();
    let first = story.login("a");
    story.now = START;
    let second = story.login("b");
    assert!(second.generation > first.generation);
    assert_eq!(story.rejection(&first).reason, Reason::Replaced);
    assert_eq!(story.state.verdict(&claims(&second), at(story.now)), Ok(&second));
}

#[test]
fn a_session_that_has_timed_out_is_not_replaced() {
    let mut story = Story::new();
    let first = story.login("a");
    story.after(IDLE + TOUCH);
    assert_eq!(story.rejection(&first).reason, Reason::IdleTimeout);
    let next = story.state.open(open(9, "default", "b", 1), at(story.now)).unwrap();
    assert!(next.outcome.displaced.is_empty(), "no session was displaced");
    story.state = next.state;
    let rejection = story.rejection(&first);
    assert_eq!((rejection.reason, rejection.at), (Reason::IdleTimeout, Some(START.after(IDLE + TOUCH))));
}

#[test]
fn a_use_extends_the_idle_timeout_but_not_the_absolute_timeout() {
    let mut story = Story::new();
    let session = story.login("a");
    for _ in 0..6 {
        story.after(IDLE.saturating_sub(Duration::from_secs(1)));
        story.state = story.state.touch(session.id, story.now, at(story.now)).unwrap().state;
    }
    story.now = Timestamp::from_micros(session.expires_at.as_micros() - 1);
    assert!(story.state.verdict(&claims(&session), at(story.now)).is_ok());
    story.now = session.expires_at;
    assert!(story.state.touch(session.id, story.now, at(story.now)).is_none());
    assert_eq!(story.rejection(&session), Rejection::at(Reason::Expired, session.expires_at));
}

#[test]
fn an_unrecorded_use_counts_in_full() {
    let mut story = Story::new();
    let session = story.login("a");
    story.after(TOUCH.saturating_sub(Duration::from_micros(1)));
    assert!(story.state.touch(session.id, story.now, at(story.now)).is_none(), "too soon to be recorded");
    story.after(IDLE);
    assert!(
        story.state.verdict(&claims(&session), at(story.now)).is_ok(),
        "its full idle timeout after that use"
    );
    story.after(Duration::from_micros(1));
    assert_eq!(story.rejection(&session).reason, Reason::IdleTimeout, "and no more than one interval beyond");
}

#[test]
fn a_session_without_a_tombstone_is_replaced_by_its_generation() {
    let mut story = Story::new();
    let first = story.login("a");
    for _ in 0..=MAX_TOMBSTONES {
        story.login("b");
    }
    let last = story.login("c");
    assert!(story.state.tombstones.iter().all(|tombstone| tombstone.id != first.id));
    assert_eq!(story.rejection(&first).reason, Reason::Replaced);
    story.state.tombstones.clear();
    let rejection = story.rejection(&first);
    assert_eq!((rejection.reason, rejection.at), (Reason::Replaced, Some(last.issued_at)));
    assert_eq!(rejection.by_device.unwrap().as_str(), "c");
}

#[test]
fn a_fence_ends_sessions_that_are_not_remembered() {
    let mut story = Story::new();
    let lost = story.login("a");
    story.state = UserSessions::default();
    story.state = story.state.fence(Reason::AccountDisabled, ABSOLUTE, at(story.now)).state;
    assert_eq!(story.rejection(&lost).reason, Reason::AccountDisabled);
    let after = story.login("b");
    assert!(story.state.verdict(&claims(&after), at(story.now)).is_ok(), "a login after the fence is live");
}

#[test]
fn a_generation_that_is_not_remembered_is_unknown() {
    let mut story = Story::new();
    let kept = story.state.clone();
    let lost = story.login("a");
    // A failover restored the state from before that login.
    story.state = kept;
    assert_eq!(story.rejection(&lost).reason, Reason::UnknownSession);
}

#[test]
fn slots_do_not_displace_each_other() {
    let web = UserSessions::default().open(open(1, "web", "w", 1), at(START)).unwrap();
    let both = web.state.open(open(2, "mobile", "m", 1), at(START)).unwrap();
    assert!(both.outcome.displaced.is_empty());
    assert!(both.state.verdict(&claims(&web.outcome.session), at(START)).is_ok());
    assert!(both.state.verdict(&claims(&both.outcome.session), at(START)).is_ok());
}

#[test]
fn a_login_beyond_the_limit_evicts_the_oldest_session() {
    let mut state = UserSessions::default();
    let mut sessions = Vec::new();
    for number in 1..=3 {
        let next = state.open(open(number, "web", &number.to_string(), 2), at(START)).unwrap();
        state = next.state;
        sessions.push(next.outcome.session);
    }
    let rejection = state.verdict(&claims(&sessions[0]), at(START)).unwrap_err();
    assert_eq!(rejection.reason, Reason::Evicted);
    assert_eq!(rejection.by_device.unwrap().as_str(), "3");
    assert!(state.verdict(&claims(&sessions[1]), at(START)).is_ok());
    assert!(state.verdict(&claims(&sessions[2]), at(START)).is_ok());
}

#[test]
fn a_fence_and_a_profile_update_change_the_state_of_a_user_without_sessions() {
    // Otherwise a concurrent login would not conflict.
    let empty = UserSessions::default();
    assert_ne!(empty.fence(Reason::AccountDisabled, ABSOLUTE, at(START)).state, empty);
    assert_ne!(empty.update_profile(Profile::default(), at(START)).state, empty);
    let fenced = empty.fence(Reason::AccountDisabled, ABSOLUTE, at(START)).state;
    assert_ne!(fenced.fence(Reason::AccountDisabled, ABSOLUTE, at(START)).state, fenced);
}

#[test]
fn a_session_from_the_future_is_not_yet_valid_unless_it_has_ended() {
    let mut story = Story::new();
    let fast = story.login("a");
    story.now = START.before(LEEWAY);
    assert!(story.state.verdict(&claims(&fast), at(story.now)).is_ok(), "within the leeway");
    story.now = START.before(LEEWAY + Duration::from_secs(1));
    let not_yet_valid = Rejection::at(Reason::NotYetValid, fast.issued_at);
    assert_eq!(story.rejection(&fast), not_yet_valid);
    let second = story.login("b");
    assert_eq!(story.rejection(&fast).reason, Reason::Replaced);
    assert!(story.state.verdict(&claims(&second), at(story.now)).is_ok());
    // The same holds if its end is not remembered.
    story.state.tombstones.clear();
    assert_eq!(story.rejection(&fast).reason, Reason::Replaced);
    // If the session itself is not remembered, it may be known later.
    story.state = UserSessions::default();
    assert_eq!(story.rejection(&fast), not_yet_valid);
}

#[test]
fn a_recorded_timeout_stays_when_the_clock_steps_back() {
    let mut story = Story::new();
    let session = story.login("a");
    story.after(IDLE + TOUCH);
    assert_eq!(story.rejection(&session).reason, Reason::IdleTimeout);
    assert!(story.state.has_timed_out(session.id, at(story.now)));
    // A use from before the timeout can be recorded until the timeout is.
    let used = story.now.before(TOUCH);
    assert!(story.state.touch(session.id, used, at(story.now)).is_some());
    let next = story.state.close(|_| false, Reason::IdleTimeout, at(story.now));
    assert_eq!((next.outcome, next.events.len()), (0, 1));
    story.state = next.state;
    assert!(!story.state.has_timed_out(session.id, at(story.now)));
    assert!(story.state.touch(session.id, used, at(story.now)).is_none());
    story.now = START;
    assert_eq!(story.rejection(&session).reason, Reason::IdleTimeout);
}

#[test]
fn a_token_that_contradicts_its_session_is_malformed_and_ends_nothing() {
    let mut story = Story::new();
    let session = story.login("a");
    let wrong = |session: &Session| {
        let good = claims(session);
        let Generation(generation) = good.generation;
        [
            Claims { generation: Generation(generation - 1), ..good.clone() },
            Claims { generation: Generation(generation + 1), ..good.clone() },
            Claims { generation: Generation(u64::MAX), ..good.clone() },
            Claims { slot: Slot::parse("other").unwrap(), ..good },
        ]
    };
    for claims in wrong(&session) {
        let verdict = story.state.verdict(&claims, at(story.now));
        assert_eq!(verdict, Err(Rejection::bare(Reason::Malformed)), "{claims:?}");
        assert!(!story.state.has_lost_login(&claims), "no login was lost: {claims:?}");
    }
    assert_eq!(story.state.verdict(&claims(&session), at(story.now)), Ok(&session));

    // After the end of the session, such a token does not learn the reason.
    story.login("b");
    for claims in wrong(&session) {
        assert_eq!(story.state.verdict(&claims, at(story.now)).unwrap_err().reason, Reason::Malformed);
        assert!(!story.state.has_lost_login(&claims), "{claims:?}");
    }
    assert_eq!(story.rejection(&session).reason, Reason::Replaced);
}
