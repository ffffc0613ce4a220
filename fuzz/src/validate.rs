//! The request of `Validate`, which is decoded by hand.
//!
//! The first byte of the input has flags, see below; the rest is the message or the whole body.

use bytes::Bytes;
use latchkey::grpc::pb::{ValidateRequest, ValidateResponse, validate_response::Verdict};
use prost::Message as _;

use crate::server::{SERVER, TOKEN, framed};

/// The input is the body, and not a message.
const IS_BODY: u8 = 1;
/// The client says that messages are compressed.
const GZIP: u8 = 2;
/// The token is in the header, too.
const IN_HEADER: u8 = 4;
/// The body comes in chunks of this many bytes; 0 for one chunk.
const CHUNK_SHIFT: u8 = 3;

const METHOD: &str = "/latchkey.v1.AuthService/Validate";

/// A request as far as it must decode: if the token is there more than once, the last one counts, and the generated
/// code requires that all of them are UTF-8.
#[derive(prost::Message)]
struct LastToken {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(bool, tag = "2")]
    peek: bool,
    #[prost(message, optional, tag = "3")]
    max_staleness: Option<prost_types::Duration>,
}

/// Sends the request of an input. The answer follows from the message as the generated code decodes it.
pub fn run(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let server = &*SERVER;
    let is_body = flags & IS_BODY != 0;
    let decoded = (!is_body).then(|| ValidateRequest::decode(rest));
    let mut request = decoded.as_ref().and_then(|decoded| decoded.as_ref().ok()).cloned();
    let body = if is_body {
        rest.to_vec()
    } else if let Some(request) = request.as_mut().filter(|request| request.token == TOKEN) {
        request.token.clone_from(&server.token);
        framed(&request.encode_to_vec())
    } else {
        framed(rest)
    };
    let bearer = format!("Bearer {}", server.token);
    let in_header = flags & IN_HEADER != 0;
    let mut headers = Vec::new();
    headers.extend((flags & GZIP != 0).then_some(("grpc-encoding", "gzip")));
    headers.extend(in_header.then_some(("authorization", bearer.as_str())));
    let size = match flags >> CHUNK_SHIFT {
        0 => body.len().max(1),
        size => usize::from(size),
    };
    let response = server.call(METHOD, &headers, body.chunks(size).map(Bytes::copy_from_slice));

    if response.code != 0 {
        let is_internal = response.code == 13;
        assert!(!is_internal || is_body || request.is_none(), "a valid request is an internal error");
        let is_good = request.is_some_and(|request| {
            request.token == server.token && !in_header && request.max_staleness.is_none()
        });
        assert!(!is_good, "a good token was answered with status {}", response.code);
        return;
    }
    let is_decodable = !matches!(decoded, Some(Err(_))) || LastToken::decode(rest).is_ok();
    assert!(is_decodable, "a request that does not decode was answered");
    let message = response.message();
    let answer = ValidateResponse::decode(message).expect("the response does not decode");
    assert_eq!(answer.encode_to_vec(), message, "the response is encoded in another way");
    assert!(answer.failure.is_none());
    let is_live = match answer.verdict.expect("the response has no verdict") {
        Verdict::Session(session) => {
            assert_eq!(session.user_id, server.user_id);
            true
        }
        Verdict::Rejection(rejection) => {
            assert!(rejection.reason != 0 && !rejection.message.is_empty());
            false
        }
    };
    if let Some(request) = request {
        let is_good = request.token == server.token || (request.token.is_empty() && in_header);
        assert_eq!(is_live, is_good, "a wrong verdict");
    }
}

/// Returns the inputs that the kept corpus begins with.
pub fn seeds() -> Vec<Vec<u8>> {
    let request = |token: &str, peek, max_staleness: Option<i64>| {
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 7 };
        ValidateRequest { token: token.to_owned(), peek, max_staleness: max_staleness.map(seconds) }
            .encode_to_vec()
    };
    let with = |flags: u8, bytes: &[u8]| [&[flags], bytes].concat();
    let good = request(TOKEN, false, None);
    vec![
        with(0, &good),
        with(0, &request(TOKEN, true, Some(5))),
        with(0, &request(TOKEN, false, Some(-5))),
        with(0, &request("a.b.c", true, None)),
        with(0, &request("", true, None)),
        with(IN_HEADER, &request("", false, None)),
        with(IN_HEADER, &good),
        with(GZIP, &good),
        with(1 << CHUNK_SHIFT, &good),
        with(3 << CHUNK_SHIFT, &request(TOKEN, true, Some(i64::MAX))),
        // A token that is not UTF-8, an unknown field, a field twice, a group.
        with(0, &[0x0a, 2, 0xc3, 0x28]),
        with(0, &[good.clone(), vec![0x7a, 1, 0]].concat()),
        with(0, &[good.clone(), good.clone()].concat()),
        with(0, &[0x23, 0x24]),
        with(IS_BODY, &framed(&good)),
        with(IS_BODY, &[framed(&good), framed(&good)].concat()),
        with(IS_BODY, &framed(&good)[..7]),
        with(IS_BODY, &[0, 0xff, 0xff, 0xff, 0xff, 1]),
        with(IS_BODY | GZIP, &[1, 0, 0, 0, 4, 0x1f, 0x8b, 8, 0]),
        with(IS_BODY, &[]),
    ]
}
