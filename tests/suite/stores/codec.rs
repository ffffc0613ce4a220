//! The stored format, which other versions of Latchkey must be able to read.

use std::time::Duration;

use latchkey::{
    domain::{
        lease::{Delivery, Lease},
        ports::{Cursor, Event},
        rejection::{Reason, Rejection},
        sessions::{Ended, Epoch, Fence, OneOrMany, Profile, Session, Tombstone, UserSessions},
        throttle::{Attempt, Throttle},
        types::{Device, Generation, LoginKey, Notice, Role, SessionId, Slot, Timestamp},
    },
    store::codec::{
        self, CodecError, decode_delivery, decode_epoch, decode_event, decode_throttle, encode_changed,
        encode_delivery, encode_epoch, encode_epoch_event, encode_event, encode_sessions, encode_throttle,
    },
};
use proptest::prelude::*;
use prost::Message as _;

use super::states::{epochs, events, user, user_ids, user_sessions};

/// A state with every field set.
fn full_state() -> UserSessions {
    let slot = |name| Slot::parse(name).unwrap();
    let device = |name| Device::parse(name).unwrap();
    let login = 1_700_000_000_000_000;
    UserSessions {
        generation: Generation(login + 5),
        profile: Profile {
            username: "zoë".into(),
            roles: [Role::parse("staff").unwrap()].into_iter().collect(),
        },
        sessions: OneOrMany::One(Session {
            id: SessionId::from_bytes([0x11; 16]),
            generation: Generation(login),
            slot: slot("default"),
            device: device("Firefox on Linux"),
            issued_at: Timestamp::from_micros(login - 1),
            expires_at: Timestamp::from_secs(1_700_086_400),
            last_seen: Timestamp::from_micros(login + 99),
            idle_timeout: Duration::from_hours(1).into(),
            epoch: 0,
            exclusive: false,
            login_key: None,
            client: None,
        }),
        tombstones: [Tombstone {
            id: SessionId::from_bytes([0x22; 16]),
            generation: Generation(login - 10),
            slot: slot("web"),
            reason: Reason::Replaced,
            at: Timestamp::from_micros(login),
            by_device: device("iPhone"),
            notice: None,
            until: Timestamp::from_micros(login + 1_000_000),
            exclusive: false,
            login_key: None,
            client: None,
            by_client: None,
        }]
        .into_iter()
        .collect(),
        fence: Some(Box::new(Fence {
            generation: Generation(login - 20),
            reason: Reason::CredentialsChanged,
            at: Timestamp::from_micros(login - 30),
            notice: None,
            until: Timestamp::from_micros(login + 2_000_000),
        })),
    }
}

fn full_event() -> Ended {
    Ended {
        session_id: SessionId::from_bytes([0x33; 16]),
        slot: Slot::parse("web").unwrap(),
        rejection: Rejection {
            reason: Reason::Kicked,
            at: Some(Timestamp::from_micros(1_700_000_000_000_000)),
            by_device: Some(Device::parse("").unwrap()),
            notice: None,
        },
        expires_at: Timestamp::from_secs(1_700_086_400),
    }
}

/// The state with fields that were added later.
fn fuller_state() -> UserSessions {
    let mut state = full_state();
    let notice = Notice::parse("maintenance").unwrap();
    (state.sessions[0].exclusive, state.sessions[0].login_key) = (true, Some(LoginKey::from_hash(7)));
    state.sessions[0].epoch = 3;
    let grave = &mut state.tombstones[0];
    (grave.exclusive, grave.login_key, grave.notice) =
        (true, Some(LoginKey::from_hash(u64::MAX)), notice.clone());
    state.fence.as_mut().unwrap().notice = notice;
    state
}

fn epoch() -> Epoch {
    Epoch {
        number: 1_700_000_000_000_001,
        since: Timestamp::from_micros(1_700_000_000_000_000),
        notice: Notice::parse("maintenance").unwrap(),
    }
}

/// The bytes of [`full_state`].
const STATE: &str = concat!(
    "01088580f9c0c1c4820312047a6fc3ab1a057374616666223e0a1011111111111111111111111111111111108080f9c0",
    "c1c48203221046697265666f78206f6e204c696e75782801308085d5aa0638c8014080c8ceb40d2a3c0a102222222222",
    "222222222222222222222210f6fff8c0c1c482031a037765622006288080f9c0c1c4820332066950686f6e6538c084b6",
    "c1c1c48203321d08ecfff8c0c1c48203100a18e2fff8c0c1c48203208089f3c1c1c48203",
);

