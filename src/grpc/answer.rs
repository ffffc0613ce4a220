//! The answer to `Validate`, written from what the domain knows: the same bytes as the message, without making one.
//!
//! It is what services ask for on every request of theirs, and a message would be ten allocations to hold copies of
//! texts for as long as it takes to copy them again.

use prost::{
    Message,
    bytes::BufMut,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, message},
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
    types::SessionId,
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
    let session = &verified.session;
    // The fields of `Session`, by their numbers.
    let texts = [
        (1, session.id.write(&mut id)),
        (2, verified.user_id.as_str()),
        (3, verified.username.as_str()),
        (4, session.slot.as_str()),
        (5, session.device.as_str()),
    ];
    let moments = [(7, session.issued_at), (8, session.expires_at), (9, verified.idle_expires_at)]
        .map(|(field, moment)| (field, convert::timestamp(moment)));

    let text_len = |field, text: &str| key_len(field) + encoded_len_varint(text.len() as u64) + text.len();
    let length = texts
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(field, text)| text_len(*field, text))
        .chain(verified.roles.iter().map(|role| text_len(6, role.as_str())))
        .chain(moments.iter().map(|(field, moment)| message::encoded_len(*field, moment)))
        .sum::<usize>();
    encode_key(1, WireType::LengthDelimited, to);
    encode_varint(length as u64, to);
    let mut put = |field, text: &str| {
        encode_key(field, WireType::LengthDelimited, to);
        encode_varint(text.len() as u64, to);
        to.put_slice(text.as_bytes());
    };
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        put(field, text);
    }
    for role in &verified.roles {
        put(6, role.as_str());
    }
    for (field, moment) in &moments {
        message::encode(*field, moment, to);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        sessions::Session,
        types::{Device, Generation, Role, Slot, Timestamp, UserId},
    };

    fn moment() -> impl Strategy<Value = Timestamp> {
        prop_oneof![Just(0), 0..u64::from(u32::MAX) * 1_000_000].prop_map(Timestamp::from_micros)
    }

    fn verified() -> impl Strategy<Value = Verified> {
        let texts = ("[!-~]{1,128}", ".{0,150}", "[a-z]{1,32}", "[^\\p{Cc}]{0,128}");
        let roles = prop::collection::vec("[a-z]{1,64}", 0..32);
        (texts, roles, any::<[u8; 16]>(), moment(), moment(), moment()).prop_map(
            |((user_id, username, slot, device), roles, id, issued_at, expires_at, idle_expires_at)| {
                Verified {
                    user_id: UserId::parse(&user_id).unwrap(),
                    username: username.into(),
                    roles: Role::parse_all(&roles).unwrap(),
                    session: Session {
                        id: SessionId::from_bytes(id),
                        generation: Generation(1),
                        slot: Slot::parse(&slot).unwrap(),
                        device: Device::parse(&device).unwrap(),
                        issued_at,
                        expires_at,
                        last_seen: issued_at,
                        idle_timeout: Duration::from_hours(1),
                        epoch: 0,
                        exclusive: false,
                        login_key: None,
                    },
                    idle_expires_at,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_the_message_to_the_byte(verified in verified()) {
            let mut written = Vec::new();
            response_with(&verified, &mut written);
            let verdict = pb::validate_response::Verdict::Session(convert::session(verified));
            let message = pb::ValidateResponse { verdict: Some(verdict), failure: None };
            prop_assert_eq!(written, message.encode_to_vec());
        }
    }
}
