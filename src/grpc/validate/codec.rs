//! The codec of `Validate`: encodes the response directly from the values of the domain.
//!
//! The bytes are those of the generated message. The message itself would take ten allocations for copies of strings
//! that are copied again at once.

use bytes::{BufMut, Bytes};
use prost::{
    Message,
    encoding::{WireType, encoded_len_varint},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstCodec;

use super::{messages::PREFIX_LEN, request::TokenRequest};
use crate::{
    domain::{
        rejection::Rejection,
        types::{SessionId, Timestamp},
        validate::{LiveSession, Verdict},
    },
    grpc::{
        codec::{BUFFER_SIZE, YIELD_THRESHOLD},
        convert, pb,
    },
};

/// A message of a response.
pub(in crate::grpc) enum Reply {
    Verdict(Verdict),
    /// An error in a stream, which stays open.
    Failure(pb::Failure),
}

/// The codec of the requests that the library decodes.
pub(in crate::grpc) struct ValidateCodec;

impl Codec for ValidateCodec {
    type Encode = Reply;
    type Decode = TokenRequest;
    type Encoder = ReplyEncoder;
    type Decoder = <ProstCodec<pb::ValidateResponse, TokenRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ReplyEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<pb::ValidateResponse, TokenRequest>::raw_decoder(buffers())
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_SIZE, YIELD_THRESHOLD)
}

pub(in crate::grpc) struct ReplyEncoder;

impl Encoder for ReplyEncoder {
    type Item = Reply;
    type Error = Status;

    fn encode(&mut self, reply: Reply, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match reply {
            Reply::Verdict(Verdict::Live(session)) => EncodedSession::new(&session).write(buffer),
            Reply::Verdict(Verdict::Rejected(rejection)) => rejected(&rejection).encode_raw(buffer),
            Reply::Failure(failure) => failed(failure).encode_raw(buffer),
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Encodes a message with its prefix, in a buffer of exactly its size if it has a verdict.
pub(super) fn encode_message(verdict: Verdict) -> Bytes {
    let mut buffer = Vec::new();
    append_message(Reply::Verdict(verdict), &mut buffer);
    buffer.into()
}

/// Appends a message with its prefix.
pub(super) fn append_message(reply: Reply, buffer: &mut Vec<u8>) {
    let mut begin = |length: usize| {
        if buffer.capacity() == 0 {
            buffer.reserve_exact(PREFIX_LEN + length);
        }
        buffer.put_u8(0);
        buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    };
    let message = match reply {
        Reply::Verdict(Verdict::Live(live)) => {
            let session = EncodedSession::new(&live);
            begin(session.len());
            return session.write(buffer);
        }
        Reply::Verdict(Verdict::Rejected(rejection)) => rejected(&rejection),
        Reply::Failure(failure) => failed(failure),
    };
    begin(message.encoded_len());
    message.encode_raw(buffer);
}

fn rejected(rejection: &Rejection) -> pb::ValidateResponse {
    let verdict = pb::validate_response::Verdict::Rejection(convert::rejection(rejection));
    pb::ValidateResponse { verdict: Some(verdict), failure: None }
}

fn failed(failure: pb::Failure) -> pb::ValidateResponse {
    pb::ValidateResponse { verdict: None, failure: Some(failure) }
}

/// A `ValidateResponse` with a session, to be encoded.
struct EncodedSession<'a> {
    live: &'a LiveSession,
    id: [u8; SessionId::TEXT_LEN],
    times: [TimestampField; 3],
    /// The length of the session without the header of the field that it is.
    length: usize,
}

impl<'a> EncodedSession<'a> {
    fn new(live: &'a LiveSession) -> Self {
        let session = live.session();
        let mut id = [0; SessionId::TEXT_LEN];
        session.id.write(&mut id);
        let times = [(7, session.issued_at), (8, session.expires_at), (9, live.idle_expires_at())]
            .map(|(field, time)| TimestampField::new(field, time));
        let mut encoded = Self { live, id, times, length: 0 };
        let mut length = encoded.times.iter().map(|time| time.as_bytes().len()).sum();
        for (_, text) in encoded.strings().iter().filter(|(_, text)| !text.is_empty()) {
            length += string_field_len(text);
        }
        for role in live.roles() {
            length += string_field_len(role.as_str().as_bytes());
        }
        encoded.length = length;
        encoded
    }

    /// The string fields of `Session` by number, without the roles.
    fn strings(&self) -> [(u8, &[u8]); 5] {
        let session = self.live.session();
        [
            (1, &self.id[..]),
            (2, self.live.user_id().as_str().as_bytes()),
            (3, self.live.username().as_bytes()),
            (4, session.slot.as_str().as_bytes()),
            (5, session.device.as_str().as_bytes()),
        ]
    }

    fn len(&self) -> usize {
        1 + encoded_len_varint(self.length as u64) + self.length
    }

    fn write(&self, to: &mut impl BufMut) {
        put_header(1, self.length, to);
        for (field, text) in self.strings().iter().filter(|(_, text)| !text.is_empty()) {
            put_string(*field, text, to);
        }
        for role in self.live.roles() {
            put_string(6, role.as_str().as_bytes(), to);
        }
        for time in &self.times {
            to.put_slice(time.as_bytes());
        }
    }
}

/// Returns the length of a string field. The keys of all fields used here are one byte.
fn string_field_len(text: &[u8]) -> usize {
    1 + encoded_len_varint(text.len() as u64) + text.len()
}

fn put_string(field: u8, text: &[u8], to: &mut impl BufMut) {
    put_header(field, text.len(), to);
    to.put_slice(text);
}

/// Writes the key and the length of a length-delimited field.
fn put_header(field: u8, length: usize, to: &mut impl BufMut) {
    let mut header = [key(field, WireType::LengthDelimited); 11];
    let end = put_varint(&mut header, 1, length as u64);
    to.put_slice(&header[..end]);
}

const fn key(field: u8, wire_type: WireType) -> u8 {
    field << 3 | wire_type as u8
}

/// Writes a varint at a position of a slice, like [`prost::encoding::encode_varint`], and returns its end.
fn put_varint(bytes: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        bytes[at] = value.to_le_bytes()[0] | 0x80;
        value >>= 7;
        at += 1;
    }
    bytes[at] = value.to_le_bytes()[0];
    at + 1
}

/// An encoded `Timestamp` field. Encoding it into an array is cheaper than byte by byte into the buffer.
struct TimestampField {
    bytes: [u8; Self::MAX_LEN],
    end: usize,
}

impl TimestampField {
    /// A key and a length, and two varint fields.
    const MAX_LEN: usize = 2 + 1 + 10 + 1 + 10;