/// The bytes of [`full_event`], of alice.
const EVENT: &str = concat!(
    "010a05616c6963651210333333333333333333333333333333331a037765622007288080f9c0c1c4820332003880c0d6",
    "af83c78203",
);

/// The bytes of [`fuller_state`].
const FULLER_STATE: &str = concat!(
    "01088580f9c0c1c4820312047a6fc3ab1a057374616666224b0a1011111111111111111111111111111111108080f9c0",
    "c1c48203221046697265666f78206f6e204c696e75782801308085d5aa0638c8014080c8ceb40d480151070000000000",
    "000058032a540a102222222222222222222222222222222210f6fff8c0c1c482031a037765622006288080f9c0c1c482",
    "0332066950686f6e6538c084b6c1c1c48203420b6d61696e74656e616e6365480151ffffffffffffffff322a08ecfff8",
    "c0c1c48203100a18e2fff8c0c1c48203208089f3c1c1c482032a0b6d61696e74656e616e6365",
);

/// The bytes of [`epoch`], as a state and as an event.
const EPOCH: &str = "01088180f9c0c1c48203108080f9c0c1c482031a0b6d61696e74656e616e6365";
const EPOCH_EVENT: &str = "014a1f088180f9c0c1c48203108080f9c0c1c482031a0b6d61696e74656e616e6365";

const THROTTLE: &str = "010807108080f9c0c1c482031a12090807060504030201108087a0cfc1c48203208180f9c0c1c48203";

const DELIVERY: &str = "010a0831372d332c302d3012120908070605040302011080addbc5c1c48203188180f9c0c1c48203";

fn decode_sessions(bytes: &[u8]) -> Result<UserSessions, CodecError> {
    codec::decode_sessions(bytes)
}

fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// If one of these tests fails, a new version cannot read the stores of an old one, or an old replica cannot read
/// what a new one writes: raise FORMAT, or find another way.
#[test]
fn the_bytes_of_a_state_never_change() {
    assert_eq!(hex(&encode_sessions(&full_state())), STATE);
    assert_eq!(decode_sessions(&unhex(STATE)).unwrap(), full_state());
}

#[test]
fn the_bytes_of_an_event_never_change() {
    assert_eq!(hex(&encode_event(&user("alice"), &full_event())), EVENT);
    let event = Event::Ended { user_id: user("alice"), ended: full_event() };
    assert_eq!(decode_event(&unhex(EVENT)).unwrap(), event);
}

#[test]
fn the_bytes_of_fields_added_later_never_change() {
    assert_eq!(hex(&encode_sessions(&fuller_state())), FULLER_STATE);
    assert_eq!(decode_sessions(&unhex(FULLER_STATE)).unwrap(), fuller_state());
}

#[test]
fn the_bytes_of_an_epoch_never_change() {
    assert_eq!((&*hex(&encode_epoch(&epoch())), &*hex(&encode_epoch_event(&epoch()))), (EPOCH, EPOCH_EVENT));
    assert_eq!(decode_epoch(&unhex(EPOCH)).unwrap(), epoch());
    assert_eq!(decode_event(&unhex(EPOCH_EVENT)).unwrap(), Event::Epoch(epoch()));
}

#[test]
fn the_bytes_of_a_change_never_change() {
    assert_eq!(hex(&encode_changed(&user("alice"))), "010a05616c6963655001");
    let event = Event::Changed { user_id: user("alice") };
    assert_eq!(decode_event(&unhex("010a05616c6963655001")).unwrap(), event);
}

#[test]
fn the_bytes_of_a_throttle_never_change() {
    let state = Throttle {
        failures: 7,
        since: Timestamp::from_micros(1_700_000_000_000_000),
        attempts: vec![Attempt {
            id: 0x0102_0304_0506_0708,
            until: Timestamp::from_micros(1_700_000_030_000_000),
        }],
        changed_at: Timestamp::from_micros(1_700_000_000_000_001),
    };
    assert_eq!(hex(&encode_throttle(&state)), THROTTLE);
    assert_eq!(decode_throttle(&unhex(THROTTLE)).unwrap(), state);
}

#[test]
fn the_bytes_of_a_delivery_never_change() {
    let state = Delivery {
        cursor: Some(Cursor("17-3,0-0".into())),
        lease: Some(Lease {
            holder: 0x0102_0304_0506_0708,
            until: Timestamp::from_micros(1_700_000_010_000_000),
        }),
        changed_at: Timestamp::from_micros(1_700_000_000_000_001),
    };
    assert_eq!(hex(&encode_delivery(&state)), DELIVERY);
    assert_eq!(decode_delivery(&unhex(DELIVERY)).unwrap(), state);
    assert_eq!(decode_delivery(&encode_delivery(&Delivery::default())).unwrap(), Delivery::default());
}

