//! The answers to the requests of a `ValidateStream`, in their order.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming, metadata::MetadataMap};
use tonic_types::StatusExt as _;

use super::{codec::Reply, request::TokenQuery, verdict_at_once};
use crate::domain::{
    Engine, Error,
    validate::{PendingVerdict, Verdict},
};
use crate::grpc::{pb, request_id::RequestId, status};

/// Requests of one stream that are worked on at a time. No more are read before there are answers, and no more
/// answers wait than that: who does not read them is not asked for more.
const IN_FLIGHT: usize = 256;

/// Answers one request after the other. What is known is answered at once. What has to be asked for is asked for
/// together: whatever has come by the time that there is nothing more to read.
pub(in crate::grpc) struct VerdictStream {
    engine: Arc<Engine>,
    /// Of the stream, with the token of requests that have none.
    metadata: MetadataMap,
    id: RequestId,
    requests: Incoming,
    /// What has been read and is not asked for yet.
    batch: RequestBatch,
    /// What is asked for.
    asked: FuturesOrdered<BoxFuture<'static, VecDeque<PendingReply>>>,
    /// How many answers that will be.
    in_asked: usize,
    /// The answers that are next.
    due: VecDeque<PendingReply>,
}

/// Where the requests come from.
enum Incoming {
    Open(Box<Streaming<TokenQuery>>),
    /// What the answers end with.
    Ended(Option<Status>),
}

/// Incoming that have been read together.
#[derive(Default)]
struct RequestBatch {
    /// In their order; nothing stands where the store has to be asked.
    answers: Vec<Option<Reply>>,
    /// What it has to be asked, in the same order.
    unjudged: Vec<PendingVerdict>,
}

/// An answer.
enum PendingReply {
    Now(Reply),
    /// Something has to be written first. That goes on while others are answered.
    Later(AbortOnDropHandle<Reply>),
}

impl VerdictStream {
    pub(in crate::grpc) fn new(
        engine: Arc<Engine>,
        metadata: MetadataMap,
        id: RequestId,
        requests: Streaming<TokenQuery>,
    ) -> Self {
        Self {
            engine,
            metadata,
            id,
            requests: Incoming::Open(Box::new(requests)),
            batch: RequestBatch::default(),
            asked: FuturesOrdered::new(),
            in_asked: 0,
            due: VecDeque::new(),
        }
    }

    /// Reads what there is to read. The answer to a request that is known, if nothing goes before it.
    fn read(&mut self, cx: &mut Context<'_>) -> Option<Reply> {
        while let Incoming::Open(requests) = &mut self.requests {
            let in_flight = self.due.len() + self.in_asked + self.batch.answers.len();
            if in_flight >= IN_FLIGHT {
                break;
            }
            let request = match requests.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(request))) => request,
                Poll::Ready(end) => {
                    self.requests = Incoming::Ended(end.and_then(Result::err).map(status::of_message));
                    break;
                }
                Poll::Pending => break,
            };
            let answer = match verdict_at_once(&self.engine, &self.metadata, &request) {
                Ok(Ok(verdict)) => Reply::Verdict(verdict),
                Ok(Err(unjudged)) => {
                    self.batch.answers.push(None);
                    self.batch.unjudged.push(unjudged);
                    continue;
                }
                Err(violation) => failure(Error::Invalid(violation), &self.id),
            };
            if in_flight == 0 {
                return Some(answer);
            }
            self.batch.answers.push(Some(answer));
        }
        None
    }

    /// Asks for what has been read.
    fn ask(&mut self) {
        let batch = mem::take(&mut self.batch);
        if batch.answers.is_empty() {
            return;
        }
        self.in_asked += batch.answers.len();
        self.asked.push_back(Box::pin(batch.ask(Arc::clone(&self.engine), self.id.clone())));
    }
}

impl RequestBatch {
    async fn ask(self, engine: Arc<Engine>, id: RequestId) -> VecDeque<PendingReply> {
        let mut judged = engine.judge_all(self.unjudged).await.into_iter();
        let mut due = |answer: Option<Reply>| {
            if let Some(answer) = answer {
                return PendingReply::Now(answer);
            }
            match judged.next() {
                Some(Ok(judged)) => PendingReply::Now(answer_with(judged, &id)),
                Some(Err(unsettled)) => {
                    let (engine, id) = (Arc::clone(&engine), id.clone());
                    let settled = async move { answer_with(engine.settle_verdict(unsettled).await, &id) };
                    PendingReply::Later(AbortOnDropHandle::new(tokio::spawn(settled)))
                }
                None => PendingReply::Now(unanswered(&id)),
            }
        };
        self.answers.into_iter().map(&mut due).collect()
    }
}

impl Stream for VerdictStream {
    type Item = Result<Reply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // First what is there: what is read in between would be asked for by itself.
        if matches!(this.due.front(), None | Some(PendingReply::Later(_))) {
            if let Some(answer) = this.read(cx) {
                return Poll::Ready(Some(Ok(answer)));
            }
            this.ask();
            while let Poll::Ready(Some(answers)) = this.asked.poll_next_unpin(cx) {
                this.in_asked -= answers.len();
                this.due.extend(answers);
            }
        }
        match this.due.pop_front() {
            Some(PendingReply::Now(answer)) => Poll::Ready(Some(Ok(answer))),
            Some(PendingReply::Later(mut later)) => match later.poll_unpin(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(Ok(answer.unwrap_or_else(|_| unanswered(&this.id))))),
                Poll::Pending => {
                    this.due.push_front(PendingReply::Later(later));
                    Poll::Pending
                }
            },
            None => match &mut this.requests {
                Incoming::Ended(status) if this.in_asked == 0 => Poll::Ready(status.take().map(Err)),
                _ => Poll::Pending,
            },
        }
    }
}

fn answer_with(judged: Result<Verdict, Error>, id: &RequestId) -> Reply {
    judged.map_or_else(|error| failure(error, id), Reply::Verdict)
}

/// Only a fault of ours leads here, which has been logged.
fn unanswered(id: &RequestId) -> Reply {
    failure(Error::Internal("a request of a stream was not answered".to_owned()), id)
}

/// An error, as an answer among others.
fn failure(error: Error, id: &RequestId) -> Reply {
    let status = status::of(error, id);
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    Reply::Failure(pb::Failure {
        code: status.code().into(),
        reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        retry_after: retry.and_then(|delay| prost_types::Duration::try_from(delay).ok()),
    })
}
