//! `Validate` and `ValidateStream`, the hot path.
//!
//! Other services make this call on every request of theirs. So it bypasses the generated router and the message types:
//!
//! - [`codec`] reads the token where it lies in the received bytes and writes the response from the domain's values. With
//!   messages, a call takes ten allocations more to copy texts that are copied again at once.
//! - The [dispatcher](super::dispatch) calls [`unary`] directly, without boxed futures, request id or timer where none is
//!   needed.
//!
//! Together with smaller changes this took a call from 86,000 to 69,000 instructions, of which 53,000 are those of an
//! empty call of the library (docs/performance.md). `tests/allocations.rs` holds the number of allocations.
//! `build.rs` leaves both methods out of the generated server.

mod codec;
mod request;
mod stream;
mod unary;

use std::time::Duration;

use tonic::{metadata::MetadataMap, server::Grpc};

use self::{codec::ValidateCodec, request::TokenRequest};
pub(super) use self::{stream::stream, unary::unary};
use super::{COMPRESSION, MAX_REQUEST, convert};
use crate::domain::{Engine, Violation, validate::Lookup};

/// The full path of `Validate`.
pub(super) const METHOD: &str = "/latchkey.v1.AuthService/Validate";
/// The full path of `ValidateStream`.
pub(super) const STREAM: &str = "/latchkey.v1.AuthService/ValidateStream";

fn grpc(codec: ValidateCodec) -> Grpc<ValidateCodec> {
    Grpc::new(codec).apply_max_message_size_config(Some(MAX_REQUEST), None).accept_compressed(COMPRESSION)
}

/// The verdict on one request, as far as memory can give it.
fn lookup(engine: &Engine, metadata: &MetadataMap, request: &TokenRequest) -> Result<Lookup, Violation> {
    let token = convert::token(request.token()?, metadata)?;
    Ok(engine.validate_from_memory(token, request.peek, max_staleness(request.max_staleness)?))
}

fn max_staleness(duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Violation> {
    let duration = duration.map(Duration::try_from).transpose();
    duration.map_err(|_| Violation::new("max_staleness", "must not be negative"))
}
