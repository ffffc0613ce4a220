//! The answer to `Validate`, written from what the domain knows: the same bytes as the message, without making one.
//!
//! It is what services ask for on every request of theirs, and a message would be ten allocations to hold copies of
//! texts for as long as it takes to copy them again.

use prost::{
    Message,
    bytes::BufMut,
    encoding::{WireType, encode_varint, encoded_len_varint},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstCodec;

use super::{
    codec::{BUFFER, TOGETHER},
    convert, pb,
};
use crate::domain::{
    types::{SessionId, Timestamp},
    validate::{Verdict, Verified},
};

/// The answer to one question.
pub(super) enum Answer {
    Verdict(Verdict),
    /// Another one than a verdict, in a stream.
    Failure(pb::Failure),
}

/// Writes answers, and reads questions.
pub(super) struct AnswerCodec;

impl Codec for AnswerCodec {
    type Encode = Answer;
    type Decode = pb::ValidateRequest;
    type Encoder = AnswerEncoder;
    type Decoder = <ProstCodec<pb::ValidateResponse, pb::ValidateRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        AnswerEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<pb::ValidateResponse, pb::ValidateRequest>::raw_decoder(BufferSettings::new(
            BUFFER, TOGETHER,
        ))
    }
}

pub(super) struct AnswerEncoder;

impl Encoder for AnswerEncoder {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match answer {
            Answer::Verdict(Ok(verified)) => response_with(&verified, to),
            Answer::Verdict(Err(rejection)) => {
                let verdict = pb::validate_response::Verdict::Rejection(convert::rejection(&rejection));
                pb::ValidateResponse { verdict: Some(verdict), failure: None }.encode_raw(to);
            }
            Answer::Failure(failure) => {
                pb::ValidateResponse { verdict: None, failure: Some(failure) }.encode_raw(to);
            }
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, TOGETHER)
    }
}

/// `ValidateResponse` with the session that is its first field.
fn response_with(verified: &Verified, to: &mut impl BufMut) {
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
    let roles = || verified.roles().iter().map(|role| (6, role.as_str()));
    let moments = [(7, session.issued_at), (8, session.expires_at), (9, verified.idle_expires_at())]
        .map(|(field, moment)| Field::moment(field, moment));

    let texts = || texts.into_iter().filter(|(_, text)| !text.is_empty()).chain(roles());
    let length =
        texts().map(|(_, text)| 1 + encoded_len_varint(text.len() as u64) + text.len()).sum::<usize>()
            + moments.iter().map(|moment| moment.written().len()).sum::<usize>();
    put_head(1, length, to);
    for (field, text) in texts() {
        put_head(field, text.len(), to);
        to.put_slice(text.as_bytes());
    }
    for moment in &moments {
        to.put_slice(moment.written());
    }
}

/// What a field of a length begins with: a key, which for our numbers is one byte, and the length.
fn put_head(field: u8, length: usize, to: &mut impl BufMut) {
    let mut head = Field::default();
    head.put_key(field, WireType::LengthDelimited);
    head.put_varint(length as u64);
    to.put_slice(head.written());
}

/// A short field, which is written here before it is copied to where it goes: cheaper than byte by byte.
#[derive(Default)]
struct Field {
    bytes: [u8; Self::MOST],
    length: usize,
}

impl Field {
    /// A moment with its head is the longest: a key and a length, and two keys with varints.
    const MOST: usize = 2 + 1 + 10 + 1 + 10;

    fn moment(field: u8, moment: Timestamp) -> Self {
        let prost_types::Timestamp { seconds, nanos } = convert::timestamp(moment);
        let mut message = Self::default();
        for (field, value) in [(1, seconds), (2, nanos.into())] {
            // What has its default value is not written.
            if value != 0 {
                message.put_key(field, WireType::Varint);
                message.put_varint(value.cast_unsigned());
            }
        }
        let mut whole = Self::default();
        whole.put_key(field, WireType::LengthDelimited);
        whole.put_varint(message.length as u64);
        for byte in message.written() {
            whole.put(*byte);
        }
        whole
    }

    fn put_key(&mut self, field: u8, wire_type: WireType) {
        self.put(field << 3 | wire_type as u8);
    }

    fn put_varint(&mut self, value: u64) {
        encode_varint(value, &mut &mut self.bytes[self.length..]);
        self.length += encoded_len_varint(value);
    }

    fn put(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.length]
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

    fn verified() -> impl Strategy<Value = Verified> {
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
                };
                Verified::opened(UserId::parse(&user_id).unwrap(), profile, session)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_the_message_to_the_byte(verified in verified()) {
            let mut written = Vec::new();
            response_with(&verified, &mut written);
            let verdict = pb::validate_response::Verdict::Session(convert::session(&verified));
            let message = pb::ValidateResponse { verdict: Some(verdict), failure: None };
            prop_assert_eq!(written, message.encode_to_vec());
        }
    }
}
