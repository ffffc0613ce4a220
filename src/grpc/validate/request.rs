//! The request of `Validate`, decoded without a copy of the token, which has half a kilobyte.

use std::fmt;

use bytes::{Buf as _, Bytes};
use prost::{DecodeError, Message};

use crate::domain::Violation;

/// `ValidateRequest` with a token that refers to the received bytes.
#[derive(Message)]
#[prost(skip_debug)]
pub(in crate::grpc) struct TokenRequest {
    #[prost(bytes = "bytes", tag = "1")]
    token: Bytes,
    #[prost(bool, tag = "2")]
    pub(in crate::grpc) peek: bool,
    #[prost(message, optional, tag = "3")]
    pub(in crate::grpc) max_staleness: Option<prost_types::Duration>,
}

impl TokenRequest {
    /// Decodes a message. Nearly all have only a token, of 128 to 16,383 bytes.
    pub(in crate::grpc) fn parse(mut message: Bytes) -> Result<Self, DecodeError> {
        if let [0x0a, low @ 0x80..=0xff, high @ 1..0x80, token @ ..] = &*message
            && token.len() == usize::from(*low & 0x7f) | usize::from(*high) << 7
        {
            message.advance(3);
            return Ok(Self { token: message, peek: false, max_staleness: None });
        }
        Self::decode(message)
    }

    /// Returns the token, which may be empty.
    pub(in crate::grpc) fn token(&self) -> Result<&str, Violation> {
        str::from_utf8(&self.token)
            .map_err(|_| Violation::new("token", "is not UTF-8: send the token of the login unchanged"))
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenRequest")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grpc::pb;

    proptest! {
        #[test]
        fn a_request_decodes_like_the_generated_message(token in ".{0,600}", peek: bool, seconds in prop::option::of(any::<i64>())) {
            let max_staleness = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 7 });
            let message = pb::ValidateRequest { token: token.clone(), peek, max_staleness };
            let request = TokenRequest::parse(message.encode_to_vec().into()).unwrap();
            prop_assert_eq!(request.token().unwrap(), &token);
            prop_assert_eq!((request.peek, request.max_staleness), (peek, max_staleness));
        }
    }

    #[test]
    fn a_token_that_is_not_utf_8_is_a_violation() {
        let request = TokenRequest::parse(Bytes::from_static(&[0x0a, 2, 0xc3, 0x28])).unwrap();
        assert_eq!(request.token().unwrap_err().field, "token");
        assert!(!format!("{request:?}").contains("195"));
    }
}
