//! `Validate`: one verdict for one request.

use bytes::Bytes;
use tonic::{body::Body, codegen::StdError};
use tower::service_fn;

use super::{
    codec::{Reply, ValidateCodec},
    grpc, lookup,
    request::TokenRequest,
};
use crate::{
    admission::{Connection, Permit, Resource},
    domain::{Engine, validate::Lookup},
    grpc::{request_id::RequestId, status},
};

/// Answers a request that has passed the access check.
pub(in crate::grpc) async fn unary<B>(
    engine: &Engine,
    id: Option<&RequestId>,
    connection: &Connection,
    request: http::Request<B>,
) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    let validate = service_fn(async |request: tonic::Request<TokenRequest>| {
        let verdict = match lookup(engine, request.metadata(), request.get_ref()) {
            Ok(Lookup::Hit(verdict)) => Ok(verdict),
            // Only a request that waits for a store counts towards `server.max_requests`.
            Ok(Lookup::Miss(pending)) => {
                let _permit = Permit::take(connection, Resource::Requests)
                    .map_err(|scope| status::too_many("requests", scope))?;
                engine.resolve(pending).await
            }
            Err(violation) => Err(violation.into()),
        };
        match verdict {
            Ok(verdict) => Ok(tonic::Response::new(Reply::Verdict(verdict))),
            Err(error) => {
                let id = id.cloned().unwrap_or_else(RequestId::random);
                Err(id.add_to(status::from_error(error, &id)))
            }
        }
    });
    grpc(ValidateCodec::UNARY).unary(validate, request).await
}
