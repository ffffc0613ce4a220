//! `Validate` and `ValidateStream`, the hot path.
//!
//! Other services call `Validate` on every request of their own. So it bypasses the generated router and the message
//! types:
//!
//! - [`request`] borrows the token from the received bytes, and [`codec`] writes the response from the values of the
//!   domain. With messages, a call takes ten more allocations for strings that are copied again at once.
//! - The [dispatcher](super::dispatch) calls [`unary()`] directly, without a boxed future, and without a request id or a
//!   timer unless one is needed. A verdict carries a request id only if the client sent one or an error occurred.
//!
//! Together with smaller changes this reduced a call from 86,000 to 69,000 instructions, of which an empty call of the
//! library takes 53,000 (docs/performance/experiments.md). `tests/allocations.rs` checks the number of allocations.
//! `build.rs` leaves both methods out of the generated server.

mod codec;
mod request;
mod stream;
mod unary;

use std::time::Duration;

use tonic::{metadata::MetadataMap, server::Grpc};

use self::{codec::ValidateCodec, request::TokenRequest};
pub(super) use self::{stream::stream, unary::unary};
use super::{
    codec::{COMPRESSION, MAX_REQUEST},
    convert,
};
use crate::domain::{Engine, Violation, validate::Lookup};

pub(super) const METHOD: &str = "/latchkey.v1.AuthService/Validate";
pub(super) const STREAM: &str = "/latchkey.v1.AuthService/ValidateStream";

fn grpc(codec: ValidateCodec) -> Grpc<ValidateCodec> {
    Grpc::new(codec).apply_max_message_size_config(Some(MAX_REQUEST), None).accept_compressed(COMPRESSION)
}

/// Returns the verdict from memory, or what has to be read from the store.
fn lookup(engine: &Engine, metadata: &MetadataMap, request: &TokenRequest) -> Result<Lookup, Violation> {
    let token = convert::token(request.token()?, metadata)?;
    Ok(engine.validate_from_memory(token, request.peek, max_staleness(request.max_staleness)?))
}

fn max_staleness(duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Violation> {
    let duration = duration.map(Duration::try_from).transpose();
    duration.map_err(|_| Violation::new("max_staleness", "must not be negative"))
}
