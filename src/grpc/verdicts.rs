//! The answers to the requests of a `ValidateStream`, in their order.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{
    Stream, StreamExt as _,
    future::{BoxFuture, Either},
    stream::FuturesOrdered,
};
use tonic::{Status, Streaming, metadata::MetadataMap};
use tonic_types::StatusExt as _;

use super::{answer::Answer, pb, request_id::RequestId, status, validate::verdict_at_once};
use crate::domain::{Engine, Error};

/// Requests of one stream that are worked on at a time. No more are read before there are answers, and no more
/// answers wait than that: who does not read them is not asked for more.
const IN_FLIGHT: usize = 256;

type Coming = Either<Ready<Result<Answer, Status>>, BoxFuture<'static, Result<Answer, Status>>>;

/// Answers one request after the other. What is known is answered at once; what has to be asked for is asked for
/// together.
pub(super) struct Verdicts {
    engine: Arc<Engine>,
    /// Of the stream, with the token of requests that have none.
    metadata: MetadataMap,
    id: RequestId,
    requests: Streaming<pb::ValidateRequest>,
    /// The answers that wait for the store, and those behind them.
    coming: FuturesOrdered<Coming>,
    ended: bool,
}

impl Verdicts {
    pub(super) fn new(
        engine: Arc<Engine>,
        metadata: MetadataMap,
        id: RequestId,
        requests: Streaming<pb::ValidateRequest>,
    ) -> Self {
        Self { engine, metadata, id, requests, coming: FuturesOrdered::new(), ended: false }
    }

    fn answer(&self, request: &pb::ValidateRequest) -> Coming {
        match verdict_at_once(&self.engine, &self.metadata, request) {
            Ok(Ok(verdict)) => Either::Left(ready(Ok(Answer::Verdict(verdict)))),
            Ok(Err(unjudged)) => {
                let (engine, id) = (Arc::clone(&self.engine), self.id.clone());
                Either::Right(Box::pin(async move {
                    Ok(match engine.judge(unjudged).await {
                        Ok(verdict) => Answer::Verdict(verdict),
                        Err(error) => failure(error, &id),
                    })
                }))
            }
            Err(violation) => Either::Left(ready(Ok(failure(Error::Invalid(violation), &self.id)))),
        }
    }
}

impl Stream for Verdicts {
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.ended && this.coming.len() < IN_FLIGHT {
            let coming = match this.requests.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(request))) => this.answer(&request),
                Poll::Ready(Some(Err(status))) => {
                    this.ended = true;
                    Either::Left(ready(Err(status)))
                }
                Poll::Ready(None) => {
                    this.ended = true;
                    break;
                }
                Poll::Pending => break,
            };
            match coming {
                Either::Left(ready) if this.coming.is_empty() => {
                    return Poll::Ready(Some(ready.into_inner()));
                }
                coming => this.coming.push_back(coming),
            }
        }
        match this.coming.poll_next_unpin(cx) {
            Poll::Ready(None) if !this.ended => Poll::Pending,
            answer => answer,
        }
    }
}

/// An error, as an answer among others.
fn failure(error: Error, id: &RequestId) -> Answer {
    let status = status::of(error, id);
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    Answer::Failure(pb::Failure {
        code: status.code().into(),
        reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        retry_after: retry.and_then(|delay| prost_types::Duration::try_from(delay).ok()),
    })
}
