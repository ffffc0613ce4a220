//! The answer to `Validate`, written from what the domain knows: the same bytes as the message, without making one.
//!
//! It is what services ask for on every request of theirs, and a message would be ten allocations to hold copies of
//! texts for as long as it takes to copy them again.

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
use crate::domain::{
    types::{SessionId, Timestamp},
    validate::{LiveSession, Verdict},
};
use crate::grpc::{
    codec::{BUFFER, TOGETHER},
    convert, pb,
};

/// The answer to one question.
pub(in crate::grpc) enum Reply {
    Verdict(Verdict),
    /// Another one than a verdict, in a stream.
    Failure(pb::Failure),
}

/// Writes answers, and reads questions.
pub(in crate::grpc) struct ValidateCodec {
    /// For how many bytes of them there is room from the start.
    buffer: usize,
}

impl ValidateCodec {
    /// For one question.
    pub(in crate::grpc) const UNARY: Self = Self { buffer: BUFFER };
    /// For many: as many answers as are sent together are not moved on the way.
    pub(in crate::grpc) const STREAMING: Self = Self { buffer: TOGETHER };
}

impl Codec for ValidateCodec {
    type Encode = Reply;
    type Decode = TokenRequest;
    type Encoder = ReplyEncoder;
    type Decoder = <ProstCodec<pb::ValidateResponse, TokenRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ReplyEncoder { buffer: self.buffer }
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<pb::ValidateResponse, TokenRequest>::raw_decoder(BufferSettings::new(
            self.buffer,
            TOGETHER,
        ))
    }
}

pub(in crate::grpc) struct ReplyEncoder {
    buffer: usize,
}

impl Encoder for ReplyEncoder {
    type Item = Reply;
    type Error = Status;

    fn encode(&mut self, answer: Reply, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match answer {
            Reply::Verdict(Verdict::Live(session)) => write_session(&session, to),
            Reply::Verdict(Verdict::Rejected(rejection)) => {
                let verdict = pb::validate_response::Verdict::Rejection(convert::rejection(&rejection));
                pb::ValidateResponse { verdict: Some(verdict), failure: None }.encode_raw(to);
            }
            Reply::Failure(failure) => {
                pb::ValidateResponse { verdict: None, failure: Some(failure) }.encode_raw(to);
            }
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(self.buffer, TOGETHER)
    }
}

/// `ValidateResponse` with the session that is its first field.
fn write_session(verified: &LiveSession, to: &mut impl BufMut) {
    let mut id = [0; SessionId::TEXT_LEN];
    let session = verified.session();
    // The fields of `Session`, by their numbers.
    let texts = [
        (1, session.id.write(&mut id)),
        (2, verified.user_id().as_str()),
        (3, verified.username()),
        (4, session.slot.as_str()),
        (5, session.device.as_str()),
    ];
    let moments = [(7, session.issued_at), (8, session.expires_at), (9, verified.idle_expires_at())]
        .map(|(field, moment)| Moment::new(field, moment));

    let mut length = moments.iter().map(|moment| moment.written().len()).sum();
    for (_, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        length += text_len(text);
    }
    for role in verified.roles() {
        length += text_len(role.as_str());
    }
    put_head(1, length, to);
    for (field, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        put_text(*field, text, to);
    }
    for role in verified.roles() {
        put_text(6, role.as_str(), to);
    }
    for moment in &moments {
        to.put_slice(moment.written());
    }
}

/// How long a field with a text is. Its key is one byte, as those of all our fields.
fn text_len(text: &str) -> usize {
    1 + encoded_len_varint(text.len() as u64) + text.len()
}

fn put_text(field: u8, text: &str, to: &mut impl BufMut) {
    put_head(field, text.len(), to);
    to.put_slice(text.as_bytes());
}

/// What a field of a length begins with.
fn put_head(field: u8, length: usize, to: &mut impl BufMut) {
    let mut head = [key(field, WireType::LengthDelimited); 11];
    let end = put_varint(&mut head, 1, length as u64);
    to.put_slice(&head[..end]);
}

const fn key(field: u8, wire_type: WireType) -> u8 {
    field << 3 | wire_type as u8
}

/// Writes a number to its place among bytes, as [`prost::encoding::encode_varint`] does to a buffer: where it ends.
fn put_varint(bytes: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        bytes[at] = value.to_le_bytes()[0] | 0x80;
        value >>= 7;
        at += 1;
    }
    bytes[at] = value.to_le_bytes()[0];
    at + 1
}

/// A field with a moment: written by itself, because that is cheaper than byte by byte to where it goes.
struct Moment {
    bytes: [u8; Self::MOST],
    end: usize,
}

impl Moment {
    /// A key and a length, and two keys with their numbers.
    const MOST: usize = 2 + 1 + 10 + 1 + 10;

    fn new(field: u8, moment: Timestamp) -> Self {
        let prost_types::Timestamp { seconds, nanos } = convert::timestamp(moment);
        let mut bytes = [0; Self::MOST];
        let mut end = 2;
        for (field, value) in [(1, seconds), (2, i64::from(nanos))] {
            // What has its default value is not written.
            if value != 0 {
                bytes[end] = key(field, WireType::Varint);
                end = put_varint(&mut bytes, end + 1, value.cast_unsigned());
            }
        }
        bytes[0] = key(field, WireType::LengthDelimited);
        put_varint(&mut bytes, 1, end as u64 - 2);
        Self { bytes, end }
    }

    fn written(&self) -> &[u8] {
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

    fn moment() -> impl Strategy<Value = Timestamp> {
        prop_oneof![Just(0), 0..u64::from(u32::MAX) * 1_000_000].prop_map(Timestamp::from_micros)
    }

    fn verified() -> impl Strategy<Value = LiveSession> {
        let texts = ("[!-~]{1,128}", ".{0,150}", "[a-z]{1,32}", "[^\\p{Cc}]{0,128}");
        let roles = prop::collection::vec("[a-z]{1,64}", 0..32);
        (texts, roles, any::<[u8; 16]>(), moment(), moment(), moment()).prop_map(
            |((user_id, username, slot, device), roles, id, issued_at, expires_at, last_seen)| {
                let profile = Profile { username: username.into(), roles: Role::parse_all(&roles).unwrap() };
                let session = Session {
                    id: SessionId::from_bytes(id),
                    generation: Generation(1),
                    slot: Slot::parse(&slot).unwrap(),
                    device: Device::parse(&device).unwrap(),
                    issued_at,
                    expires_at,
                    last_seen,
                    idle_timeout: Duration::from_hours(1),
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
        fn what_is_written_is_the_message_to_the_byte(verified in verified()) {
            let mut written = Vec::new();
            write_session(&verified, &mut written);
            let verdict = pb::validate_response::Verdict::Session(convert::session(&verified));
            let message = pb::ValidateResponse { verdict: Some(verdict), failure: None };
            prop_assert_eq!(written, message.encode_to_vec());
        }
    }
}
