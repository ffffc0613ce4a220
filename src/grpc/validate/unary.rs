//! `Validate`: one verdict for one request.

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use tonic::{Status, body::Body, codegen::StdError};
use tower::service_fn;

use super::{
    HEADERS, MAX_REQUEST, TRAILERS,
    codec::{self, Reply, ValidateCodec},
    grpc, lookup,
    messages::PREFIX_LEN,
    request::TokenRequest,
};
use crate::{
    admission::{Connection, Permit, Resource},
    domain::{
        Engine,
        metrics::Surface,
        validate::{Lookup, PendingVerdict, Verdict},
    },
    grpc::{request_id::RequestId, status},
    transport::http2::MessageResponse,
};

/// Begins to answer a request that has passed the access check, with `body` as its body. Returns `None` for anything
/// but one uncompressed and valid message: [`unary()`] finds out what is wrong.
pub(in crate::grpc) fn begin(engine: &Engine, headers: &HeaderMap, body: &Bytes) -> Option<Lookup> {
    let (prefix, _) = body.split_first_chunk::<PREFIX_LEN>()?;
    let [is_compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if is_compressed != 0 || length > MAX_REQUEST || length != body.len() - PREFIX_LEN {
        return None;
    }
    let mut message = body.clone();
    message.advance(PREFIX_LEN);
    let request = TokenRequest::parse(message).ok()?;
    lookup(&engine.round(), headers, &request).ok()
}

/// Reads the store for a verdict that memory could not give.
pub(in crate::grpc) async fn resolve(
    engine: &Engine,
    id: Option<&RequestId>,
    connection: &Connection,
    pending: PendingVerdict,
) -> Result<Verdict, Status> {
    // Only a request that waits for a store counts towards `server.max_requests`.
    let _permit =
        Permit::take(connection, Resource::Requests).map_err(|scope| status::too_many("requests", scope))?;
    engine.resolve(pending).await.map_err(|error| {
        let id = id.cloned().unwrap_or_else(RequestId::random);
        id.add_to(status::from_error(error, &id))
    })
}

/// The response with a verdict.
pub(in crate::grpc) fn response(verdict: Verdict) -> MessageResponse {
    let mut head = http::Response::new(());
    *head.headers_mut() = HEADERS.clone();
    MessageResponse { head, data: codec::encode_message(verdict), trailers: &TRAILERS }
}

/// Answers a request that has passed the access check.
pub(in crate::grpc) async fn unary<B>(
    engine: &Engine,
    surface: Surface,
    id: Option<&RequestId>,
    connection: &Connection,
    request: http::Request<B>,
) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    let validate = service_fn(async |request: tonic::Request<TokenRequest>| {
        let lookup = lookup(&engine.round(), request.metadata().as_ref(), request.get_ref());
        let verdict = match lookup {
            Ok(Lookup::Hit(verdict)) => verdict,
            Ok(Lookup::Miss(pending)) => resolve(engine, id, connection, pending).await?,
            Err(violation) => {
                let id = id.cloned().unwrap_or_else(RequestId::random);
                return Err(id.add_to(status::from_error(violation.into(), &id)));
            }
        };
        engine.metrics().verdicts.count(surface, &verdict);
        Ok(tonic::Response::new(Reply::Verdict(verdict)))
    });
    grpc(ValidateCodec).unary(validate, request).await
}
