//! `Validate` and `ValidateStream`, the hot path.
//!
//! Other services call `Validate` on every request of their own. So it bypasses the generated router and the message
//! types:
//!
//! - [`request`] borrows the token from the received bytes, and [`codec`] writes the response from the values of the
//!   domain. With messages, a call takes ten more allocations for strings that are copied again at once.
//! - A request whose message arrives as a whole, without compression and without a caller that has to be checked, is
//!   begun by [`begin`] and, if memory can answer, answered at once: without a future, a timer or a body, and without
//!   tonic ([0010](../../../docs/decisions/0010-verdicts-bypass-the-router.md)). A verdict carries a request id only if
//!   the client sent one or an error occurred.
//! - All other requests, and those that turn out to be wrong, are answered by [`unary()`] with tonic.
//!
//! `tests/allocations.rs` checks the number of allocations. `build.rs` leaves both methods out of the generated server.

mod codec;
mod messages;
mod request;
mod stream;
mod unary;

use std::{sync::LazyLock, time::Duration};

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use tonic::{Status, server::Grpc};

use self::{codec::ValidateCodec, request::TokenRequest};
pub(super) use self::{
    stream::stream,
    unary::{begin, resolve, response, unary},
};
use super::{
    codec::{COMPRESSION, MAX_REQUEST},
    convert,
};
use crate::domain::{
    Violation,
    validate::{Lookup, Round},
};

pub(super) const METHOD: &str = "/latchkey.v1.AuthService/Validate";
pub(super) const STREAM: &str = "/latchkey.v1.AuthService/ValidateStream";

/// The headers and the trailers of verdicts. A copy needs no hashing.
static HEADERS: LazyLock<HeaderMap> =
    LazyLock::new(|| [(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))].into_iter().collect());
static TRAILERS: LazyLock<HeaderMap> =
    LazyLock::new(|| [(Status::GRPC_STATUS, HeaderValue::from_static("0"))].into_iter().collect());

fn grpc(codec: ValidateCodec) -> Grpc<ValidateCodec> {
    Grpc::new(codec).apply_max_message_size_config(Some(MAX_REQUEST), None).accept_compressed(COMPRESSION)
}

/// Returns the verdict from memory, or what has to be read from the store.
fn lookup(round: &Round<'_>, metadata: &HeaderMap, request: &TokenRequest) -> Result<Lookup, Violation> {
    let token = convert::token(request.token()?, metadata)?;
    Ok(round.validate(token, request.peek, max_staleness(request.max_staleness)?))
}

fn max_staleness(duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Violation> {
    let duration = duration.map(Duration::try_from).transpose();
    duration.map_err(|_| Violation::new("max_staleness", "must not be negative"))
}
