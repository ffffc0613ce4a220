//! The body of a request over HTTP/1.1 or HTTP/2.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

type BodyError = Box<dyn Error + Send + Sync>;
type Polled<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

/// The body of a request.
pub struct IncomingBody(Source);

enum Source {
    Http1(Incoming),
    Http2(Http2Body),
}

struct Http2Body {
    stream: RecvStream,
    data_ended: bool,
    /// Frames that were read by [`IncomingBody::take_whole`] and are to be read again.
    ahead: Vec<Result<Frame<Bytes>, h2::Error>>,
}

impl IncomingBody {
    pub(super) const fn http1(body: Incoming) -> Self {
        Self(Source::Http1(body))
    }

    pub(super) const fn http2(stream: RecvStream) -> Self {
        Self(Source::Http2(Http2Body { stream, data_ended: false, ahead: Vec::new() }))
    }

    /// Returns the data of the body if all of it has arrived, as nearly always together with the headers, in one frame
    /// and without trailers. Otherwise the body can be read as if nothing had been read. Does nothing for HTTP/1.1.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        let Source::Http2(body) = &mut self.0 else { return None };
        // Whoever reads the body later registers its own waker.
        let mut cx = Context::from_waker(Waker::noop());
        let first = match body.poll_stream(&mut cx) {
            Poll::Ready(Some(first)) => first,
            Poll::Ready(None) | Poll::Pending => return None,
        };
        if first.as_ref().is_ok_and(Frame::is_data) {
            let is_end = body.stream.is_end_stream();
            let second = if is_end { Poll::Ready(None) } else { body.poll_stream(&mut cx) };
            match second {
                Poll::Ready(None) => return first.ok()?.into_data().ok(),
                Poll::Ready(Some(second)) => body.ahead.extend([first, second]),
                Poll::Pending => body.ahead.push(first),
            }
        } else {
            body.ahead.push(first);
        }
        None
    }

    /// Undoes [`Self::take_whole`].
    pub(super) fn put_back(&mut self, data: Bytes) {
        if let Source::Http2(body) = &mut self.0 {
            body.ahead.push(Ok(Frame::data(data)));
        }
    }
}

impl Http2Body {
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Polled<h2::Error> {
        // A reset without an error ends the body early.
        let end = |error: h2::Error| (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error));
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let released = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(released.map(|()| Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(end(error)),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(end(error)),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled<h2::Error> {
        if self.ahead.is_empty() {
            return self.poll_stream(cx);
        }
        Poll::Ready(Some(self.ahead.remove(0)))
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<BodyError> {
        match &mut self.0 {
            Source::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Http2(body) => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Http1(body) => body.is_end_stream(),
            Source::Http2(body) => body.ahead.is_empty() && body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Http1(body) => body.size_hint(),
            Source::Http2(_) => SizeHint::default(),
        }
    }
}
