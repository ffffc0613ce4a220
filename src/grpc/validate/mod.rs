//! `Validate` and `ValidateStream`: verdicts, one by one or many over one stream.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tonic::{Status, body::Body, codegen::StdError, metadata::MetadataMap, server::Grpc};
use tower::service_fn;

mod codec;
mod request;
mod stream;

use self::{
    codec::{Reply, ValidateCodec},
    request::TokenQuery,
    stream::VerdictStream,
};
use super::{COMPRESSION, MAX_REQUEST, convert, request_id::RequestId, status};
use crate::{
    admission::{Connection, Permit, Resource},
    domain::{
        Engine, Violation,
        validate::{PendingVerdict, Verdict},
    },
};

/// The full path of `Validate`.
pub(super) const METHOD: &str = "/latchkey.v1.AuthService/Validate";
/// The full path of `ValidateStream`.
pub(super) const STREAM: &str = "/latchkey.v1.AuthService/ValidateStream";

/// `Validate`, for a request that has been let in.
pub(super) async fn unary<B>(
    engine: &Engine,
    id: Option<&RequestId>,
    connection: &Connection,
    request: http::Request<B>,
) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    let validate = service_fn(async |request: tonic::Request<TokenQuery>| {
        let verdict = match verdict_at_once(engine, request.metadata(), request.get_ref()) {
            Ok(Ok(verdict)) => Ok(verdict),
            // What has to wait for a store takes a place meanwhile.
            Ok(Err(unjudged)) => {
                let _place = Permit::take(connection, Resource::Requests)
                    .map_err(|scope| status::too_many("requests", scope))?;
                engine.judge(unjudged).await
            }
            Err(violation) => Err(violation.into()),
        };
        match verdict {
            Ok(verdict) => Ok(tonic::Response::new(Reply::Verdict(verdict))),
            Err(error) => {
                let id = id.cloned().unwrap_or_else(RequestId::random);
                Err(id.on(status::of(error, &id)))
            }
        }
    });
    grpc(ValidateCodec::ONE).unary(validate, request).await
}

/// `ValidateStream`, for a request that has been let in.
pub(super) async fn stream<B>(
    engine: &Arc<Engine>,
    id: RequestId,
    request: http::Request<B>,
) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    let validate = service_fn(async |request: tonic::Request<tonic::Streaming<TokenQuery>>| {
        let (metadata, _, requests) = request.into_parts();
        let verdicts = VerdictStream::new(Arc::clone(engine), metadata, id.clone(), requests);
        Ok::<_, Status>(tonic::Response::new(verdicts))
    });
    grpc(ValidateCodec::MANY).streaming(validate, request).await
}

fn grpc(codec: ValidateCodec) -> Grpc<ValidateCodec> {
    Grpc::new(codec).apply_max_message_size_config(Some(MAX_REQUEST), None).accept_compressed(COMPRESSION)
}

/// The verdict on one request, where nothing has to be waited for.
pub(super) fn verdict_at_once(
    engine: &Engine,
    metadata: &MetadataMap,
    question: &TokenQuery,
) -> Result<Result<Verdict, PendingVerdict>, Violation> {
    let token = convert::token(question.token()?, metadata)?;
    Ok(engine.validate_at_once(token, question.peek, max_staleness(question.max_staleness)?))
}

/// How old the answer may be.
fn max_staleness(duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Violation> {
    let duration = duration.map(Duration::try_from).transpose();
    duration.map_err(|_| Violation::new("max_staleness", "must not be negative"))
}
