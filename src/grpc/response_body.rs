//! The body of a response: its panics end it with INTERNAL, and a stream ends with its connection.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Code, Status, body::Body};

use super::{request_id::RequestId, status};
use crate::{
    admission::{Connection, Permit},
    isolation::panics::{self, Panic},
    metrics::rpc::CallMeter,
};

/// A body that can be ended with a status before its end.
pub struct ResponseBody {
    body: Body,
    id: Option<RequestId>,
    stream: Option<Box<OpenStream>>,
    ended: bool,
}

/// A stream that stays open until something happens, such as a health Watch. It would hold up a shutdown for the whole
/// grace, so it ends with UNAVAILABLE when its connection is about to be closed.
struct OpenStream {
    connection: Arc<Connection>,
    /// Created when the body is first pending.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Counts the stream while it is open.
    _permit: Permit<Arc<Connection>>,
}

impl ResponseBody {
    /// The body of the response to the request with this id, where the id is known.
    pub(crate) const fn new(body: Body, id: Option<RequestId>) -> Self {
        Self { body, id, stream: None, ended: false }
    }

    /// The body of a stream, which is counted by `permit`.
    pub(super) fn stream(
        body: Body,
        id: RequestId,
        connection: &Arc<Connection>,
        permit: Permit<Arc<Connection>>,
    ) -> Self {
        let stream = OpenStream { connection: Arc::clone(connection), closing: None, _permit: permit };
        Self { stream: Some(Box::new(stream)), ..Self::new(body, Some(id)) }
    }

    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(status.add_header(&mut trailers).ok().map(|()| Ok(Frame::trailers(trailers))))
    }
}

/// Returns the response to a request during which the dispatcher itself panicked.
pub(crate) fn panicked(panic: &Panic) -> Response<ResponseBody> {
    status::panicked(panic, None).into_http().map(|body| ResponseBody::new(body, None))
}

impl OpenStream {
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = || Box::pin(self.connection.closing().clone().cancelled_owned());
        self.closing.get_or_insert_with(closing).as_mut().poll(cx)
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match panics::catch(|| Pin::new(&mut self.body).poll_frame(cx)) {
            Ok(Poll::Ready(frame)) => Poll::Ready(frame),
            Ok(Poll::Pending) => {
                let Some(stream) = &mut self.stream else { return Poll::Pending };
                ready!(stream.poll_closing(cx));
                self.end(&status::shutting_down())
            }
            Err(panic) => {
                // The rest of the body is of no use, and dropping it may panic, too.
                let rest = mem::take(&mut self.body);
                let _ = panics::catch(|| drop(rest));
                let status = status::panicked(&panic, self.id.take());
                self.end(&status)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a stream whose call is counted when it ends.
pub(super) struct MeasuredBody {
    body: Body,
    meter: Option<CallMeter>,
}

impl MeasuredBody {
    pub(super) const fn new(body: Body, meter: CallMeter) -> Self {
        Self { body, meter: Some(meter) }
    }
}

impl HttpBody for MeasuredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let code = match &frame {
            Some(Ok(frame)) => {
                frame.trailers_ref().and_then(Status::from_header_map).map(|status| status.code())
            }
            Some(Err(status)) => Some(status.code()),
            None => Some(Code::Unknown),
        };
        if let Some(code) = code
            && let Some(meter) = self.meter.take()
        {
            meter.handled(code.into());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
