//! A request that is encoded before the load begins, and the check of its answer.

use bytes::{BufMut as _, Bytes, BytesMut};
use data_encoding::BASE64URL_NOPAD;
use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use serde_json::Value;

use crate::{
    cli::output::rejection_text,
    grpc::pb::{self, validate_response::Verdict},
};

/// The largest accepted answer in bytes.
pub(super) const MAX_ANSWER: usize = 64 * 1024;

/// The gRPC prefix of a message: a flag and the length.
const PREFIX_LEN: usize = 5;

pub(super) struct Query {
    /// The request with its prefix.
    pub(super) message: Bytes,
    /// The session that the answer must be about, if it is checked.
    session_id: Option<String>,
}

impl Query {
    pub(super) fn new(token: &str, peek: bool, check_session: bool) -> Self {
        let request = pb::ValidateRequest { token: token.to_owned(), peek, max_staleness: None };
        let mut message = BytesMut::with_capacity(PREFIX_LEN + request.encoded_len());
        message.put_u8(0);
        message.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
        message.put_slice(&request.encode_to_vec());
        let session_id = if check_session { session_id(token) } else { None };
        Self { message: message.freeze(), session_id }
    }

    /// Checks an answer, which must be one message. The error tells why it is wrong.
    pub(super) fn check(&self, answer: &[u8]) -> Result<(), String> {
        match first_message(answer)? {
            Some((message, [])) => self.check_message(message),
            _ => Err("the server answered with something other than one message".into()),
        }
    }

    /// Checks a message without its prefix.
    pub(super) fn check_message(&self, message: &[u8]) -> Result<(), String> {
        // A right answer is recognised without decoding it, because the load must cost less than the server.
        if only_session(message).is_some_and(|session| self.is_about(session)) {
            return Ok(());
        }
        let answer = pb::ValidateResponse::decode(message);
        let answer = answer.map_err(|error| format!("cannot decode the answer: {error}"))?;
        match (answer.verdict, answer.failure) {
            (Some(Verdict::Session(session)), _) => match &self.session_id {
                Some(id) if *id != session.session_id => Err("the answer is about another session".into()),
                _ => Ok(()),
            },
            (Some(Verdict::Rejection(rejection)), _) => Err(rejection_text(&rejection)),
            (None, Some(failure)) => Err(format!("{}: {}", failure.reason, failure.message)),
            (None, None) => Err("the server gave no verdict: it may be newer than this program".into()),
        }
    }

    fn is_about(&self, session: &[u8]) -> bool {
        match (first_field(session), &self.session_id) {
            (Ok(id), Some(expected)) => id == Some(expected.as_bytes()),
            (Ok(_), None) => true,
            (Err(_), _) => false,
        }
    }
}

/// A message, and the bytes after it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// Splits the first message off. Returns `None` if it is not complete.
pub(super) fn first_message(answer: &[u8]) -> Result<Option<Split<'_>>, String> {
    let Some((&[flag, a, b, c, d], rest)) = answer.split_first_chunk::<PREFIX_LEN>() else {
        return Ok(None);
    };
    if flag != 0 {
        return Err("the server answered with something other than plain messages".into());
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_ANSWER {
        return Err(format!("the answer is longer than {MAX_ANSWER} bytes"));
    }
    Ok(rest.split_at_checked(length))
}

/// The session of an answer without any other field.
fn only_session(mut answer: &[u8]) -> Option<&[u8]> {
    let (tag, wire_type) = decode_key(&mut answer).ok()?;
    let length = decode_varint(&mut answer).ok()?;
    (tag == 1 && wire_type == WireType::LengthDelimited && length == answer.len() as u64).then_some(answer)
}

/// The value of field 1 of a message, if present. Returns an error if the message is not valid.
fn first_field(mut message: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let mut found = None;
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message)?;
        let before = message;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        if tag == 1 {
            let mut field = &before[..before.len() - message.len()];
            decode_varint(&mut field)?;
            found = Some(field);
        }
    }
    Ok(found)
}

/// The `jti` of a token, whose signature is not verified.
fn session_id(token: &str) -> Option<String> {
    let claims = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Some(claims["jti"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> String {
        format!("e30.{}.sig", BASE64URL_NOPAD.encode(br#"{"jti":"mine"}"#))
    }

    fn answer(verdict: Option<Verdict>) -> Vec<u8> {
        let message = pb::ValidateResponse { verdict, failure: None }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], length.as_slice(), &message].concat()
    }

    #[test]
    fn only_the_session_of_the_token_is_a_right_answer() {
        let query = Query::new(&token(), false, true);
        let session =
            |id: &str| Some(Verdict::Session(pb::Session { session_id: id.into(), ..Default::default() }));
        assert_eq!(query.check(&answer(session("mine"))), Ok(()));
        let rejected = pb::Rejection { message: "text".into(), ..Default::default() };
        for (wrong, message) in [
            (answer(session("another")), "another session"),
            (answer(Some(Verdict::Rejection(rejected))), "text"),
            (answer(None), "no verdict"),
            (answer(Some(Verdict::Session(pb::Session::default()))), "another session"),
            (answer(session("mine"))[..8].to_vec(), "one message"),
            ([&[1], &answer(session("mine"))[1..]].concat(), "plain messages"),
            ([[0, 255, 255, 255, 255].as_slice(), &answer(None)].concat(), "longer than"),
            ([answer(session("mine")), answer(session("mine"))].concat(), "one message"),
            (Vec::new(), "one message"),
        ] {
            let reason = query.check(&wrong).unwrap_err();
            assert!(reason.contains(message), "{reason}");
        }
        // A second verdict after the session replaces it, and an invalid field after it is an error.
        let rejection = pb::Rejection { message: "text".into(), ..Default::default() };
        let later = answer(Some(Verdict::Rejection(rejection)));
        let both = [&answer(session("mine"))[PREFIX_LEN..], &later[PREFIX_LEN..]].concat();
        assert_eq!(query.check_message(&both), Err("UNSPECIFIED: text".into()));
        let invalid = [&answer(session("mine"))[PREFIX_LEN..], &[0xff]].concat();
        assert!(query.check_message(&invalid).unwrap_err().contains("cannot decode"));
        let failure =
            pb::Failure { reason: "OVERLOADED".into(), message: "later".into(), ..Default::default() };
        let failed = pb::ValidateResponse { verdict: None, failure: Some(failure) }.encode_to_vec();
        assert_eq!(query.check_message(&failed), Err("OVERLOADED: later".into()));
        // The session of another method is not checked.
        assert_eq!(Query::new(&token(), false, false).check(&answer(session("another"))), Ok(()));
    }
}
