//! The codec of states and events, and the binding of a value to its register.
//!
//! The first byte of the input selects what it is: bytes to decode, or what a state is built from.

use std::{fmt::Debug, num::NonZeroU32, time::Duration};

use arbitrary::Unstructured;
use bytes::Bytes;
use latchkey::{
    domain::{
        ports::Event,
        rejection::{EndCause, Reason},
        sessions::{
            Context, Epoch, KickWar, OnLimit, Open, Profile, Session, SlotPolicy, UserSessions, Victim,
        },
        types::{Claims, Device, Generation, SessionId, Slot, Timestamp, UserId},
    },
    store::{
        binding,
        codec::{
            CodecError, decode_delivery, decode_epoch, decode_event, decode_probe, decode_sessions,
            decode_throttle, encode_changed, encode_delivery, encode_epoch, encode_epoch_event, encode_event,
            encode_probe, encode_sessions, encode_throttle,
        },
    },
};

use crate::states;

/// A Saturday in 2033.
const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);
/// The id of the session that a login opens.
const LOGIN: [u8; 16] = [0xfe; 16];
/// The generation from which on a user cannot log in any more, in half a million years.
const LATEST: u64 = u64::MAX - 1;

/// Decodes the bytes of an input, or encodes the state that it describes.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 10 {
        0 => {
            let decoded = |bytes: &[u8]| decode_sessions(Bytes::copy_from_slice(bytes));
            decode(rest, decoded, encode_sessions);
            if let Ok(state) = decoded(rest) {
                use_state(&state);
            }
        }
        1 => decode(rest, decode_event, encode_any_event),
        2 => decode(rest, decode_throttle, encode_throttle),
        3 => decode(rest, decode_epoch, encode_epoch),
        4 => decode(rest, decode_probe, encode_probe),
        5 => decode(rest, decode_delivery, encode_delivery),
        6 => bind(rest),
        built => {
            // An input that is too short describes nothing.
            let _ = encode(built, &mut Unstructured::new(rest));
        }
    }
}

