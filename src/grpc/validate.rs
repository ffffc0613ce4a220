//! `Validate` and `ValidateStream`: verdicts, one by one or many over one stream.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tonic::{Status, Streaming, body::Body, codegen::StdError, metadata::MetadataMap, server::Grpc};
use tonic_types::StatusExt as _;
use tower::service_fn;

use super::{
    MAX_REQUEST,
    codec::OurCodec,
    convert,
    pb::{self, validate_response::Verdict},
    request_id::RequestId,
    status,
};
use crate::domain::{Engine, Error, Violation};

/// Requests of one stream that are worked on at a time. No more are read before there are answers, and no more
/// answers wait than that: who does not read them is not asked for more.
const IN_FLIGHT: usize = 256;

pub(super) type VerdictStream = Pin<Box<dyn Stream<Item = Result<pb::ValidateResponse, Status>> + Send>>;

/// The full path of `Validate`.
pub(super) const METHOD: &str = "/latchkey.v1.AuthService/Validate";

/// The whole of `Validate`: a request that has been let in, and its answer.
pub(super) async fn unary<B>(
    engine: &Engine,
    id: Option<&RequestId>,
    request: http::Request<B>,
) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    let mut grpc = Grpc::new(OurCodec::default()).apply_max_message_size_config(Some(MAX_REQUEST), None);
    let validate =
        service_fn(async |request: tonic::Request<pb::ValidateRequest>| answer(engine, id, request).await);
    grpc.unary(validate, request).await
}

/// The answer to a request of its own.
pub(super) async fn answer(
    engine: &Engine,
    id: Option<&RequestId>,
    request: tonic::Request<pb::ValidateRequest>,
) -> Result<tonic::Response<pb::ValidateResponse>, Status> {
    match verdict(engine, request.metadata(), request.get_ref()).await {
        Ok(verdict) => {
            Ok(tonic::Response::new(pb::ValidateResponse { verdict: Some(verdict), failure: None }))
        }
        Err(error) => {
            let id = id.cloned().unwrap_or_else(RequestId::random);
            Err(id.on(status::of(error, &id)))
        }
    }
}

/// The answer to one request.
async fn verdict(
    engine: &Engine,
    metadata: &MetadataMap,
    message: &pb::ValidateRequest,
) -> Result<Verdict, Error> {
    let token = convert::token(&message.token, metadata)?;
    let verdict = engine.validate(token, message.peek, max_staleness(message.max_staleness)?).await?;
    Ok(match verdict {
        Ok(verified) => Verdict::Session(convert::session(verified)),
        Err(rejection) => Verdict::Rejection(convert::rejection(&rejection)),
    })
}

/// The answers to the requests of a stream, in their order.
pub(super) fn verdicts(
    engine: Arc<Engine>,
    metadata: MetadataMap,
    id: RequestId,
    requests: Streaming<pb::ValidateRequest>,
) -> VerdictStream {
    let common = Arc::new((engine, metadata, id));
    let answers = requests.map(move |request| {
        let common = Arc::clone(&common);
        async move {
            let (engine, metadata, id) = &*common;
            Ok(match verdict(engine, metadata, &request?).await {
                Ok(verdict) => pb::ValidateResponse { verdict: Some(verdict), failure: None },
                Err(error) => {
                    let failure = Some(failure(&status::of(error, id)));
                    pb::ValidateResponse { verdict: None, failure }
                }
            })
        }
    });
    Box::pin(answers.buffered(IN_FLIGHT))
}

/// A status, as an answer among others.
fn failure(status: &Status) -> pb::Failure {
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    pb::Failure {
        code: status.code().into(),
        reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        retry_after: retry.and_then(|delay| prost_types::Duration::try_from(delay).ok()),
    }
}

/// How old the answer may be.
fn max_staleness(duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Violation> {
    let duration = duration.map(Duration::try_from).transpose();
    duration.map_err(|_| Violation::new("max_staleness", "must not be negative"))
}
