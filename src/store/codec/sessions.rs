//! Decodes the sessions of a user straight from their bytes.
//!
//! A strict Validate decodes a state for each user that it reads, so this does without the messages in between and
//! allocates only what the state keeps. It decodes what the encoder writes and whatever else means the same to both
//! decoders. The rest, such as groups, a second fence and damage, is left to the generated decoder: what that has read
//! is encoded again and then decoded here.

use thin_vec::ThinVec;

use super::{CodecError, checked, client::client, device, notice, reason, session_id, slot};
use crate::domain::{
    sessions::{Fence, OneOrMany, Profile, Session, Tombstone, UserSessions},
    types::{Generation, LoginKey, Role, Timeout, Timestamp},
};

/// Why bytes were not decoded.
#[derive(Debug)]
pub(super) enum Problem {
    /// They are damaged, or nothing that Latchkey encodes.
    Unusual,
    /// A field has a value that it must not have.
    Invalid(CodecError),
}

impl From<CodecError> for Problem {
    fn from(error: CodecError) -> Self {
        Self::Invalid(error)
    }
}

type Result<T> = std::result::Result<T, Problem>;

/// The value of a field.
#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// Reads the fields of a message one after the other.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Returns the next field and its number.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 || key > u32::MAX.into() {
            return Err(Problem::Unusual);
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let (bytes, rest) = self.0.split_first_chunk().ok_or(Problem::Unusual)?;
                self.0 = rest;
                Value::Fixed64(u64::from_le_bytes(*bytes))
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Problem::Unusual)?;
                let (bytes, rest) = self.0.split_at_checked(len).ok_or(Problem::Unusual)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            5 => {
                self.0 = self.0.get(4..).ok_or(Problem::Unusual)?;
                Value::Fixed32
            }
            _ => return Err(Problem::Unusual),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for index in 0..10 {
            let (byte, rest) = self.0.split_first().ok_or(Problem::Unusual)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                // The tenth byte has one bit.
                return if index == 9 && *byte > 1 { Err(Problem::Unusual) } else { Ok(value) };
            }
        }
        Err(Problem::Unusual)
    }

    /// How many of the fields that follow have this number.
    fn count(mut self, number: u64) -> usize {
        let mut count = 0;
        while let Ok(Some((next, _))) = self.next() {
            count += usize::from(next == number);
        }
        count
    }
}

impl<'a> Value<'a> {
    fn varint(self) -> Result<u64> {
        match self {
            Value::Varint(value) => Ok(value),
            _ => Err(Problem::Unusual),
        }
    }

    fn fixed64(self) -> Result<u64> {
        match self {
            Value::Fixed64(value) => Ok(value),
            _ => Err(Problem::Unusual),
        }
    }

    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(Problem::Unusual),
        }
    }

    fn text(self) -> Result<&'a str> {
        let not_text = |_| CodecError::Corrupt("a string is not UTF-8".into());
        Ok(str::from_utf8(self.bytes()?).map_err(not_text)?)
    }

    fn uint32(self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|_| Problem::Unusual)
    }

    fn sint64(self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}

/// Decodes the sessions of a user, without the format byte.
pub(super) fn decode(bytes: &[u8]) -> Result<UserSessions> {
    let mut state = UserSessions::default();
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => state.generation = Generation(value.varint()?),
            2 => state.profile.username = value.text()?.into(),
            3 => push(&mut state.profile.roles, checked(Role::parse(value.text()?))?, number, fields),
            4 => push_session(&mut state.sessions, session(value.bytes()?)?, number, fields),
            5 => push(&mut state.tombstones, tombstone(value.bytes()?)?, number, fields),
            6 if state.fence.is_none() => state.fence = Some(Box::new(fence(value.bytes()?)?)),
            6 => return Err(Problem::Unusual),
            _ => {}
        }
    }
    arrange_roles(&mut state.profile)?;
    Ok(state)
}

/// Allocates the exact capacity, because caches keep it.
fn push<T>(all: &mut ThinVec<T>, one: T, number: u64, rest: Fields<'_>) {
    if all.len() == all.capacity() {
        all.reserve_exact(1 + rest.count(number));
    }
    all.push(one);
}

