//! States and events for tests: arbitrary ones, and simple ones that are easy to tell apart.

use std::time::Duration;

use latchkey::domain::{
    ports::{Change, Event},
    rejection::{Reason, Rejection},
    sessions::{ClientMark, Ended, Epoch, Fence, Profile, Session, SessionEvent, Tombstone, UserSessions},
    types::{Device, Generation, LoginKey, Notice, Role, SessionId, Slot, Timeout, Timestamp, UserId},
};
use proptest::{
    collection::vec, option, prelude::*, sample::select, strategy::ValueTree as _, test_runner::TestRunner,
};

use crate::support::clock::ManualClock;

pub fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

pub fn now() -> Timestamp {
    use latchkey::domain::ports::Clock as _;
    ManualClock::new().now()
}

/// A state that its generation identifies.
pub fn state(generation: u64) -> UserSessions {
    UserSessions { generation: Generation(generation), ..UserSessions::default() }
}

/// A change to that state, without events, that is kept for a day.
pub fn change(generation: u64) -> Change<UserSessions> {
    Change { state: state(generation), keep_until: now().after(Duration::from_hours(24)), events: Vec::new() }
}

/// An event that its number identifies.
pub fn ended(number: u64) -> Ended {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    Ended {
        session_id: SessionId::from_bytes(id),
        slot: Slot::parse("default").unwrap(),
        rejection: Rejection::at(Reason::Replaced, Timestamp::from_micros(number)),
        expires_at: Timestamp::from_secs(number),
    }
}

/// A change to a state, with these events.
pub fn change_with(generation: u64, events: impl IntoIterator<Item = u64>) -> Change<UserSessions> {
    let events = events.into_iter().map(|number| SessionEvent::Ended(ended(number)));
    Change { events: events.collect(), ..change(generation) }
}

/// Returns the user and the number of each event.
pub fn numbers(events: &[Event]) -> Vec<(&str, u64)> {
    fn parts(event: &Event) -> (&str, u64) {
        match event {
            Event::Ended { user_id, ended } => (user_id.as_str(), ended.expires_at.as_secs()),
            other => panic!("nobody has told {other:?}"),
        }
    }
    events.iter().map(parts).collect()
}

/// Draws `count` samples.
pub fn samples<S: Strategy>(count: usize, strategy: &S) -> Vec<S::Value> {
    let mut runner = TestRunner::default();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

pub fn user_ids() -> impl Strategy<Value = UserId> {
    "[!-~]{1,128}".prop_map(|id| user(&id))
}

pub fn user_sessions() -> impl Strategy<Value = UserSessions> {
    let parts = (
        generations(),
        "\\PC{0,24}",
        vec("[a-zA-Z0-9_.:/-]{1,64}", 0..4),
        vec(sessions(), 0..5),
        vec(tombstones(), 0..16),
        option::of(fences()),
    );
    parts.prop_map(|(generation, username, roles, sessions, tombstones, fence)| UserSessions {
        generation,
        profile: Profile { username: username.into(), roles: Role::parse_all(&roles).unwrap().into() },
        sessions: sessions.into(),
        tombstones: tombstones.into(),
        fence: fence.map(Box::new),
    })
}

pub fn events() -> impl Strategy<Value = Ended> {
    let parts = (
        session_ids(),
        slots(),
        reasons(),
        option::of(moments()),
        option::of(devices()),
        notices(),
        moments(),
    );
    parts.prop_map(|(session_id, slot, reason, at, by_device, notice, expires_at)| Ended {
        session_id,
        slot,
        rejection: Rejection { reason, at, by_device, notice },
        expires_at,
    })
}

fn sessions() -> impl Strategy<Value = Session> {
    let parts = (
        session_ids(),
        generations(),
        slots(),
        devices(),
        (moments(), moments(), moments()),
        0..1_u64 << 50,
        prop_oneof![Just(0), any::<u64>()],
        any::<bool>(),
        (login_keys(), clients()),
    );
    parts.prop_map(|(id, generation, slot, device, moments, idle, epoch, exclusive, (login_key, client))| {
        Session {
            id,
            generation,
            slot,
            device,
            issued_at: moments.0,
            // Sessions end on whole seconds because tokens do.
            expires_at: moments.1.ceil_to_second(),
            last_seen: moments.2,
            idle_timeout: Timeout::from_micros(idle),
            epoch,
            exclusive,
            login_key,
            client,
        }
    })
}

fn tombstones() -> impl Strategy<Value = Tombstone> {
    let parts = (
        session_ids(),
        generations(),
        slots(),
        reasons(),
        (moments(), moments()),
        devices(),
        notices(),
        any::<bool>(),
        (login_keys(), clients(), clients()),
    );
    parts.prop_map(|(id, generation, slot, reason, (at, until), by_device, notice, exclusive, keys)| {
        let (login_key, client, by_client) = keys;
        Tombstone {
            id,
            generation,
            slot,
            reason,
            at,
            by_device,
            notice,
            until,
            exclusive,
            login_key,
            client,
            by_client,
        }
    })
}

fn fences() -> impl Strategy<Value = Fence> {
    let parts = (generations(), reasons(), moments(), notices(), moments());
    parts.prop_map(|(generation, reason, at, notice, until)| Fence { generation, reason, at, notice, until })
}

pub fn epochs() -> impl Strategy<Value = Epoch> {
    let parts = (any::<u64>(), moments(), notices());
    parts.prop_map(|(number, since, notice)| Epoch { number, since, notice })
}

fn login_keys() -> impl Strategy<Value = Option<LoginKey>> {
    option::of(any::<u64>().prop_map(LoginKey::from_hash))
}

fn clients() -> impl Strategy<Value = Option<ClientMark>> {
    option::of(any::<std::num::NonZeroU64>().prop_map(ClientMark))
}

/// No notice, or any valid one.
fn notices() -> impl Strategy<Value = Option<Notice>> {
    prop_oneof![Just(String::new()), "\\PC{1,200}"]
        .prop_filter_map("control characters", |notice| Notice::parse(&notice).ok())
}

fn session_ids() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId::from_bytes)
}

fn reasons() -> impl Strategy<Value = Reason> {
    select(&Reason::ALL[..])
}

/// The default slot, the shortest, the longest, and any.
fn slots() -> impl Strategy<Value = Slot> {
    prop_oneof![Just("default".to_owned()), Just("0".to_owned()), "[a-z0-9][a-z0-9_-]{0,31}"]
        .prop_map(|slot| Slot::parse(&slot).unwrap())
}

/// Any valid device: none, a common one, the longest, every script.
fn devices() -> impl Strategy<Value = Device> {
    prop_oneof![Just(String::new()), Just("Firefox on Linux".to_owned()), "\\PC{1,128}", "[Ж😀]{128}"]
        .prop_filter_map("control characters", |device| Device::parse(&device).ok())
}

/// Times around now, at the epoch, and in the far future.
fn generations() -> impl Strategy<Value = Generation> {
    moments().prop_map(|moment| Generation(moment.as_micros()))
}

fn moments() -> impl Strategy<Value = Timestamp> {
    prop_oneof![0..10_u64, 1_700_000_000_000_000..1_900_000_000_000_000_u64, 0..1_u64 << 62]
        .prop_map(Timestamp::from_micros)
}
