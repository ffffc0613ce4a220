//! `ValidateStream`: many verdicts over one stream, in the order of the requests.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use http::HeaderMap;
use http_body::Frame;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming, body::Body, codegen::StdError};
use tonic_types::StatusExt as _;
use tower::service_fn;

use super::{
    HEADERS,
    codec::{self, Reply, ValidateCodec},
    grpc, lookup,
    messages::Messages,
    request::TokenRequest,
};
use crate::{
    domain::{
        Engine, Error,
        metrics::Surface,
        validate::{Judged, Lookup, PendingVerdict, Round, Verdict},
    },
    grpc::{codec::YIELD_THRESHOLD, pb, request_id::RequestId, status},
};

/// Maximum number of requests of a stream in progress. Beyond it, the stream is not read until replies have been sent.
/// So the requests of a client that does not read its replies do not pile up.
const IN_FLIGHT: usize = 256;

/// Answers a request that has passed the access check.
pub(in crate::grpc) async fn stream<B>(
    engine: &Arc<Engine>,
    id: RequestId,
    request: http::Request<B>,
) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    if !request.headers().contains_key("grpc-encoding") {
        let (head, body) = request.into_parts();
        let requests = Requests::Plain(Messages::new(Body::new(body)));
        let verdicts = VerdictStream::new(Arc::clone(engine), head.headers, id, requests);
        let mut response = http::Response::new(Body::new(VerdictBody::new(verdicts)));
        *response.headers_mut() = HEADERS.clone();
        return response;
    }
    // The library decodes what may be compressed.
    let validate = service_fn(async |request: tonic::Request<Streaming<TokenRequest>>| {
        let (metadata, _, requests) = request.into_parts();
        let requests = Requests::Compressed(Box::new(requests));
        let verdicts = VerdictStream::new(Arc::clone(engine), metadata.into_headers(), id.clone(), requests);
        Ok::<_, Status>(tonic::Response::new(verdicts))
    });
    grpc(ValidateCodec).streaming(validate, request).await
}

/// The body of the response: encodes all replies that are ready into one piece.
///
/// The requests that have been received when the body is polled share a [`Round`]. The body of the library could not
/// tell which they are, because it asks for one reply at a time.
struct VerdictBody {
    verdicts: VerdictStream,
    /// The size of the latest piece, as a guess for the next. An idle stream holds no buffer.
    latest: usize,
    /// The status of the stream, once there are no more replies.
    end: Option<Status>,
    has_ended: bool,
}

impl VerdictBody {
    const fn new(verdicts: VerdictStream) -> Self {
        Self { verdicts, latest: 0, end: None, has_ended: false }
    }
}

impl http_body::Body for VerdictBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let mut buffer = Vec::new();
        if this.end.is_none() && !this.has_ended {
            let engine = Arc::clone(&this.verdicts.engine);
            let round = engine.round();
            while buffer.len() < YIELD_THRESHOLD {
                match this.verdicts.poll_reply(&round, cx) {
                    Poll::Ready(Some(Ok(reply))) => {
                        if buffer.capacity() == 0 {
                            buffer.reserve(this.latest);
                        }
                        count(&engine, &reply);
                        codec::append_message(reply, &mut buffer);
                    }
                    Poll::Ready(end) => {
                        this.end = Some(end.and_then(Result::err).unwrap_or_else(|| Status::ok("")));
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        if !buffer.is_empty() {
            this.latest = buffer.len();
            return Poll::Ready(Some(Ok(Frame::data(buffer.into()))));
        }
        if let Some(status) = this.end.take() {
            this.has_ended = true;
            let mut trailers = HeaderMap::new();
            let added = status.add_header(&mut trailers);
            return Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))));
        }
        if this.has_ended { Poll::Ready(None) } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

/// The replies. Replies from memory are sent at once. The other requests are resolved by one read of the store for all
/// that have arrived by the time that no further request is ready.
struct VerdictStream {
    engine: Arc<Engine>,
    /// The metadata of the stream, with the token of requests that carry none.
    metadata: HeaderMap,
    id: RequestId,
    requests: Incoming,
    /// Requests that were read and are not resolved yet.
    batch: Batch,
    /// Batches that are being resolved.
    resolving: FuturesOrdered<BoxFuture<'static, VecDeque<PendingReply>>>,
    /// The number of requests in `resolving`.
    in_resolving: usize,
    /// Replies to be sent next.
    ready: VecDeque<PendingReply>,
}

/// The messages of the client.
enum Requests {
    Plain(Messages),
    Compressed(Box<Streaming<TokenRequest>>),
}

impl Requests {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<TokenRequest, Status>>> {
        match self {
            Self::Plain(messages) => messages.poll_next(cx).map(|message| {
                message.map(|message| TokenRequest::parse(message?).map_err(|_| status::undecodable()))
            }),
            Self::Compressed(requests) => requests.poll_next_unpin(cx).map_err(status::from_decode_error),
        }
    }
}

/// The requests of the client.
enum Incoming {
    Open(Requests),
    /// The client sends no more. The replies end with this status.
    Ended(Option<Status>),
}

/// Requests that have arrived together.
#[derive(Default)]
struct Batch {
    /// A reply for each request; `None` where the store has to be read.
    replies: Vec<Option<Reply>>,
    /// The requests without a reply, in order.
    pending: Vec<PendingVerdict>,
}

/// A reply whose turn to be sent comes.
enum PendingReply {
    Ready(Reply),
    /// A write has to be completed first. Later requests are resolved meanwhile.
    Writing(AbortOnDropHandle<Reply>),
}