/// As [`push`]. A single session is stored in place.
fn push_session(all: &mut OneOrMany<Session>, one: Session, number: u64, rest: Fields<'_>) {
    if let OneOrMany::Many(several) = all
        && several.len() == several.capacity()
    {
        let more = rest.count(number);
        if !several.is_empty() || more > 0 {
            several.reserve_exact(1 + more);
        }
    }
    match all {
        OneOrMany::Many(several) if several.capacity() > 0 => several.push(one),
        _ => all.push(one),
    }
}

/// Roles are encoded in order.
fn arrange_roles(profile: &mut Profile) -> Result<()> {
    let roles = &mut profile.roles;
    if !roles.is_sorted_by(|a, b| a < b) || roles.len() > Role::MAX_COUNT {
        let texts: Vec<_> = roles.iter().map(Role::as_str).collect();
        *roles = checked(Role::parse_all(&texts))?.into();
    }
    Ok(())
}

fn session(bytes: &[u8]) -> Result<Session> {
    let (mut id, mut slot_text, mut device_text): (&[u8], _, _) = (&[], "", "");
    let (mut generation, mut issued_delta, mut expires_secs, mut seen_delta) = (0_u64, 0, 0, 0);
    let (mut idle_micros, mut exclusive, mut login_key, mut epoch, mut client_mark) = (0, false, None, 0, 0);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => id = value.bytes()?,
            2 => generation = value.varint()?,
            3 => slot_text = value.text()?,
            4 => device_text = value.text()?,
            5 => issued_delta = value.sint64()?,
            6 => expires_secs = value.varint()?,
            7 => seen_delta = value.sint64()?,
            8 => idle_micros = value.varint()?,
            9 => exclusive = value.varint()? != 0,
            10 => login_key = Some(LoginKey::from_hash(value.fixed64()?)),
            11 => epoch = value.varint()?,
            12 => client_mark = value.fixed64()?,
            _ => {}
        }
    }
    let issued = generation.saturating_add_signed(issued_delta);
    Ok(Session {
        id: session_id(id)?,
        generation: Generation(generation),
        slot: slot(slot_text)?,
        device: device(device_text)?,
        issued_at: Timestamp::from_micros(issued),
        expires_at: Timestamp::from_secs(expires_secs),
        last_seen: Timestamp::from_micros(issued.saturating_add_signed(seen_delta)),
        idle_timeout: Timeout::from_micros(idle_micros),
        epoch,
        exclusive,
        login_key,
        client: client(client_mark),
    })
}

fn tombstone(bytes: &[u8]) -> Result<Tombstone> {
    let (mut id, mut slot_text, mut device_text, mut notice_text): (&[u8], _, _, _) = (&[], "", "", "");
    let (mut generation, mut reason_code, mut at_micros, mut until_micros) = (0, 0, 0, 0);
    let (mut exclusive, mut login_key, mut client_mark, mut by_client_mark) = (false, None, 0, 0);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => id = value.bytes()?,
            2 => generation = value.varint()?,
            3 => slot_text = value.text()?,
            4 => reason_code = value.uint32()?,
            5 => at_micros = value.varint()?,
            6 => device_text = value.text()?,
            7 => until_micros = value.varint()?,
            8 => notice_text = value.text()?,
            9 => exclusive = value.varint()? != 0,
            10 => login_key = Some(LoginKey::from_hash(value.fixed64()?)),
            11 => client_mark = value.fixed64()?,
            12 => by_client_mark = value.fixed64()?,
            _ => {}
        }
    }
    Ok(Tombstone {
        id: session_id(id)?,
        generation: Generation(generation),
        slot: slot(slot_text)?,
        reason: reason(reason_code)?,
        at: Timestamp::from_micros(at_micros),
        by_device: device(device_text)?,
        notice: notice(notice_text)?,
        until: Timestamp::from_micros(until_micros),
        exclusive,
        login_key,
        client: client(client_mark),
        by_client: client(by_client_mark),
    })
}