#[test]
fn the_empty_state_is_one_byte() {
    assert_eq!(encode_sessions(&UserSessions::default())[..], [1]);
    assert_eq!(decode_sessions(&[1]).unwrap(), UserSessions::default());
}

/// Fields that a newer version might add to a state and to a session.
#[derive(prost::Message)]
struct NewerState {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(message, repeated, tag = "4")]
    sessions: Vec<NewerSession>,
    #[prost(string, tag = "100")]
    novelty: String,
    #[prost(message, optional, tag = "101")]
    nested: Option<NewerSession>,
}

#[derive(Clone, prost::Message)]
struct NewerSession {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(fixed64, tag = "99")]
    novelty: u64,
}

#[test]
fn fields_of_a_newer_version_are_skipped() {
    let session = NewerSession { id: vec![0x11; 16], novelty: 7 };
    let newer = NewerState {
        generation: 3,
        sessions: vec![session.clone()],
        novelty: "what is this".into(),
        nested: Some(session),
    };
    let state = decode_sessions(&[&[1][..], &newer.encode_to_vec()].concat()).unwrap();
    assert_eq!(state.generation, Generation(3));
    assert_eq!(state.sessions[0].id, SessionId::from_bytes([0x11; 16]));
}

#[test]
fn a_newer_format_is_refused_in_words_that_help() {
    let mut bytes = encode_sessions(&full_state()).to_vec();
    bytes[0] = 2;
    for error in [decode_sessions(&bytes).unwrap_err(), decode_event(&bytes).unwrap_err()] {
        assert!(matches!(error, CodecError::Newer(2)));
        let expected =
            "the value has format 2, which is newer than this version of Latchkey: upgrade Latchkey";
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn foreign_bytes_are_corrupt() {
    let good = encode_sessions(&full_state());
    let reason_13 = [&[1][..], &[0x32, 2, 0x10, 13]].concat();
    let short_id = [&[1][..], &[0x22, 3, 0x0a, 1, 0xff]].concat();
    for bytes in [&[][..], &[0], b"\0garbage", &good[..good.len() - 1], &reason_13, &short_id] {
        let error = decode_sessions(bytes).unwrap_err();
        assert!(matches!(error, CodecError::Corrupt(_)), "{bytes:?}: {error}");
    }
}

proptest! {
    #[test]
    fn every_throttle_survives_the_round_trip(
        failures in any::<u32>(),
        since in any::<u64>(),
        changed in any::<u64>(),
        attempts in prop::collection::vec((any::<u64>(), any::<u64>()), 0..6),
    ) {
        let attempts = attempts.into_iter();
        let state = Throttle {
            failures,
            since: Timestamp::from_micros(since),
            attempts: attempts.map(|(id, until)| Attempt { id, until: Timestamp::from_micros(until) }).collect(),
            changed_at: Timestamp::from_micros(changed),
        };
        prop_assert_eq!(decode_throttle(&encode_throttle(&state)).unwrap(), state);
    }

    #[test]
    fn a_state_survives(state in user_sessions()) {
        prop_assert_eq!(decode_sessions(&encode_sessions(&state)).unwrap(), state);
    }

    #[test]
    fn an_event_survives(user_id in user_ids(), ended in events()) {
        let event = decode_event(&encode_event(&user_id, &ended)).unwrap();
        prop_assert_eq!(event, Event::Ended { user_id, ended });
    }

    #[test]
    fn an_epoch_survives(epoch in epochs()) {
        prop_assert_eq!(decode_event(&encode_epoch_event(&epoch)).unwrap(), Event::Epoch(epoch.clone()));
        prop_assert_eq!(decode_epoch(&encode_epoch(&epoch)).unwrap(), epoch);
    }

    #[test]
    fn decoding_garbage_does_not_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = (decode_sessions(&bytes), decode_event(&bytes));
        if let Some(format) = bytes.first_mut() {
            *format = 1;
        }
        let _ = (decode_sessions(&bytes), decode_event(&bytes));
    }

    #[test]
    fn decoding_damaged_bytes_does_not_panic(state in user_sessions(), at in any::<usize>(), byte in any::<u8>()) {
        let mut bytes = encode_sessions(&state).to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode_sessions(&bytes);
        let _ = decode_sessions(&bytes[..at]);
    }
}