impl VerdictStream {
    fn new(engine: Arc<Engine>, metadata: HeaderMap, id: RequestId, requests: Requests) -> Self {
        Self {
            engine,
            metadata,
            id,
            requests: Incoming::Open(requests),
            batch: Batch::default(),
            resolving: FuturesOrdered::new(),
            in_resolving: 0,
            ready: VecDeque::new(),
        }
    }

    /// Reads the requests that have arrived. Returns the reply to one that memory can answer if none is before it.
    fn read(&mut self, round: &Round<'_>, cx: &mut Context<'_>) -> Option<Reply> {
        while let Incoming::Open(requests) = &mut self.requests {
            let in_flight = self.ready.len() + self.in_resolving + self.batch.replies.len();
            if in_flight >= IN_FLIGHT {
                break;
            }
            let request = match requests.poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => request,
                Poll::Ready(end) => {
                    self.requests = Incoming::Ended(end.and_then(Result::err));
                    break;
                }
                Poll::Pending => break,
            };
            let reply = match lookup(round, &self.metadata, &request) {
                Ok(Lookup::Hit(verdict)) => Reply::Verdict(verdict),
                Ok(Lookup::Miss(pending)) => {
                    self.batch.replies.push(None);
                    self.batch.pending.push(pending);
                    continue;
                }
                Err(violation) => failure(&self.engine, Error::Invalid(violation), &self.id),
            };
            if in_flight == 0 {
                return Some(reply);
            }
            self.batch.replies.push(Some(reply));
        }
        None
    }

    /// Returns the next reply. All requests that are read have been received before `round` began.
    fn poll_reply(&mut self, round: &Round<'_>, cx: &mut Context<'_>) -> Poll<Option<Result<Reply, Status>>> {
        let this = self;
        // Replies that are ready go first: requests read in between would be resolved by themselves.
        if matches!(this.ready.front(), None | Some(PendingReply::Writing(_))) {
            if let Some(reply) = this.read(round, cx) {
                return Poll::Ready(Some(Ok(reply)));
            }
            this.resolve();
            while let Poll::Ready(Some(replies)) = this.resolving.poll_next_unpin(cx) {
                this.in_resolving -= replies.len();
                this.ready.extend(replies);
            }
        }
        match this.ready.pop_front() {
            Some(PendingReply::Ready(reply)) => Poll::Ready(Some(Ok(reply))),
            Some(PendingReply::Writing(mut writing)) => match writing.poll_unpin(cx) {
                Poll::Ready(reply) => {
                    Poll::Ready(Some(Ok(reply.unwrap_or_else(|_| unanswered(&this.engine, &this.id)))))
                }
                Poll::Pending => {
                    this.ready.push_front(PendingReply::Writing(writing));
                    Poll::Pending
                }
            },
            None => match &mut this.requests {
                Incoming::Ended(status) if this.in_resolving == 0 => Poll::Ready(status.take().map(Err)),
                _ => Poll::Pending,
            },
        }
    }

    /// Begins to resolve what has been read.
    fn resolve(&mut self) {
        let batch = mem::take(&mut self.batch);
        if batch.replies.is_empty() {
            return;
        }
        self.in_resolving += batch.replies.len();
        self.resolving.push_back(Box::pin(batch.resolve(Arc::clone(&self.engine), self.id.clone())));
    }
}

impl Batch {
    async fn resolve(self, engine: Arc<Engine>, id: RequestId) -> VecDeque<PendingReply> {
        let mut resolved = engine.resolve_all(self.pending).await.into_iter();
        let mut reply = |known: Option<Reply>| {
            if let Some(reply) = known {
                return PendingReply::Ready(reply);
            }
            match resolved.next() {
                Some(Ok(Judged::Done(verdict))) => PendingReply::Ready(Reply::Verdict(verdict)),
                Some(Err(error)) => PendingReply::Ready(failure(&engine, error, &id)),
                Some(Ok(Judged::NeedsWrite(pending))) => {
                    let (engine, id) = (Arc::clone(&engine), id.clone());
                    let completed = async move { reply_with(&engine, engine.complete(*pending).await, &id) };
                    PendingReply::Writing(AbortOnDropHandle::new(tokio::spawn(completed)))
                }
                None => PendingReply::Ready(unanswered(&engine, &id)),
            }
        };
        self.replies.into_iter().map(&mut reply).collect()
    }
}

impl Stream for VerdictStream {
    type Item = Result<Reply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let engine = Arc::clone(&self.engine);
        let reply = self.poll_reply(&engine.round(), cx);
        if let Poll::Ready(Some(Ok(reply))) = &reply {
            count(&engine, reply);
        }
        reply
    }
}

/// Counts a verdict that is sent. Errors are counted where they occur.
fn count(engine: &Engine, reply: &Reply) {
    if let Reply::Verdict(verdict) = reply {
        engine.metrics().verdicts.count(Surface::Stream, verdict);
    }
}

fn reply_with(engine: &Engine, verdict: Result<Verdict, Error>, id: &RequestId) -> Reply {
    verdict.map_or_else(|error| failure(engine, error, id), Reply::Verdict)
}

/// The reply where a request was lost by a bug of this server, which has been logged.
fn unanswered(engine: &Engine, id: &RequestId) -> Reply {
    failure(engine, Error::Internal("a request of a stream was not answered".to_owned()), id)
}

/// An error as one reply among others.
fn failure(engine: &Engine, error: Error, id: &RequestId) -> Reply {
    engine.metrics().verdict_errors.count(Surface::Stream, &error);
    let status = status::from_error(error, id);
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    Reply::Failure(pb::Failure {
        code: status.code().into(),
        reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        retry_after: retry.and_then(|delay| prost_types::Duration::try_from(delay).ok()),
    })
}