/// Checks that a decoded state can be encoded, and that the result decodes to the same state again. The first encoding may differ from the
/// input, which may have unknown fields, or times that the codec does not keep exactly.
fn decode<T: PartialEq + Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
    encode: impl Fn(&T) -> Bytes,
) {
    match decode(bytes) {
        Ok(state) => {
            let first = encode(&state);
            let again = decode(&first).expect("an encoded state does not decode");
            let second = encode(&again);
            assert_eq!(first, second, "encoding is not stable: {state:?}, {again:?}");
            assert_eq!(decode(&second).expect("an encoded state does not decode"), again);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// No transition and no verdict fails on a state, whatever is in it, and the latest login wins.
fn use_state(state: &UserSessions) {
    let epoch = Epoch::FIRST;
    let day = Duration::from_hours(24);
    for now in [NOW, Timestamp::from_micros(0), Timestamp::from_micros(u64::MAX)] {
        let ctx = Context { now, tombstone_ttl: day, leeway: Duration::from_secs(5), epoch: &epoch };
        for session in state.sessions.iter() {
            let _ = state.verdict(&claims_of(session), ctx);
            let _ = state.has_timed_out(session.id, ctx);
            let _ = state.touch(session.id, now, ctx).map(|touched| encode_sessions(&touched.state));
            let _ = state.recover(&claims_of(session), day, ctx);
            let _ = (session.idle_expires_at(), session.lapses_at());
        }
        assert!(state.keep_until(now) >= now);
        let _ = encode_sessions(&state.fence(EndCause::from(Reason::Kicked), day, ctx).state);
        let Ok(opened) = state.open(login(), ctx) else { continue };
        let decoded = decode_sessions(encode_sessions(&opened.state));
        assert!(decoded.is_ok() || now != NOW, "the state after a login does not decode");
        if now == NOW && is_consistent(state) {
            let id = SessionId::from_bytes(LOGIN);
            let winner = opened.state.sessions.iter().find(|session| session.id == id);
            let winner = winner.expect("a login without a session");
            assert!(opened.state.verdict(&claims_of(winner), ctx).is_ok(), "the latest login does not win");
            let in_slot = opened.state.live_sessions(ctx).filter(|session| session.slot == winner.slot);
            assert_eq!(in_slot.count(), 1, "more than one session survives");
        }
    }
}

/// Whether a state can have come about by logins before this one.
fn is_consistent(state: &UserSessions) -> bool {
    let sessions = state.sessions.iter().map(|session| (session.id, session.generation));
    let tombstones = state.tombstones.iter().map(|tombstone| (tombstone.id, tombstone.generation));
    let fence = state.fence.as_deref().map_or(Generation(0), |fence| fence.generation);
    state.generation < Generation(LATEST)
        && fence <= state.generation
        && sessions
            .chain(tombstones)
            .all(|(id, generation)| generation <= state.generation && id != SessionId::from_bytes(LOGIN))
}

fn claims_of(session: &Session) -> Claims {
    Claims {
        user_id: UserId::parse("user-1").expect("valid"),
        session_id: session.id,
        generation: session.generation,
        slot: session.slot.clone(),
        not_before: session.issued_at,
        expires_at: session.expires_at,
    }
}

fn login() -> Open {
    Open {
        id: SessionId::from_bytes(LOGIN),
        slot: Slot::parse("default").expect("valid"),
        device: Device::default(),
        profile: Profile::default(),
        policy: SlotPolicy {
            idle_timeout: Duration::from_hours(1),
            absolute_timeout: Duration::from_hours(24),
            limit: NonZeroU32::MIN,
            on_limit: OnLimit::Displace,
            victim: Victim::Oldest,
            exclusive: false,
            kick_war: KickWar { changes: 6, window: Duration::from_mins(1) },
        },
        login_key: None,
        takeover: false,
        client: None,
    }
}

fn encode_any_event(event: &Event) -> Bytes {
    match event {
        Event::Ended { user_id, ended } => encode_event(user_id, ended),
        Event::Changed { user_id } => encode_changed(user_id),
        Event::Epoch(epoch) => encode_epoch_event(epoch),
    }
}

/// A valid state is not changed by the codec.
fn encode(kind: u8, from: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    match kind {
        7 => {
            let state = states::user_sessions(from)?;
            let encoded = encode_sessions(&state);
            assert_eq!(decode_sessions(encoded.clone()).expect("a state does not decode"), state);
            let user_id = states::user_id(from)?;
            let bound = binding::bind(user_id.as_str(), &encoded);
            assert_eq!(decode_sessions(bound).expect("a bound state does not decode"), state);
        }
        8 => {
            let (user_id, ended) = (states::user_id(from)?, states::ended(from)?);
            let decoded = decode_event(&encode_event(&user_id, &ended)).expect("an event does not decode");
            assert_eq!(decoded, Event::Ended { user_id, ended });
        }
        _ => {
            let epoch = states::epoch(from)?;
            assert_eq!(decode_epoch(&encode_epoch(&epoch)).expect("an epoch does not decode"), epoch);
            let event = decode_event(&encode_epoch_event(&epoch)).expect("an event does not decode");
            assert_eq!(event, Event::Epoch(epoch));
            let throttle = states::throttle(from)?;
            let decoded = decode_throttle(&encode_throttle(&throttle)).expect("a throttle does not decode");
            assert_eq!(decoded, throttle);
        }
    }
    Ok(())
}

/// A bound value belongs to its register and to no other, and decodes as before.
fn bind(data: &[u8]) {
    let (name, value) = data.split_at(data.len().min(8));
    let name = String::from_utf8_lossy(name);
    let bound = binding::bind(&name, value);
    assert!(binding::is_bound(&name, &bound) || value.is_empty());
    assert!(binding::belongs(&name, &bound));
    let other = format!("{name}-");
    assert!(!binding::is_bound(&other, &bound));
    let sessions = |bytes: &[u8]| decode_sessions(Bytes::copy_from_slice(bytes)).ok();
    if let Some(state) = sessions(value) {
        assert_eq!(sessions(&bound).expect("a bound value does not decode"), state);
    }
}

/// Returns the inputs that the kept corpus begins with.
pub fn seeds() -> Vec<Vec<u8>> {
    // Enough bytes for a state with every field, from a generator that never changes.
    let noise = |seed: u64, length: usize| {
        let mut state = seed;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        (0..length).map(|_| next()).collect::<Vec<_>>()
    };
    let mut seeds = Vec::new();
    let user = UserId::parse("user-1").expect("valid");
    for seed in 1..=4_u64 {
        let bytes = noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), 600);
        let from = &mut Unstructured::new(&bytes);
        if let Ok(state) = states::user_sessions(from) {
            let encoded = encode_sessions(&state);
            seeds.push([&[0], &*encoded].concat());
            seeds.push([&[0], &*binding::bind("user-1", &encoded)].concat());
            seeds.push([&[6], b"alice-01".as_slice(), &*encoded].concat());
        }
        let from = &mut Unstructured::new(&bytes);
        if let (Ok(ended), Ok(epoch), Ok(throttle)) =
            (states::ended(from), states::epoch(from), states::throttle(from))
        {
            seeds.push([&[1], &*encode_event(&user, &ended)].concat());
            seeds.push([&[1], &*encode_epoch_event(&epoch)].concat());
            seeds.push([&[2], &*encode_throttle(&throttle)].concat());
            seeds.push([&[3], &*encode_epoch(&epoch)].concat());
        }
        for kind in 7..=9 {
            seeds.push([&[kind], &bytes[..200]].concat());
        }
    }
    let mark = latchkey::domain::health::ProbeMark { written_at: Timestamp::from_secs(2_000_000_000) };
    let lease = latchkey::domain::lease::Lease { holder: 7, until: mark.written_at };
    let delivery = latchkey::domain::lease::Delivery {
        cursor: Some(latchkey::domain::ports::Cursor("1-0,2-0".into())),
        lease: Some(lease),
        changed_at: mark.written_at,
    };
    seeds.extend([
        [&[0], &*encode_sessions(&UserSessions::default())].concat(),
        [&[1], &*encode_changed(&user)].concat(),
        [&[4], &*encode_probe(&mark)].concat(),
        [&[5], &*encode_delivery(&delivery)].concat(),
        // A newer format, and none.
        vec![0, 2, 1],
        vec![0],
    ]);
    seeds
}