fn fence(bytes: &[u8]) -> Result<Fence> {
    let mut notice_text = "";
    let (mut generation, mut reason_code, mut at_micros, mut until_micros) = (0, 0, 0, 0);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => generation = value.varint()?,
            2 => reason_code = value.uint32()?,
            3 => at_micros = value.varint()?,
            4 => until_micros = value.varint()?,
            5 => notice_text = value.text()?,
            _ => {}
        }
    }
    Ok(Fence {
        generation: Generation(generation),
        reason: reason(reason_code)?,
        at: Timestamp::from_micros(at_micros),
        notice: notice(notice_text)?,
        until: Timestamp::from_micros(until_micros),
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use prost::{
        Message as _,
        encoding::{WireType, encode_key, encode_varint},
    };

    use super::{super::StateWire, OneOrMany, decode};

    /// Encodes a field with a number that a message has or not, and a value that fits or not.
    fn field(value: impl Strategy<Value = Vec<u8>> + 'static) -> BoxedStrategy<Vec<u8>> {
        let number = prop_oneof![9 => 1_u32..14, 1 => 14_u32..3000];
        let bytes = prop_oneof![
            3 => value,
            3 => vec(any::<u8>(), 16),
            3 => "[a-z]{0,9}".prop_map(String::into_bytes),
            1 => vec(any::<u8>(), 0..40),
        ];
        let number_value =
            prop_oneof![3 => 0_u64..16, 2 => any::<u64>(), 1 => 0_u64..u64::from(u32::MAX) * 2];
        prop_oneof![
            6 => (number.clone(), bytes).prop_map(|(number, bytes)| {
                let mut encoded = Vec::new();
                encode_key(number, WireType::LengthDelimited, &mut encoded);
                encode_varint(bytes.len() as u64, &mut encoded);
                [encoded, bytes].concat()
            }),
            6 => (number.clone(), number_value).prop_map(|(number, value)| {
                let mut encoded = Vec::new();
                encode_key(number, WireType::Varint, &mut encoded);
                encode_varint(value, &mut encoded);
                encoded
            }),
            2 => (number.clone(), any::<[u8; 8]>()).prop_map(|(number, value)| {
                let mut encoded = Vec::new();
                encode_key(number, WireType::SixtyFourBit, &mut encoded);
                [&encoded[..], &value].concat()
            }),
            1 => (number.clone(), any::<[u8; 4]>()).prop_map(|(number, value)| {
                let mut encoded = Vec::new();
                encode_key(number, WireType::ThirtyTwoBit, &mut encoded);
                [&encoded[..], &value].concat()
            }),
            1 => number.prop_map(|number| {
                let mut encoded = Vec::new();
                encode_key(number, WireType::StartGroup, &mut encoded);
                encode_key(number, WireType::EndGroup, &mut encoded);
                encoded
            }),
        ]
        .boxed()
    }

    fn message(field: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        vec(field, 0..8).prop_map(|fields| fields.concat())
    }

    /// A session or a tombstone that is mostly valid, with fields after it that may override others.
    fn part() -> impl Strategy<Value = Vec<u8>> {
        let required = (any::<[u8; 16]>(), 1_u8..9)
            .prop_map(|(id, reason)| [&[0x0a, 16][..], &id, &[0x20, reason]].concat());
        let id = any::<[u8; 16]>().prop_map(|id| [&[0x0a, 16][..], &id].concat());
        let head = prop_oneof![id, required];
        (head, message(field(Just(Vec::new())))).prop_map(|(head, rest)| [head, rest].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// What is decoded here is decoded by the generated decoder, to the same state.
        #[test]
        fn both_decoders_agree(
            encoded in message(field(part())),
            damage in proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut encoded = encoded;
            if let Some((at, byte)) = damage && !encoded.is_empty() {
                let at = at.index(encoded.len());
                encoded[at] = byte;
            }
            if let Ok(state) = decode(&encoded) {
                let wire = StateWire::decode(&encoded[..]);
                prop_assert!(wire.is_ok(), "{:?}", wire);
                let again = decode(&wire.unwrap().encode_to_vec());
                prop_assert_eq!(again.ok(), Some(state));
            }
        }
    }

    #[test]
    fn lists_have_no_spare_capacity() {
        let session = [&[0x22, 18, 0x0a, 16][..], &[7; 16]].concat();
        for (count, capacity) in [(0, Some(0)), (1, None), (2, Some(2)), (3, Some(3))] {
            let state = decode(&session.repeat(count)).unwrap();
            let OneOrMany::Many(several) = &state.sessions else {
                assert_eq!((state.sessions.len(), capacity), (count, None));
                continue;
            };
            assert_eq!((several.len(), Some(several.capacity())), (count, capacity));
        }
    }
}