    fn new(field: u8, time: Timestamp) -> Self {
        let prost_types::Timestamp { seconds, nanos } = convert::timestamp(time);
        let mut bytes = [0; Self::MAX_LEN];
        let mut end = 2;
        for (field, value) in [(1, seconds), (2, i64::from(nanos))] {
            // A default value is not encoded.
            if value != 0 {
                bytes[end] = key(field, WireType::Varint);
                end = put_varint(&mut bytes, end + 1, value.cast_unsigned());
            }
        }
        bytes[0] = key(field, WireType::LengthDelimited);
        put_varint(&mut bytes, 1, end as u64 - 2);
        Self { bytes, end }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        sessions::{Profile, Session},
        types::{Device, Generation, Role, Slot, Timestamp, UserId},
    };

    fn time() -> impl Strategy<Value = Timestamp> {
        prop_oneof![Just(0), 0..u64::from(u32::MAX) * 1_000_000].prop_map(Timestamp::from_micros)
    }

    fn live_session() -> impl Strategy<Value = LiveSession> {
        let strings = ("[!-~]{1,128}", ".{0,150}", "[a-z]{1,32}", "[^\\p{Cc}]{0,128}");
        let roles = prop::collection::vec("[a-z]{1,64}", 0..32);
        (strings, roles, any::<[u8; 16]>(), time(), time(), time()).prop_map(
            |((user_id, username, slot, device), roles, id, issued_at, expires_at, last_seen)| {
                let profile =
                    Profile { username: username.into(), roles: Role::parse_all(&roles).unwrap().into() };
                let session = Session {
                    id: SessionId::from_bytes(id),
                    generation: Generation(1),
                    slot: Slot::parse(&slot).unwrap(),
                    device: Device::parse(&device).unwrap(),
                    issued_at,
                    expires_at,
                    last_seen,
                    idle_timeout: Duration::from_hours(1).into(),
                    epoch: 0,
                    exclusive: false,
                    login_key: None,
                    client: None,
                };
                LiveSession::opened(UserId::parse(&user_id).unwrap(), profile, session)
            },
        )
    }

    proptest! {
        #[test]
        fn a_session_is_encoded_like_the_generated_message(live in live_session()) {
            let verdict = pb::validate_response::Verdict::Session(convert::session(&live));
            let message = pb::ValidateResponse { verdict: Some(verdict), failure: None }.encode_to_vec();
            let encoded = encode_message(Verdict::Live(live));
            prop_assert_eq!(&encoded[..1], [0]);
            prop_assert_eq!(u32::from_be_bytes(encoded[1..5].try_into().unwrap()) as usize, message.len());
            prop_assert_eq!(&encoded[5..], message);
        }
    }
}
