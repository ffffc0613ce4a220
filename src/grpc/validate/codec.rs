//! The codec of `Validate`: encodes the response directly from the values of the domain.
//!
//! The bytes are those of the generated message. The message itself would take ten allocations for copies of strings
//! that are copied again at once.

use prost::{
    Message,
    bytes::BufMut,
    encoding::{WireType, encoded_len_varint},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstCodec;

use super::request::TokenRequest;
use crate::{
    domain::{
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

pub(in crate::grpc) struct ValidateCodec {
    /// Initial size of the buffers, in bytes.
    buffer_size: usize,
}

impl ValidateCodec {
    pub(in crate::grpc) const UNARY: Self = Self { buffer_size: BUFFER_SIZE };
    /// The buffer of a stream holds all replies that are sent together, so it never grows.
    pub(in crate::grpc) const STREAMING: Self = Self { buffer_size: YIELD_THRESHOLD };
}

impl Codec for ValidateCodec {
    type Encode = Reply;
    type Decode = TokenRequest;
    type Encoder = ReplyEncoder;
    type Decoder = <ProstCodec<pb::ValidateResponse, TokenRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ReplyEncoder { buffer_size: self.buffer_size }
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<pb::ValidateResponse, TokenRequest>::raw_decoder(BufferSettings::new(
            self.buffer_size,
            YIELD_THRESHOLD,
        ))
    }
}

pub(in crate::grpc) struct ReplyEncoder {
    buffer_size: usize,
}

impl Encoder for ReplyEncoder {
    type Item = Reply;
    type Error = Status;

    fn encode(&mut self, reply: Reply, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match reply {
            Reply::Verdict(Verdict::Live(session)) => encode_session(&session, buffer),
            Reply::Verdict(Verdict::Rejected(rejection)) => {
                let verdict = pb::validate_response::Verdict::Rejection(convert::rejection(&rejection));
                pb::ValidateResponse { verdict: Some(verdict), failure: None }.encode_raw(buffer);
            }
            Reply::Failure(failure) => {
                pb::ValidateResponse { verdict: None, failure: Some(failure) }.encode_raw(buffer);
            }
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(self.buffer_size, YIELD_THRESHOLD)
    }
}

/// Encodes a `ValidateResponse` with a session.
fn encode_session(live: &LiveSession, to: &mut impl BufMut) {
    let mut id = [0; SessionId::TEXT_LEN];
    let session = live.session();
    // The fields of `Session` by number.
    let strings = [
        (1, session.id.write(&mut id)),
        (2, live.user_id().as_str()),
        (3, live.username()),
        (4, session.slot.as_str()),
        (5, session.device.as_str()),
    ];
    let times = [(7, session.issued_at), (8, session.expires_at), (9, live.idle_expires_at())]
        .map(|(field, time)| TimestampField::new(field, time));

    let mut length = times.iter().map(|time| time.as_bytes().len()).sum();
    for (_, text) in strings.iter().filter(|(_, text)| !text.is_empty()) {
        length += string_field_len(text);
    }
    for role in live.roles() {
        length += string_field_len(role.as_str());
    }
    put_header(1, length, to);
    for (field, text) in strings.iter().filter(|(_, text)| !text.is_empty()) {
        put_string(*field, text, to);
    }
    for role in live.roles() {
        put_string(6, role.as_str(), to);
    }
    for time in &times {
        to.put_slice(time.as_bytes());
    }
}

/// Returns the length of a string field. The keys of all fields used here are one byte.
fn string_field_len(text: &str) -> usize {
    1 + encoded_len_varint(text.len() as u64) + text.len()
}

fn put_string(field: u8, text: &str, to: &mut impl BufMut) {
    put_header(field, text.len(), to);
    to.put_slice(text.as_bytes());
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
            let mut encoded = Vec::new();
            encode_session(&live, &mut encoded);
            let verdict = pb::validate_response::Verdict::Session(convert::session(&live));
            let message = pb::ValidateResponse { verdict: Some(verdict), failure: None };
            prop_assert_eq!(encoded, message.encode_to_vec());
        }
    }
}
