//! A question, made before the load begins, and whether an answer is the right one.

use bytes::{BufMut as _, Bytes, BytesMut};
use data_encoding::BASE64URL_NOPAD;
use prost::Message as _;
use serde_json::Value;

use crate::{
    cli::output::rejection_text,
    grpc::pb::{self, validate_response::Verdict},
};

/// What stands before a message: a flag and the length.
const PREFIX: usize = 5;

pub(super) struct Ask {
    /// The request as it goes over the wire.
    pub(super) message: Bytes,
    /// The session that the answer must be about, where the token tells.
    session_id: Option<String>,
}

impl Ask {
    pub(super) fn new(token: &str, peek: bool, check_session: bool) -> Self {
        let request = pb::ValidateRequest { token: token.to_owned(), peek, max_staleness: None };
        let mut message = BytesMut::with_capacity(PREFIX + request.encoded_len());
        message.put_u8(0);
        message.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
        message.put_slice(&request.encode_to_vec());
        let session_id = if check_session { session_id(token) } else { None };
        Self { message: message.freeze(), session_id }
    }

    /// Why this answer is wrong, if it is.
    pub(super) fn check(&self, answer: &[u8]) -> Result<(), String> {
        let message = match answer.split_at_checked(PREFIX) {
            Some(([0, length @ ..], message)) if length_is(length, message) => message,
            _ => return Err("the server answered with something other than one message".into()),
        };
        let answer = pb::ValidateResponse::decode(message);
        match answer.map_err(|error| format!("the answer cannot be read: {error}"))?.verdict {
            Some(Verdict::Session(session)) => match &self.session_id {
                Some(id) if *id != session.session_id => Err("the answer is about another session".into()),
                _ => Ok(()),
            },
            Some(Verdict::Rejection(rejection)) => Err(rejection_text(&rejection)),
            None => Err("the server gave no verdict: it may be newer than this program".into()),
        }
    }
}

fn length_is(length: &[u8], message: &[u8]) -> bool {
    u32::try_from(message.len()).is_ok_and(|len| len.to_be_bytes() == length)
}

/// The `jti` of a token. That it is genuine is for the server to say.
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
        let ask = Ask::new(&token(), false, true);
        let session =
            |id: &str| Some(Verdict::Session(pb::Session { session_id: id.into(), ..Default::default() }));
        assert_eq!(ask.check(&answer(session("mine"))), Ok(()));
        let rejected = pb::Rejection { message: "told".into(), ..Default::default() };
        for (wrong, said) in [
            (answer(session("another")), "another session"),
            (answer(Some(Verdict::Rejection(rejected))), "told"),
            (answer(None), "no verdict"),
            (answer(session("mine"))[1..].to_vec(), "one message"),
            ([answer(session("mine")), answer(session("mine"))].concat(), "one message"),
            (Vec::new(), "one message"),
        ] {
            let reason = ask.check(&wrong).unwrap_err();
            assert!(reason.contains(said), "{reason}");
        }
        // Of another method it is not known whom it is about.
        assert_eq!(Ask::new(&token(), false, false).check(&answer(session("another"))), Ok(()));
    }
}
